"""Caption files, caption ids in both spellings, and the moments file."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import re

import numpy as np
from absl import logging

from dlkd_jax import annotations, files
from dlkd_jax.errors import UserError
from tfds_builders.errors import DuplicateIdError, EmptyError, MalformedFileError

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


def read_text(path: pathlib.Path) -> str:
  """Returns the text of a file of a pack; MalformedFileError, with line and byte, where it is none."""
  try:
    return files.read_text(path)
  except UserError as error:
    raise MalformedFileError(str(error)) from error


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
  text = read_text(path)
  videos: dict[str, list[Caption]] = collections.defaultdict(list)
  seen: dict[tuple[str, str], int] = {}
  for line_number, line in files.lines(text):
    caption = _parse_line(line, f'{path}, line {line_number}')
    key = (caption.video, caption.number)
    if key in seen:
      raise DuplicateIdError(
        f'{path}: caption id {caption.caption_id!r} on line {line_number} was already on line '
        f'{seen[key]} ("#enc#{caption.number}" and "#{caption.number}" are the same caption); remove one of them'
      )
    seen[key] = line_number
    videos[caption.video].append(caption)
  if not videos:
    raise EmptyError(
      f'{path}: holds no captions; expected "<video>#enc#<k> <sentence>" or "<video>#<k> <sentence>" a line, '
      'or leave this split out with --splits'
    )
  return dict(videos)


def _parse_line(line: str, where: str) -> Caption:
  caption_id, *rest = line.strip().split(None, 1)
  parts = split_caption_id(caption_id)
  if parts is None:
    raise MalformedFileError(
      f'{where}: {caption_id!r} is not a caption id; expected "<video>#enc#<k>" or "<video>#<k>"'
    )
  text = rest[0].strip() if rest else ''
  if not text:
    raise EmptyError(f'{where}: caption {caption_id!r} has no text; write its sentence or remove the line')
  return Caption(caption_id, *parts, text)


class Moments:
  """Where in its video each caption holds, from the optional `<collection>.moments.json`."""

  def __init__(self, path: pathlib.Path | None):
    """Reads the file: caption id → [start, end, video duration], all in seconds; null where unknown.

    Args:
      path: the file, or None where a pack has none: every moment is then unknown.

    Raises:
      MalformedFileError: not JSON, or an entry is not three numbers.
    """
    self._by_caption: dict[tuple[str, str] | None, tuple[float, float, float]] = {}
    if path is None:
      return
    try:
      content = files.parse_object(read_text(path), str(path))
    except UserError as error:
      raise MalformedFileError(str(error)) from error
    tally = annotations.Tally()
    for caption_id, entry in content.items():
      if not isinstance(entry, list) or len(entry) != 3:
        raise MalformedFileError(
          f'{path}: {caption_id!r} is {entry!r:.80}; expected [start, end, video duration] in seconds'
        )
      try:
        moment = annotations.read_moment(*entry[:2], f'{path}: {caption_id!r}')
        duration = annotations.read_duration(entry[2], f'{path}: {caption_id!r}: the duration')
      except UserError as error:
        raise MalformedFileError(f'{error}; expected [start, end, video duration] in seconds') from error
      (taken,) = tally.take(np.array([moment]), duration, [caption_id])
      self._by_caption[split_caption_id(caption_id)] = (float(taken[0]), float(taken[1]), duration)
    if str(tally):
      logging.warning('%s: %s', path, tally)

  def of(self, caption: Caption) -> tuple[float, float, float]:
    """Returns (start, end, video duration) in seconds, NaN where unknown."""
    nan = float('nan')
    return self._by_caption.get((caption.video, caption.number), (nan, nan, nan))
