"""Results as files that other programs read: CSV of spreadsheets, and EDL of editing programs.

An EDL (CMX 3600) is a list of cuts: each moment is an event, taken out of its film and put behind the one before, with
the query as a marker (`LOC`). Timecodes are counted without dropped frames, from the beginning of the film, at the
frame rate of the first film; a marker of a film of another rate is right to a frame of that one.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

from dlkd_jax.gallery.results import Hit, Moment, SearchResult
from dlkd_jax.video.files import VideoError, open_video

COLUMNS = ('query', 'rank', 'video', 'title', 'moment', 'start', 'end', 'peak', 'score', 'video_score', 'duration')
_USUAL_RATE = Fraction(25)
# Spreadsheets take a text that begins so for a formula.
_FORMULA = ('=', '+', '-', '@', '\t', '\r')
_CONTROL = re.compile(r'[\x00-\x1f\x7f\x85\u2028\u2029]+')
_DAY = 24 * 3600
_TITLE, _COMMENT = 70, 120  # Characters that editing programs read.


def to_csv(results: Sequence[SearchResult], offset: int = 0) -> str:
  """Returns a line a moment under `COLUMNS`; seconds, and `rank` of the video from 1.

  No program takes a text in it for a formula: one that begins as such has an apostrophe before it.

  Args:
    results: of a search.
    offset: hits that were passed over.
  """
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\r\n')  # RFC 4180.
  writer.writerow(COLUMNS)
  for result in results:
    for rank, number, hit, moment in _moments(result):
      times = [f'{float(value):.3f}' for value in (moment.start, moment.end, moment.peak)]
      scores = [f'{float(value):.6f}' for value in (moment.score, hit.score)]
      lasts = '' if hit.duration is None else f'{float(hit.duration):.3f}'
      texts = [_cell(text) for text in (hit.video_id, hit.title)]
      writer.writerow([_cell(result.query), offset + rank, *texts, number, *times, *scores, lasts])
  return _printable(buffer.getvalue())


def to_edl(results: Sequence[SearchResult], rate_of: Callable[[Hit], Fraction | None]) -> str:
  """Returns an EDL of all moments, in the order of the results.

  Args:
    results: of a search.
    rate_of: frames a second of a hit's film; None where that is not known.
  """
  rates = (rate_of(hit) for result in results for hit in result.hits)
  rate = next((rate for rate in rates if rate), _USUAL_RATE)
  lines = [f'TITLE: {_line("; ".join(result.query for result in results), _TITLE)}', 'FCM: NON-DROP FRAME', '']
  at = event = 0
  for result in results:
    for _, _, hit, moment in _moments(result):
      event += 1
      first = round(moment.start * rate)
      frames = max(1, round(moment.end * rate) - first)
      times = ' '.join(_timecode(frame, rate) for frame in (first, first + frames, at, at + frames))
      name = _line(hit.path.replace('\\', '/').rpartition('/')[2] if hit.path else hit.video_id, _COMMENT)
      lines += [
        f'{event:03d}  AX       AA/V  C        {times}',
        f'* FROM CLIP NAME: {name}',
        f'* LOC: {_timecode(at, rate)} RED     {_line(result.query, _COMMENT)} ({moment.score:.3f})',
        '',
      ]
      at += frames
  return _printable('\n'.join(lines))


def rate(path: str | None) -> Fraction | None:
  """Returns the frames a second of a film on average; None where it cannot be read, or does not say."""
  if path is None:
    return None
  try:
    with open_video(path, threads=1) as video:
      found = video.stream.average_rate or video.stream.guessed_rate
  except VideoError:
    return None
  return Fraction(found) if found and 1 <= found <= 1000 else None


def _moments(result: SearchResult) -> Iterator[tuple[int, int, Hit, Moment]]:
  """Yields rank of the hit, number of the moment, and both."""
  for rank, hit in enumerate(result.hits, 1):
    for number, moment in enumerate(hit.moments, 1):
      yield rank, number, hit, moment


def _timecode(frame: int, rate: Fraction) -> str:
  second, part = divmod(frame, max(1, round(rate)))
  second %= _DAY
  return f'{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}:{part:02d}'


def _cell(text: str) -> str:
  return f"'{text}" if text.startswith(_FORMULA) else text


def _line(text: str, most: int) -> str:
  """A text that stays in its line."""
  return _CONTROL.sub(' ', text).strip()[:most] or '-'


def _printable(text: str) -> str:
  """Bytes of names that are no text, escaped."""
  return text.encode('utf-8', 'backslashreplace').decode('utf-8')
