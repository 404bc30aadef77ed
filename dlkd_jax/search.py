"""Finds films, and when in them, by a sentence.

  dlkd search "a red square moves left"
  dlkd search "a dog" --top=5 --moments=3 --where="year>=2019" --threshold=0.4 --json
  dlkd search --queries=sentences.txt --json         a sentence a line
  dlkd search --caption="lake.mp4#0" --index=other   a caption that came with the videos

Queries in a file may be JSON lines as well: {"text": "a dog"}, or {"caption": "lake.mp4#0"}, with any
"id", which the JSON output repeats. With --json one object a query is printed, one a line for several
queries. The exit code is 0 whether or not something was found.
"""

import sys

from absl import flags

from dlkd_jax import doors, files
from dlkd_jax.errors import UserError

_INDEX = doors.DEFINE_index()
_TOP = flags.DEFINE_integer('top', 10, 'Most hits a query.')
_OFFSET = flags.DEFINE_integer('offset', 0, 'Hits to pass over: --offset=10 is the second page of ten.')
_MOMENTS = flags.DEFINE_integer('moments', 1, 'Most moments of a video.')
_FLAT = flags.DEFINE_bool(
  'flat', False, 'One line a moment, a video may come several times, instead of one line a video.'
)
_THRESHOLD = flags.DEFINE_float('threshold', None, 'Least score of a hit.')
_WHERE = flags.DEFINE_multi_string(
  'where',
  [],
  'Videos that count, as "year>=2019 and (tag=lake or not folder=raw)"; signs are =, !=, <, <=, >, >=, ~ (holds the '
  "text) and in (…), texts may be 'quoted', dates are 2019-05-01. Several have to hold.",
)
_WEIGHTS = flags.DEFINE_string(
  'weights', None, "Weights of the scorers, as BRANCH=0.7,teacher=0.3; default: the index's."
)
_ZERO_SHOT = flags.DEFINE_bool('zero_shot', False, 'The teacher alone scores: --weights=teacher=1.')
_TWO_STAGE = flags.DEFINE_bool(
  'two_stage', False, 'Search an approximate index of the frames first; for large galleries.'
)
_QUERIES = doors.DEFINE_path('queries', None, 'File of queries, one a line; - is the standard input.')
_CAPTION = flags.DEFINE_multi_string('caption', [], 'Id of a caption of the index to search with.')
_CLIP = flags.DEFINE_string('clip', None, "The index's CLIP, a folder or hf:OWNER/NAME, where it has moved.")
_VIDEOS = doors.DEFINE_path('videos', None, 'Folder of the video files, where it has moved.')
_JSON = flags.DEFINE_bool('json', False, 'Print JSON.')
_CURVE = flags.DEFINE_bool('curve', False, 'With --json: also the times of the frames and their scores.')


def _queries(sentences):
  """Returns a list of ('text' or 'caption', its content, an id or None)."""
  found = [('text', sentence, None) for sentence in sentences] + [('caption', name, None) for name in _CAPTION.value]
  if _QUERIES.value:
    from dlkd_jax.gallery import queries

    stdin = str(_QUERIES.value) == '-'
    content = sys.stdin.buffer.read() if stdin else _QUERIES.value.read_bytes()
    origin = 'the standard input' if stdin else str(_QUERIES.value)
    found += queries.parse(files.decode(content, origin), origin)
  if not found:
    raise UserError('there is no query: give a sentence, --queries=FILE or --caption=ID')
  return found


def _search(sentences):
  """Searches and prints."""
  from dlkd_jax.gallery import queries, weights
  from dlkd_jax.gallery.gallery import Gallery

  doors.keep_compiled()
  asked = _queries(sentences)
  if _CURVE.value and not _JSON.value:
    raise UserError('--curve is a part of the JSON; give --json with it')
  if _ZERO_SHOT.value and _WEIGHTS.value:
    raise UserError('--zero_shot and --weights contradict each other; give one of them')
  chosen = weights.parse(_WEIGHTS.value) if _WEIGHTS.value else None
  gallery = Gallery.open(_INDEX.value, _CLIP.value, _VIDEOS.value)
  wishes = {
    'top': _TOP.value,
    'offset': _OFFSET.value,
    'moments': _MOMENTS.value,
    'weights': {'teacher': 1.0} if _ZERO_SHOT.value else chosen,
    'threshold': _THRESHOLD.value,
    'where': _WHERE.value or None,
    'exact': not _TWO_STAGE.value,
    'flat': _FLAT.value,
  }
  results = queries.search(gallery, asked, wishes)
  for number, ((_, _, name), result) in enumerate(zip(asked, results, strict=True)):
    if _JSON.value:
      content = result.to_json(_CURVE.value) | ({} if name is None else {'id': name})
      doors.print_json(content, indent=2 if len(asked) == 1 else None)
    else:
      print(('\n' if number else '') + queries.describe(gallery, result, asked[number], wishes))


if __name__ == '__main__':
  doors.run(_search, names='SENTENCE…')
