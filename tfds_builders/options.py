"""What a builder of a feature pack can be asked for."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfds_builders.errors import PackError

DTYPES = ('float16', 'float32')
POOLINGS = ('last', 'mean')


@dataclasses.dataclass(frozen=True)
class BuildOptions:
  """Options of a build; everything here changes what is written.

  Attributes:
    feature: name of the student features below FeatureData; None: the collection's default.
    dtype: 'float16' or 'float32', the type features are stored in.
    num_shards: files per split; None: as many as keep a file near 384 MB, 4 at least.
    teacher: False writes a set without teacher features.
    splits: which splits to build.
    tokens: file of the student's token features; None: found by name.
    teacher_frames: file of the teacher's frame features; None: found by name.
    teacher_text: file of the teacher's text features; None: found by name.
    pool_teacher_text: 'last' or 'mean' reduces a teacher's token sequences to one row; None
      refuses them.
  """

  feature: str | None = None
  dtype: str = 'float16'
  num_shards: int | None = None
  teacher: bool = True
  splits: tuple[str, ...] = ('train', 'val', 'test')
  tokens: str | None = None
  teacher_frames: str | None = None
  teacher_text: str | None = None
  pool_teacher_text: str | None = None

  def __post_init__(self):
    """Checks every value.

    Raises:
      PackError: a value is not one of those allowed.
    """
    _require(self.dtype in DTYPES, f'dtype is {self.dtype!r}; expected one of {DTYPES}')
    _require(
      self.num_shards is None or self.num_shards > 0,
      f'num_shards is {self.num_shards}; expected 1 or more',
    )
    _require(
      bool(self.splits) and len(set(self.splits)) == len(self.splits),
      f'splits are {list(self.splits)}; expected one or more different names',
    )
    _require(
      self.pool_teacher_text in (None, *POOLINGS),
      f'pool_teacher_text is {self.pool_teacher_text!r}; expected one of {POOLINGS}',
    )

  def as_json(self) -> dict[str, Any]:
    """Returns the options as plain values, to be kept with the data set."""
    return {**dataclasses.asdict(self), 'splits': list(self.splits)}


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise PackError(message)
