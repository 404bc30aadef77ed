"""Puts a trained student and its data set into an index, and changes what an index holds.

  dlkd index build --workdir=runs/custom --data_dir=data --videos=films
  dlkd index build --data_dir=data --clip=DIR             without a training: the teacher alone
  dlkd index add --update --prune                         what is new in the data set
  dlkd index accelerate                                   two stages for a small index, too

The other commands are `dlkd info`, `dlkd remove` and `dlkd tune`; `dlkd index COMMAND --help` has the
options of each. Stopped or killed, the same command goes on; what is searched meanwhile is the index as
it was before.
"""

import dataclasses
import sys

from absl import flags

from dlkd_jax import doors
from dlkd_jax.errors import UserError

_INDEX = doors.DEFINE_index()
_WORKDIR = doors.DEFINE_path('workdir', None, 'build: work directory of a training; without, the teacher alone scores.')
_DATA_DIR = doors.DEFINE_path('data_dir', None, "Folder of data sets; default: the training's, or the index's.")
_DATASET = flags.DEFINE_string(
  'dataset', None, "Name of the data set; default: the index's, or the training's, or custom_prvr."
)
_SPLITS = flags.DEFINE_list('splits', None, 'Splits whose videos are taken, as test,gallery; default: all.')
_SPLIT = flags.DEFINE_string('split', 'val', 'tune: split whose captions are searched among its videos.')
_VIDEOS = doors.DEFINE_path('videos', None, "Folder of the video files, to play them; a video's id is its path there.")
_METADATA = doors.DEFINE_path(
  'metadata', None, 'JSON lines on videos, as {"video": "lake.mp4", "title": "At the lake", "year": 2021}.'
)
_CLIP = flags.DEFINE_string(
  'clip',
  None,
  'The CLIP that the data set was extracted with, a folder or hf:OWNER/NAME, where the set does not say it.',
)
_SCORERS = flags.DEFINE_list(
  'scorers', None, 'build: some of the branches of the student and teacher; default: all there are.'
)
_WEIGHTS = flags.DEFINE_string('weights', None, "build: the search's default, as BRANCH=0.7,teacher=0.3.")
_DTYPE = flags.DEFINE_enum('dtype', 'float16', ['float16', 'int8'], 'build: how frames are stored; int8 takes half.')
_LONG = flags.DEFINE_enum(
  'long_videos',
  'windows',
  ['windows', 'resample'],
  "build: videos with more frames than the student's max_frames are encoded in windows that overlap, or averaged.",
)
_SEGMENT_FRAMES = flags.DEFINE_integer(
  'segment_frames', 1 << 18, 'build, add: frames after which what is done is put into the index.'
)
_UPDATE = flags.DEFINE_bool('update', False, 'add: take anew the videos whose film, captions or metadata changed.')
_PRUNE = flags.DEFINE_bool('prune', False, 'add: remove the videos whose film or record is not there any more.')
_AGAIN = flags.DEFINE_bool('again', False, 'add: take the videos, too, that were removed from the index before.')
_COMPACT = flags.DEFINE_bool('compact', False, 'remove: write the index anew without what was removed.')
_WHERE = flags.DEFINE_multi_string('where', [], 'remove: which videos, as year<2000; several conditions have to hold.')
_ENGINE = flags.DEFINE_string(
  'engine',
  None,
  'accelerate: lancedb, or lancedb:ADDRESS of a folder, s3://, gs://, az:// or db://, names candidates in place of '
  'compressed frames in memory; none: no longer.',
)
_VERIFY = flags.DEFINE_bool('verify', False, 'info: read every file and compare its check sum.')
_CAPTIONS = flags.DEFINE_bool('captions', False, 'info: list the captions that came with the videos.')
_JSON = flags.DEFINE_bool('json', False, 'info, tune: print JSON.')


def _collection(dataset, data_dir, splits=None):
  from dlkd_jax.gallery.collection import Collection

  if not (_DATASET.value or dataset):
    raise UserError('this index was made of films, not of a data set: `dlkd add` brings it into step with them')
  return Collection.open(_DATA_DIR.value or data_dir, _DATASET.value or dataset, splits or _SPLITS.value)


def _with_progress(collection, work):
  """Runs `work(step)`, which calls `step` for each video."""
  from dlkd_jax.progress import Progress

  with Progress(len(collection), 'videos') as bar:
    return work(bar.step)


def _build(names):
  """Makes an index of the records of a data set, for a trained student or for the teacher alone.

    dlkd index build --workdir=runs/custom --data_dir=data --videos=films
    dlkd index build --data_dir=data --clip=DIR             the teacher alone scores

  It takes the best checkpoint of --workdir and the records of a data set, as `dlkd extract` or `dlkd build`
  made it. The index holds all that a search needs but the CLIP, which is looked for where --clip said.
  """
  from dlkd_jax.gallery import building, index_text, runs, weights
  from dlkd_jax.gallery.collection import Knowledge

  index = _INDEX.value
  workdir = _WORKDIR.value
  dataset, data_dir = 'custom_prvr', 'data'
  if workdir is not None:
    data = runs.read_config(workdir).data
    dataset, data_dir = data.dataset, data.data_dir
  collection = _collection(dataset, data_dir)
  settings = building.IndexSettings(
    scorers=_SCORERS.value,
    dtype=_DTYPE.value,
    long_videos=_LONG.value,
    weights=weights.parse(_WEIGHTS.value) if _WEIGHTS.value else None,
    clip=_CLIP.value,
  )
  knowledge = Knowledge.read(_VIDEOS.value, _METADATA.value)
  done = _with_progress(
    collection,
    lambda step: building.build(index, collection, workdir, settings, knowledge, _SEGMENT_FRAMES.value, step),
  )
  print(index_text.describe_addition(done, str(index)))


def _add(names):
  """Adds what is new in the data set of an index.

    dlkd index add
    dlkd index add --update --prune

  Films and metadata are looked for where they were before, unless it is told otherwise. It names what
  changed since it was indexed (--update takes it anew), whose film or record went (--prune removes it),
  and what was removed before (--again takes it back).
  """
  from dlkd_jax.gallery import building, index_text
  from dlkd_jax.gallery.collection import Knowledge
  from dlkd_jax.gallery.index_folder import IndexFolder

  index = _INDEX.value
  made = IndexFolder.open(index).manifest['settings']
  collection = _collection(made.get('dataset'), made.get('data_dir'))
  knowledge = Knowledge.read(_VIDEOS.value, _METADATA.value)
  done = _with_progress(
    collection,
    lambda step: building.add(
      index,
      collection,
      knowledge,
      _SEGMENT_FRAMES.value,
      step,
      update=_UPDATE.value,
      prune=_PRUNE.value,
      again=_AGAIN.value,
    ),
  )
  print(index_text.describe_addition(done, str(index)))


def _remove(names):
  """Takes films out of an index.

    dlkd remove lake.mp4 holiday/beach.mp4
    dlkd remove --where="year<2000" --compact

  They are not found any more at once; their frames stay on disk until --compact. `dlkd index add` leaves
  them out, unless it is told --again. The exit code is 1 where nothing was there of what was to be removed.
  """
  import numpy as np

  from dlkd_jax.gallery import building, filters
  from dlkd_jax.gallery.catalog import Catalog
  from dlkd_jax.gallery.index_folder import IndexFolder

  index = _INDEX.value
  if not names and not _WHERE.value and not _COMPACT.value:
    raise UserError('say what is to be removed: ids of videos, or --where=key=value')
  code = 0
  if names or _WHERE.value:
    catalog = Catalog.open(IndexFolder.open(index))
    known, keep = catalog.videos, filters.parse(_WHERE.value)
    # The catalog answers for all videos at once; asked of one entry after another, the filter makes a table of each.
    passing = {entry.video_id for entry in catalog.entries(np.flatnonzero(catalog.select(keep.sql, keep.parameters)))}
    chosen = passing & set(names) if names else passing
    gone = building.remove(index, lambda entry: entry.video_id in chosen)
    there = [name for name in dict.fromkeys(names) if name in known]
    if absent := [name for name in dict.fromkeys(names) if name not in known]:
      print(f'not in the index: {", ".join(absent)}', file=sys.stderr)
    if kept := [name for name in there if name not in gone]:
      print(f'not removed, for --where is not true of them: {", ".join(kept)}', file=sys.stderr)
    print(f'{len(gone):,} videos removed from {index}')
    code = 0 if gone else 1  # Something was asked for, and nothing done.
  if _COMPACT.value:
    print(f'{building.compact(index) / 2**20:,.1f} MiB freed')
  return code


def _info(names):
  """Shows what an index holds.

    dlkd info
    dlkd info --verify         every file is read, and its check sum compared
    dlkd info --captions       ids of captions, for search --caption

  Nothing is changed. With --json other programs can read it.
  """
  from dlkd_jax.gallery import index_text
  from dlkd_jax.gallery.catalog import Catalog
  from dlkd_jax.gallery.index_folder import IndexFolder

  index = _INDEX.value
  folder = IndexFolder.open(index)
  summary = index_text.summarize(folder)
  if _VERIFY.value:
    folder.verify()
  if _CAPTIONS.value:
    captions = Catalog.open(folder).captions_by_id.values()
    if _JSON.value:
      doors.print_json([dataclasses.asdict(caption) for caption in captions], indent=2)
    else:
      for caption in captions:
        print(f'{caption.caption_id}\t{caption.text}')
  elif _JSON.value:
    doors.print_json(summary, indent=2)
  else:
    print(index_text.describe_index(summary, str(index)))
    if _VERIFY.value:
      print('every file is what was written')


def _tune(names):
  """Chooses the weight of the teacher that finds most captions of a split, and prints the others.

    dlkd tune --data_dir=data --split=val

  The index is changed: what is searched from here on is weighed so. Choose on a split that no result is
  reported of.
  """
  from dlkd_jax.gallery import tuning
  from dlkd_jax.gallery.index_folder import IndexFolder

  index = _INDEX.value
  made = IndexFolder.open(index).manifest['settings']
  # An index of films was made of no data set; one with captions says what finds most in it all the same.
  collection = _collection(made.get('dataset') or 'custom_prvr', made.get('data_dir') or 'data', [_SPLIT.value])
  curve = tuning.tune(index, collection)
  if _JSON.value:
    doors.print_json(curve.to_json(), indent=2)
  else:
    print(tuning.describe(curve, str(index)))


def _accelerate(names):
  """Prepares an index for searching in two stages.

    dlkd index accelerate
    dlkd index accelerate --engine=lancedb:s3://bucket/films

  Large indexes are prepared as they grow; this is for --two_stage in a small one, and for older ones. With --engine the
  frames are copied into LanceDB, which names the candidates; the same command without it brings what is new there.
  """
  from dlkd_jax.gallery import acceleration

  done = acceleration.accelerate(_INDEX.value, _ENGINE.value)
  print(f'{done} segments of {_INDEX.value} prepared for searching in two stages')


_COMMANDS = {
  'build': doors.Command(
    _build,
    [
      *(_WORKDIR, _DATA_DIR, _DATASET, _SPLITS, _VIDEOS, _METADATA, _CLIP, _SCORERS, _WEIGHTS, _DTYPE, _LONG),
      _SEGMENT_FRAMES,
    ],
  ),
  'add': doors.Command(
    _add, [_DATA_DIR, _DATASET, _SPLITS, _VIDEOS, _METADATA, _SEGMENT_FRAMES, _UPDATE, _PRUNE, _AGAIN]
  ),
  'remove': doors.Command(_remove, [_WHERE, _COMPACT], 'VIDEO…'),
  'info': doors.Command(_info, [_VERIFY, _CAPTIONS, _JSON]),
  'tune': doors.Command(_tune, [_DATA_DIR, _DATASET, _SPLIT, _JSON]),
  'accelerate': doors.Command(_accelerate, [_ENGINE]),
}


if __name__ == '__main__':
  doors.run(_COMMANDS, stopped='stopped: the index is whole; the same command goes on')
