"""Finds films, and when in them, by a sentence.

  dlkd search "a red square moves left"
  dlkd search "a dog" --top=5 --moments=3 --where="year>=2019" --threshold=0.4 --json
  dlkd search --queries=sentences.txt --json         a sentence a line
  dlkd search --caption="lake.mp4#0" --index=other   a caption that came with the videos
  dlkd search --picture=dog.jpg                      what looks like a picture
  dlkd search "in the snow" --like=lake.mp4@12.5     more like a moment, with these words
  dlkd search "a dog" --without="a ball"             a dog, but not a ball
  dlkd search "a dog" --moments=5 --edl > dogs.edl   the moments, for an editing program

Queries in a file may be JSON lines as well: {"text": "a dog"}, or {"caption": "lake.mp4#0"}, with any
"id", which the JSON output repeats. With --json one object a query is printed, one a line for several
queries. The exit code is 0 whether or not something was found.
"""

import dataclasses
import sys

from absl import flags

from dlkd_jax import doors, files, search_flags
from dlkd_jax.errors import UserError

_INDEX = doors.DEFINE_index()
_TOP = flags.DEFINE_integer('top', 10, 'Most hits a query.')
_MOMENTS = flags.DEFINE_integer('moments', 1, 'Most moments of a video.')
_WHERE = flags.DEFINE_multi_string(
  'where',
  [],
  'Videos that count, as "year>=2019 and (tag=lake or not folder=raw)"; signs are =, !=, <, <=, >, >=, ~ (holds the '
  "text) and in (…), texts may be 'quoted', dates are 2019-05-01. Several have to hold.",
)
_PICTURE = doors.DEFINE_path(
  'picture',
  None,
  'PNG, JPEG or WebP file that the frames are to look like, alone or with the sentence; the teacher scores.',
)
_LIKE = flags.DEFINE_string('like', None, 'VIDEO@SECONDS: more like this moment, alone or with the sentence.')
_WITHOUT = flags.DEFINE_multi_string('without', [], 'A sentence about what must not be there.')
_JSON = flags.DEFINE_bool('json', False, 'Print JSON.')
_CSV = flags.DEFINE_bool('csv', False, 'Print CSV, a line a moment, for spreadsheets.')
_EDL = flags.DEFINE_bool('edl', False, 'Print an EDL (CMX 3600): the moments as cuts and markers, for editors.')
_SCORING = search_flags.Scoring()
_TEXT_WEIGHT = flags.DEFINE_float(
  'text_weight', None, 'Weight of what subtitles, titles and metadata say, against the pictures; 0 leaves them out.'
)
_OFFSET = flags.DEFINE_integer('offset', 0, 'Hits to pass over: --offset=10 is the second page of ten.')
_FLAT = flags.DEFINE_bool(
  'flat', False, 'One line a moment, a video may come several times, instead of one line a video.'
)
_OWN = flags.DEFINE_bool('own', False, 'With --like: the video of that moment may be among the hits, too.')
_QUERIES = doors.DEFINE_path('queries', None, 'File of queries, one a line; - is the standard input.')
_CAPTION = flags.DEFINE_multi_string('caption', [], 'Id of a caption of the index to search with.')
_VIDEOS = doors.DEFINE_path('videos', None, 'Folder of the video files, where it has moved.')
_CURVE = flags.DEFINE_bool('curve', False, 'With --json: also the times of the frames and their scores.')


def _queries(sentences):
  """Returns the queries."""
  from dlkd_jax.gallery import pictures, queries
  from dlkd_jax.gallery.queries import Query

  more = {'without': tuple(_WITHOUT.value), 'own': _OWN.value}
  if _PICTURE.value:
    more['picture'] = queries.Picture(pictures.read_file(_PICTURE.value), _PICTURE.value.name)
  if _LIKE.value is not None:
    more['like'] = queries.moment_of(_LIKE.value, '--like')
  found = [Query(text, **more) for text in sentences] + [Query(caption=name, **more) for name in _CAPTION.value]
  if _QUERIES.value:
    stdin = str(_QUERIES.value) == '-'
    content = sys.stdin.buffer.read() if stdin else _QUERIES.value.read_bytes()
    origin = 'the standard input' if stdin else str(_QUERIES.value)
    found += [dataclasses.replace(each, **more) for each in queries.parse(files.decode(content, origin), origin)]
  if not found and ('picture' in more or 'like' in more):
    found = [Query(**more)]
  if not found:
    raise UserError(
      'there is no query: give a sentence, --queries=FILE, --caption=ID, --picture=FILE or --like=VIDEO@SECONDS'
    )
  return found


def _search(sentences):
  """Searches and prints."""
  from dlkd_jax.gallery import result_files, result_text
  from dlkd_jax.gallery.gallery import Gallery

  doors.keep_compiled()
  asked = _queries(sentences)
  if sum((_JSON.value, _CSV.value, _EDL.value)) > 1:
    raise UserError('--json, --csv and --edl contradict each other; give one of them')
  if _CURVE.value and not _JSON.value:
    raise UserError('--curve is a part of the JSON; give --json with it')
  gallery = Gallery.open(_INDEX.value, _SCORING.clip.value, _VIDEOS.value)
  options = {
    'top': _TOP.value,
    'offset': _OFFSET.value,
    'moments': _MOMENTS.value,
    'where': _WHERE.value or None,
    'flat': _FLAT.value,
    **_SCORING.options(),
  }
  if _TEXT_WEIGHT.value is not None:
    options['text_weight'] = _TEXT_WEIGHT.value
  results = gallery.search(asked, **options)
  if _CSV.value:
    print(result_files.to_csv(results, _OFFSET.value), end='')
    return
  if _EDL.value:
    print(result_files.to_edl(results, lambda hit: result_files.rate(hit.path)), end='')
    return
  for number, (query, result) in enumerate(zip(asked, results, strict=True)):
    if _JSON.value:
      content = result.to_json(_CURVE.value) | ({} if query.id is None else {'id': query.id})
      doors.print_json(content, indent=2 if len(asked) == 1 else None)
    else:
      print(('\n' if number else '') + result_text.describe(gallery, result, query, options))


if __name__ == '__main__':
  doors.run(_search, names='SENTENCE…')
