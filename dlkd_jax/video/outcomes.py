"""What became of every file: for the terminal, and as JSON."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from typing import Any

from dlkd_jax import files

# In the order of the account. All but the first three are listed by name on the terminal.
STATUSES = {
  'extracted': 'extracted',
  'updated': 'taken anew',
  'kept': 'extracted before',
  'changed': 'changed: records stay as they were; --update takes them anew',
  'waiting': 'not whole yet, or still written to: left to the next run',
  'truncated': 'truncated or damaged: what was whole was kept',
  'failed': 'failed',
  'vanished': 'not in the folder any more: records stay',
  'missing': 'named by captions, and not there',
  'skipped': 'not a video by its name',
}
_LISTED = ('changed', 'waiting', 'truncated', 'failed', 'vanished', 'missing', 'skipped')
# Of these there are features.
_USABLE = ('extracted', 'updated', 'kept', 'changed', 'truncated', 'vanished')
# Of these there are features of the film as it is.
WRITTEN = ('extracted', 'updated', 'kept', 'truncated')
_LINES = 40


@dataclasses.dataclass(frozen=True)
class Outcome:
  """One file.

  Attributes:
    video: path below the folder of videos.
    status: one of `STATUSES`.
    reason: what is wrong or odd with it; empty where nothing is.
    split: where it went.
    frames, captions: how many of them.
    duration: seconds.
  """

  video: str
  status: str
  reason: str = ''
  split: str = ''
  frames: int = 0
  captions: int = 0
  duration: float | None = None


class Outcomes:
  """What became of the files of one extraction, or addition to an index."""

  def __init__(self):
    """Starts empty; `notes` are sentences about all files together."""
    self.files: list[Outcome] = []
    self.notes: list[str] = []

  def add(self, *outcomes: Outcome) -> None:
    """Takes what became of some."""
    self.files += outcomes

  def count(self, *statuses: str) -> int:
    """Returns how many files have one of the statuses."""
    return sum(each.status in statuses for each in self.files)

  @property
  def usable(self) -> int:
    """How many videos there are features of."""
    return self.count(*_USABLE)

  def write(self, path: pathlib.Path) -> None:
    """Writes that of every file as JSON."""
    counts = collections.Counter(each.status for each in self.files)
    content: dict[str, Any] = {'counts': {status: counts[status] for status in STATUSES}}
    content['files'] = [dataclasses.asdict(each) for each in sorted(self.files, key=lambda each: each.video)]
    content['notes'] = self.notes
    files.write_json(path, content)

  def __str__(self) -> str:
    """Returns the counts, and every file with which something is wrong."""
    lines = [f'{self.count(status):6,}  {text}' for status, text in STATUSES.items() if self.count(status)]
    odd = [each for status in _LISTED for each in self.files if each.status == status]
    odd += [each for each in self.files if each.status not in _LISTED and each.reason]
    lines += [
      f'  {each.status:<10} {files.printable(each.video + (": " if each.reason else "") + each.reason)}'
      for each in odd[:_LINES]
    ]
    if len(odd) > _LINES:
      lines.append(f'  … and {len(odd) - _LINES} more: the report file names them')
    return '\n'.join(lines + [f'  note: {files.printable(note)}' for note in self.notes])
