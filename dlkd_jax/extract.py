"""Makes a data set of your own films: features of their pictures and captions, packed for training.

  dlkd extract --videos=films --captions=captions.jsonl --clip=clip-vit-base-patch32 --data_dir=data
  dlkd extract --videos=films --clip=hf:google/siglip2-base-patch16-224 --data_dir=data    a gallery

Captions are JSON, one a line; start and end (seconds) and split (train, val, test) may be left out:

  {"video": "lake.mp4", "text": "a dog jumps into a lake", "start": 12.5, "end": 17.0, "split": "test"}

The same command goes on where it was stopped, and adds videos that are new; with --update it takes those
anew that changed. It ends with an account of every file; the exit code is 1 where no video could be
extracted. For a search alone, `dlkd add` needs no data set.
"""

from absl import flags

from dlkd_jax import doors
from dlkd_jax.errors import UserError

_VIDEOS = doors.DEFINE_path('videos', None, 'Folder of the videos, and of folders of them.')
_CAPTIONS = doors.DEFINE_path('captions', None, 'JSON lines of captions; without it, a gallery that is only searched.')
_CLIP = flags.DEFINE_string(
  'clip', None, 'The teacher: a folder of a CLIP or SigLIP in the Hugging Face format, or hf:OWNER/NAME.'
)
_DATA_DIR = doors.DEFINE_path('data_dir', None, 'Folder of data sets; this one is custom_prvr below it.')
_TEACHER = flags.DEFINE_string('teacher', None, 'Backbone of the teacher; default clip:<--clip>, or none.')
_STUDENT = flags.DEFINE_string(
  'student',
  None,
  "Backbone of the student's frames: clip:MODEL, clip:MODEL@layer=-2, efficientnet_lite0:FILE.safetensors, "
  'resnet152:FILE.safetensors, i3d:FILE.safetensors@pictures=16,rate=25 (pictures around each time), motion, '
  'statistics (no weights); several joined by +. Default: --clip before its last block; without it, and in sets that '
  'were begun so: statistics.',
)
_TOKENS = flags.DEFINE_string(
  'tokens',
  None,
  'Backbone of the caption tokens: clip:MODEL, hf:roberta-large@layer=-2, bert:DIR, minilm, words:256 (no weights). '
  'Default: --clip; without it, and in sets that were begun so: words:256.',
)
_RATE = flags.DEFINE_float('rate', 1.0, 'Pictures a second.')
_MAX_SIDE = flags.DEFINE_integer(
  'max_side',
  None,
  'Shrink larger pictures to this many pixels while they are decoded; 0: not at all. Default: 1024, or as the videos '
  'of the set were before.',
  lower_bound=0,
)
_BATCH = flags.DEFINE_integer(
  'batch', 32, 'Most pictures a backbone is given at once; those around a time count one by one.', lower_bound=1
)
_READERS = flags.DEFINE_integer('readers', None, 'Videos decoded at the same time; default: up to 4.', lower_bound=1)
_DTYPE = flags.DEFINE_enum('dtype', 'float16', ['float16', 'float32'], 'Type that the features are stored in.')
_KEEP_PIXELS = flags.DEFINE_bool(
  'keep_pixels', False, 'Keep the pictures that the teacher saw: 147 KiB a picture at 224 pixels, and as much memory.'
)
_RELEASE_LAYOUT = doors.DEFINE_path(
  'release_layout',
  None,
  "Write the whole set in the layout of the method's release, too, for other programs: <root>/<collection>.",
)
_UPDATE = flags.DEFINE_bool('update', False, 'Take videos anew that changed, or whose captions or splits did.')
_SETTLE_SECONDS = flags.DEFINE_float(
  'settle_seconds', 60.0, 'A younger video that grows or is not whole waits for the next run.', lower_bound=0
)


def _request():
  from dlkd_jax.video import extraction

  teacher = _TEACHER.value or (f'clip:{_CLIP.value}' if _CLIP.value else None)
  if teacher is None:
    raise UserError(
      'there is no teacher: give --clip=DIR or --clip=hf:OWNER/NAME, or --teacher=none for a set without one'
    )
  return extraction.Request(
    videos=_VIDEOS.value,
    data_dir=_DATA_DIR.value,
    captions=_CAPTIONS.value,
    teacher=None if teacher == 'none' else teacher,
    student=_STUDENT.value,
    tokens=_TOKENS.value,
    rate=_RATE.value,
    max_side=_MAX_SIDE.value,
    batch=_BATCH.value,
    dtype=_DTYPE.value,
    keep_pixels=_KEEP_PIXELS.value,
    update=_UPDATE.value,
    release_layout=_RELEASE_LAYOUT.value,
    settle_seconds=_SETTLE_SECONDS.value,
    **({'readers': _READERS.value} if _READERS.value else {}),
  )


def main(names):
  """Extracts, packs and reports."""
  # Imported here, so that --help answers at once.
  from dlkd_jax import allocation
  from dlkd_jax.video import extraction

  allocation.give_back_large_blocks()
  result = extraction.extract(_request())
  print(result.outcomes)
  print(f'every file: {result.report_file}')
  if result.builder is None:
    raise UserError('no video could be extracted')
  print(f'{result.builder.info.full_name}: {result.builder.data_dir}')
  print(result.builder.describe())
  if (folder := _RELEASE_LAYOUT.value) is not None:
    print(f'in the layout of the release: {folder}')


if __name__ == '__main__':
  doors.run(main, ['videos', 'data_dir'], stopped='stopped: what is extracted is kept; the same command goes on')
