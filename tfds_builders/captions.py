"""Caption files, caption ids in both spellings, and the moments file."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import re

from tfds_builders import errors

# The shortest video id that leaves `#enc#<k>` or `#<k>` at the very end, so that a video id may hold '#' itself.
_CAPTION_ID = re.compile(r'^(?P<video>.+?)(?:#enc)?#(?P<number>[^#\s]+)$')


@dataclasses.dataclass(frozen=True)
class Caption:
  """One sentence.

  Attributes:
    caption_id: as written in the caption file.
    video: id of the video it describes.
    number: what follows the last '#'.
    text: the sentence, stripped.
  """

  caption_id: str
  video: str
  number: str
  text: str

  def spellings(self) -> tuple[str, ...]:
    """Returns the ids under which a feature file may hold this caption, the written one first."""
    return tuple(
      dict.fromkeys(
        (
          self.caption_id,
          f'{self.video}#enc#{self.number}',
          f'{self.video}#{self.number}',
        )
      )
    )


def split_caption_id(caption_id: str) -> tuple[str, str] | None:
  """Returns (video id, caption number) of `<video>#enc#<k>` or `<video>#<k>`; None for anything else."""
  match = _CAPTION_ID.match(caption_id)
  return (match['video'], match['number']) if match else None


def read_captions(path: pathlib.Path) -> dict[str, list[Caption]]:
  """Reads one `<collection><split>.caption.txt`.

  Args:
    path: the file; UTF-8, one `<caption id> <sentence>` a line. Blank lines are skipped.

  Returns:
    The captions of each video, videos and captions in the order of the file.

  Raises:
    PackError: not text, a line without an id of either spelling, an empty sentence, an id that occurs twice (also in
      the two spellings), or no caption at all.
  """
  try:
    lines = path.read_text(encoding='utf-8-sig').split('\n')
  except UnicodeDecodeError as error:
    raise errors.MalformedFileError(f'{path}: not UTF-8 text ({error})') from error
  videos: dict[str, list[Caption]] = collections.defaultdict(list)
  seen: dict[tuple[str, str], int] = {}
  for line_number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    caption = _parse_line(line, f'{path}, line {line_number}')
    key = (caption.video, caption.number)
    if key in seen:
      raise errors.DuplicateIdError(
        f'{path}: caption id {caption.caption_id!r} on line {line_number} was already on line '
        f'{seen[key]} ("#enc#{caption.number}" and "#{caption.number}" are the same caption); remove one of them'
      )
    seen[key] = line_number
    videos[caption.video].append(caption)
  if not videos:
    raise errors.EmptyError(
      f'{path}: holds no captions; expected "<video>#enc#<k> <sentence>" or "<video>#<k> <sentence>" a line, '
      'or leave this split out with --splits'
    )
  return dict(videos)


def _parse_line(line: str, where: str) -> Caption:
  caption_id, *rest = line.strip().split(None, 1)
  parts = split_caption_id(caption_id)
  if parts is None:
    raise errors.MalformedFileError(
      f'{where}: {caption_id!r} is not a caption id; expected "<video>#enc#<k>" or "<video>#<k>"'
    )
  text = rest[0].strip() if rest else ''
  if not text:
    raise errors.EmptyError(f'{where}: caption {caption_id!r} has no text; write its sentence or remove the line')
  return Caption(caption_id, *parts, text)


class Moments:
  """Where in its video each caption holds, from the optional `<collection>.moments.json`."""

  def __init__(self, path: pathlib.Path | None):
    """Reads the file: caption id → [start, end, video duration], all in seconds.

    Args:
      path: the file, or None where a pack has none: every moment is then unknown.

    Raises:
      MalformedFileError: not JSON, or an entry is not three numbers.
    """
    self._by_caption: dict[tuple[str, str] | None, tuple[float, float, float]] = {}
    if path is None:
      return
    try:
      content = json.loads(path.read_text(encoding='utf-8'))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
      raise errors.MalformedFileError(f'{path}: not JSON ({error})') from error
    if not isinstance(content, dict):
      raise errors.MalformedFileError(f'{path}: expected an object of caption ids')
    for caption_id, moment in content.items():
      try:
        start, end, duration = (float(value) for value in moment)
      except (TypeError, ValueError) as error:
        raise errors.MalformedFileError(
          f'{path}: {caption_id!r} is {moment!r}; expected [start, end, video duration] in seconds'
        ) from error
      self._by_caption[split_caption_id(caption_id)] = (start, end, duration)

  def of(self, caption: Caption) -> tuple[float, float, float]:
    """Returns (start, end, video duration) in seconds, NaN where unknown."""
    nan = float('nan')
    return self._by_caption.get((caption.video, caption.number), (nan, nan, nan))
