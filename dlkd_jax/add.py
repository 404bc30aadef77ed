"""Puts folders of films into an index to search in, and keeps it in step with them.

  dlkd add films                                 makes the index, or brings it into step with the folder
  dlkd add films /mnt/holiday --clip=clip-vit-base-patch32
  dlkd add                                       the folders that the index knows
  dlkd add --prune                               and films go that are not there any more

It can be searched while it grows, a minute after the start. Stopped or killed, the same command goes on.
Films that are new, changed, renamed or moved are found by themselves, and a film that was renamed is not
encoded again. A broken film is named and left out, and tried again when it changes.
"""

import pathlib

from absl import flags

from dlkd_jax import doors, files

_INDEX = doors.DEFINE_index()
_CLIP = flags.DEFINE_string(
  'clip',
  None,
  'Model that sees films and reads sentences, CLIP or SigLIP: a folder or hf:OWNER/NAME; of a new index by default '
  'laion/CLIP-ViT-B-32-laion2B-s34B-b79K from the Hugging Face hub. An index keeps its model.',
)
_WORKDIR = doors.DEFINE_path(
  'workdir', None, 'Work directory of a training whose student scores, too; films are encoded as its data set was.'
)
_METADATA = doors.DEFINE_path(
  'metadata', None, 'JSON lines on films, as {"video": "lake.mp4", "title": "At the lake", "year": 2021}.'
)
_PRUNE = flags.DEFINE_bool('prune', False, 'Remove the films whose file is not there any more.')
_AGAIN = flags.DEFINE_bool('again', False, 'Take films, too, that were removed from the index; try broken ones again.')
_RATE = flags.DEFINE_float('rate', None, 'Pictures a second of a new index; default: 1.')
_DTYPE = flags.DEFINE_enum(
  'dtype', None, ['float16', 'int8'], 'How frames of a new index are stored: float16, or int8, which takes half.'
)
_WORKERS = flags.DEFINE_string(
  'workers',
  None,
  'So many workers of Ray on this machine read the films, or those of a cluster: auto, or HOST:PORT. All need the '
  'films and the index under the same paths.',
)


def main(names):
  """Adds, and says what became of the films."""
  from dlkd_jax import allocation
  from dlkd_jax.gallery import film_encoding, index_text, synchronising

  index = _INDEX.value
  request = synchronising.Request(
    folders=[pathlib.Path(files.expand(name)) for name in names],
    clip=_CLIP.value,
    workdir=_WORKDIR.value,
    rate=_RATE.value,
    metadata=_METADATA.value,
    dtype=_DTYPE.value,
    prune=_PRUNE.value,
    again=_AGAIN.value,
    workers=_WORKERS.value,
  )
  if request.folders and request.clip is None and request.workdir is None and synchronising.is_new(index):
    print(f'the model is {film_encoding.DEFAULT_CLIP}, 605 MB that are fetched once; --clip names another', flush=True)
  allocation.give_back_large_blocks()
  doors.keep_compiled()
  print(index_text.describe_films(synchronising.synchronise(index, request), str(index)))


if __name__ == '__main__':
  doors.run(main, names='FOLDER…', stopped='stopped: the index is whole; the same command goes on')
