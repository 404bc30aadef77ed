"""What is said in a film: subtitles beside it and inside it, as plain sentences with their seconds.

Beside `lake.mp4` lie `lake.srt`, `lake.vtt`, or with a language `lake.en.srt`; inside are text tracks of mp4, mkv and
webm (mov_text, SubRip, WebVTT, ASS). Seconds are those that a player shows, as those of frames are. Files are what
anybody wrote: marks of style go, cues whose times make no sense are left out, and what cannot be read is no cue.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import html
import logging
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Iterator

from dlkd_jax.video import files

SUFFIXES = ('.srt', '.vtt')
# A film of ten hours has about 15,000 cues.
MOST_CUES = 100_000
MOST_BYTES = 16 * 2**20
MOST_CHARACTERS = 2_000
# Seconds that a cue may last; some files end with one that lasts for ever, and it says little about any moment.
_LONGEST = 120.0
_CODECS = ('mov_text', 'subrip', 'srt', 'webvtt', 'ass', 'ssa', 'text')
_TIME = r'(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})(?:[,.](\d{1,3}))?'
_TIMES = re.compile(rf'\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?', re.ASCII)
# Blocks of WebVTT that are no cues.
_NOTES = re.compile(r'(?:WEBVTT|NOTE|STYLE|REGION)(?:\s|$)')
# <i>, <c.yellow>, <00:19.000>, <font color="red">; {\an8} and {y:i} of other formats.
_TAGS = re.compile(r'<[^<>\n]{0,200}>|\{\\[^{}\n]{0,500}\}|\{[a-zA-Z]:[^{}\n]{0,40}\}')
_LANGUAGE = re.compile(r'[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*(?:\.(?:sdh|cc|forced|hi))?')


@dataclasses.dataclass(frozen=True)
class Cue:
  """What is said from `start` to `end`, seconds that a player shows; `track` says where, as `en` of lake.en.srt."""

  start: float
  end: float
  text: str
  track: str = ''


def beside(film: pathlib.Path, names: Iterable[str] | None = None) -> list[tuple[pathlib.Path, str]]:
  """Returns the files of subtitles beside a film and the name of the track of each, in order.

  Args:
    film: its file.
    names: of files beside it, where that is known: some of those that are called like it at least.
  """
  found = []
  try:
    there = (path.name for path in film.parent.iterdir()) if names is None else names
    names = sorted(name for name in there if pathlib.PurePath(name).suffix.lower() in SUFFIXES)
  except OSError:
    return []
  for name in names:
    stem = name[: name.rindex('.')]
    track = stem[len(film.stem) + 1 :]
    if stem == film.stem or (stem.startswith(f'{film.stem}.') and _LANGUAGE.fullmatch(track)):
      found.append((film.parent / name, track))
  return found


def digest(film: pathlib.Path, names: Iterable[str] | None = None, before: str = '') -> str:
  """Returns a hash of the subtitles beside a film, names and bytes, a colon, and one of names, sizes and times.

  '' where there are none. Nothing is decoded, and where names, sizes and times are as before nothing is read.

  Args:
    film, names: as of `beside`.
    before: what this returned before. Of older indexes it has no second hash, and is returned where the first is equal.
  """
  content, stamps, there = hashlib.sha256(), hashlib.sha256(), beside(film, names)
  for path, track in there:
    with contextlib.suppress(OSError):
      status = path.stat()
      stamp = f'{track}\0{path.suffix.lower()}\0{status.st_size}\0{status.st_mtime_ns}\0'
      stamps.update(stamp.encode(errors='surrogateescape'))
  stamp = stamps.hexdigest()[:16]
  if there and before.partition(':')[2] == stamp:
    return before
  found = [(path, track, data) for path, track in there if (data := _bytes(path)) is not None]
  for path, track, data in found:
    content.update(f'{track}\0{path.suffix.lower()}\0{len(data)}\0'.encode(errors='surrogateescape') + data)
  whole = content.hexdigest()[:32] if found else ''
  return whole if whole in ('', before) else f'{whole}:{stamp}'


def cues(film: pathlib.Path, names: Iterable[str] | None = None) -> list[Cue]:
  """Returns all that is said in a film, by its subtitles, in the order of the seconds.

  A file or track that cannot be read is left out, and the log says so; nothing is raised. Of tracks of one language
  that say the same, one is taken.

  Args:
    film, names: as of `beside`.
  """
  found: dict[tuple[float, float, str], Cue] = {}
  for path, track in beside(film, names):
    if (data := _bytes(path)) is not None:
      for cue in parse(data, track):
        found.setdefault((cue.start, cue.end, cue.text), cue)
  for cue in _embedded(film):
    found.setdefault((cue.start, cue.end, cue.text), cue)
  return sorted(found.values(), key=lambda cue: (cue.start, cue.end, cue.track))[:MOST_CUES]


def parse(data: bytes, track: str = '') -> list[Cue]:
  """Reads a file of SubRip or WebVTT; lines that are neither times nor text of a cue are passed over."""
  found: list[Cue] = []
  times: tuple[float, float] | None = None
  said: list[str] = []
  is_note = False

  def put() -> None:
    if times is not None and (cue := _cue(*times, '\n'.join(said), track)) is not None:
      found.append(cue)

  lines = decode(data).replace('\r\n', '\n').replace('\r', '\n').split('\n')
  for number, line in enumerate(lines):
    if (read := _TIMES.fullmatch(line)) is not None:
      if said and said[-1].strip().isdecimal() and times is not None:
        said.pop()  # The number of this cue, where no empty line stands before it.
      put()
      times, said, is_note = (_seconds(read.groups()[:4]), _seconds(read.groups()[4:])), [], False
    elif not line.strip():
      # A cue may hold an empty line; what follows is of it unless it is a number and times.
      if times is not None and not _goes_on(lines, number + 1):
        put()
        times, said = None, []
      is_note = False
    elif times is None:
      is_note = is_note or _NOTES.match(line) is not None
    elif not is_note:
      said.append(line)
    if len(found) >= MOST_CUES:
      return found
  put()
  return found


def decode(data: bytes) -> str:
  """Reads bytes as text: by their mark of order, as UTF-8, or as the encoding that they look like; never an error."""
  for mark, encoding in ((b'\xef\xbb\xbf', 'utf-8'), (b'\xff\xfe', 'utf-16-le'), (b'\xfe\xff', 'utf-16-be')):
    if data.startswith(mark):
      return data[len(mark) :].decode(encoding, 'replace')
  try:
    return data.decode('utf-8')
  except UnicodeDecodeError:
    pass
  import charset_normalizer  # Here, since hardly a file needs it.

  if (best := charset_normalizer.from_bytes(data[: 1 << 16]).best()) is not None:
    # Of the alphabets of Europe the most common, which the others differ from in few letters.
    return data.decode('cp1252' if best.encoding == 'cp1250' else best.encoding, 'replace')
  return data.decode('cp1252', 'replace')


def plain(text: str) -> str:
  """Returns what is read of a cue: without marks of style, in one line, composed (NFC), at most 2,000 characters."""
  text = _TAGS.sub('', text[: 4 * MOST_CHARACTERS].replace('\\N', '\n').replace('\\n', '\n').replace('\\h', ' '))
  text = unicodedata.normalize('NFC', _TAGS.sub('', html.unescape(text)))
  text = ''.join(' ' if unicodedata.category(each) in ('Cc', 'Cs', 'Zl', 'Zp') else each for each in text)
  return ' '.join(text.split())[:MOST_CHARACTERS].strip('\ufeff\u200b ')


def as_webvtt(said: list[Cue]) -> str:
  """Returns cues as a file of WebVTT, which players show as captions."""
  blocks = [
    f'{_clock(cue.start)} --> {_clock(cue.end)}\n{html.escape(cue.text, quote=False).replace("--&gt;", "→")}'
    for cue in said
  ]
  return '\n\n'.join(['WEBVTT', *blocks]) + '\n'


def _goes_on(lines: list[str], number: int) -> bool:
  """Whether the lines from a number on are of the same cue as those before: times do not follow at once."""
  following = [line for line in lines[number : number + 3] if line.strip()][:2]
  if not following or _NOTES.match(following[0]) or not lines[number].strip():
    return False
  return not any(_TIMES.fullmatch(line) for line in following)


def _cue(start: float, end: float, text: str, track: str) -> Cue | None:
  """Returns a cue; None where its times make no sense or nothing is said."""
  text = plain(text)
  if not text or not 0 <= start < 1e7 or end < start:
    return None
  return Cue(round(start, 3), round(min(end, start + _LONGEST), 3), text, track)


def _seconds(parts: tuple[str | None, ...]) -> float:
  hours, minutes, seconds, fraction = parts
  return (
    int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + int((fraction or '0').ljust(3, '0')) / 1000
  )


def _clock(seconds: float) -> str:
  whole = round(seconds * 1000)
  return f'{whole // 3_600_000:02d}:{whole // 60_000 % 60:02d}:{whole // 1000 % 60:02d}.{whole % 1000:03d}'


def _bytes(path: pathlib.Path) -> bytes | None:
  """Reads a file of subtitles; None where it is none that can be read, or far too large."""
  try:
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
      return None
    return path.read_bytes()
  except OSError as error:
    logging.getLogger(__name__).warning('%s is not read: %s', path, error)
    return None


def _embedded(film: pathlib.Path) -> Iterator[Cue]:
  """Yields the cues of the text tracks inside a film."""
  import av

  try:
    with files.open_video(film, threads=1) as opened:
      streams = [s for s in opened.container.streams.subtitles if s.codec_context.name in _CODECS]
      names = {stream.index: stream.language or '' for stream in streams}
      for packet in opened.container.demux(streams) if streams else ():
        if packet.pts is None or not packet.size:
          continue
        start = float(packet.pts * packet.time_base - opened.zero)
        end = start + float((packet.duration or 0) * packet.time_base)
        text = '\n'.join(_texts(packet))
        if (cue := _cue(start, end if end > start else start + 2.0, text, names[packet.stream_index])) is not None:
          yield cue
  except (files.VideoError, av.error.FFmpegError, OSError, ValueError) as error:
    logging.getLogger(__name__).warning('the text tracks of %s are not read: %s', film, error)


def _texts(packet) -> Iterator[str]:
  """Yields the texts of a packet: of ASS what follows the ninth comma, or as PyAV has it."""
  for subtitle in packet.decode():
    for part in getattr(subtitle, 'rects', None) or [subtitle]:
      text = getattr(part, 'dialogue', None) or getattr(part, 'text', None) or getattr(part, 'ass', '')
      yield text.decode('utf-8', 'replace') if isinstance(text, bytes) else str(text)
