"""Sizes, noise and seed of the synthetic world."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders.errors import PackError


def _option(default: float, text: str) -> Any:
  return dataclasses.field(default=default, metadata={'help': text})


@dataclasses.dataclass(eq=False)
class SyntheticConfig(tfds.core.BuilderConfig):
  """One synthetic data set; every number here changes the data."""

  seed: int = _option(0, 'everything follows from it')
  num_train: int = _option(256, 'videos of the train split')
  num_val: int = _option(256, 'videos of the val split')
  num_test: int = _option(256, 'videos of the test split')
  captions_per_video: int = _option(3, 'captions of each video, each of one moment')
  min_frames: int = _option(20, 'fewest frames of a video')
  max_frames: int = _option(40, 'most frames of a video')
  max_moments: int = _option(4, 'most moments of a video; 2 is the fewest')
  seconds_per_frame: float = _option(1.5, 'time from one frame to the next')
  student_dims: int = _option(128, 'Dv, features of a student frame')
  token_dims: int = _option(64, 'Dq, features of a token')
  teacher_dims: int = _option(64, 'Dt, features of a teacher frame or sentence')
  factor_dims: int = _option(8, 'latent size of each of subject, action, object and attribute')
  background: float = _option(1.0, 'weight of the slowly changing background')
  distractors: float = _option(0.7, 'share of frames between moments that show other events')
  student_noise: float = _option(1.0, 'noise of student frames, in units of their signal')
  token_noise: float = _option(0.5, 'noise of tokens, in units of their signal')
  token_mixing: float = _option(0.3, 'share of a token that comes from its neighbours')
  teacher_noise: float = _option(0.2, 'noise of teacher frames, in units of their signal')
  teacher_text_noise: float = _option(0.1, 'noise of teacher text, in units of its signal')
  teacher_nuisance: float = _option(0.1, 'what a teacher frame says of the video as a whole')
  teacher_frame_ratio: float = _option(1.0, 'teacher frames for each student frame')
  attribute_rate: float = _option(0.7, 'share of captions that mention the attribute')
  filler_rate: float = _option(0.5, 'share of captions with a filler word, at each end')

  def validate(self) -> None:
    """Checks the numbers.

    Raises:
      PackError: one of them makes no data set; the message says which.
    """
    options = self.options()
    for name, value in options.items():
      if value < 0:
        raise PackError(f'synthetic config: {name} is {value}; expected 0 or more')
    for name in ('num_train', 'num_val', 'num_test', 'captions_per_video', 'seconds_per_frame'):
      if not options[name]:
        raise PackError(f'synthetic config: {name} is 0; expected more')
    for name in ('student_dims', 'token_dims', 'teacher_dims', 'factor_dims'):
      if not options[name]:
        raise PackError(f'synthetic config: {name} is 0; expected 1 or more')
    if self.max_moments < 2 or self.min_frames < 4 * self.max_moments:
      raise PackError(
        f'synthetic config: {self.min_frames} frames at least are too few for {self.max_moments} '
        'moments; expected max_moments of 2 or more, and 4 frames or more for each of them'
      )
    if self.max_frames < self.min_frames:
      raise PackError(f'synthetic config: max_frames {self.max_frames} is below min_frames {self.min_frames}')
    if not 0.25 <= self.teacher_frame_ratio <= 4:
      raise PackError(f'synthetic config: teacher_frame_ratio is {self.teacher_frame_ratio}; expected 0.25 to 4')

  def options(self) -> dict[str, float]:
    """Returns every number that changes the data, by name."""
    return {field.name: getattr(self, field.name) for field in option_fields()}

  def changed(self, **changes: float) -> SyntheticConfig:
    """Returns a config with other numbers, named after what was changed: one folder for each.

    Args:
      **changes: fields and their new values; those that change nothing are left out.
    """
    changes = {name: value for name, value in changes.items() if getattr(self, name) != value}
    if not changes:
      return self
    name = '_'.join([self.name, *(f'{key}-{changes[key]:g}' for key in sorted(changes))])
    return dataclasses.replace(self, name=name, **changes)


def option_fields() -> list[dataclasses.Field]:
  """Returns the fields of `SyntheticConfig` that have a meaning for the data."""
  return [field for field in dataclasses.fields(SyntheticConfig) if 'help' in field.metadata]


SMALL = SyntheticConfig(
  name='small',
  description='Tiny, for tests: built within a few seconds.',
  num_train=64,
  num_val=24,
  num_test=32,
  min_frames=12,
  max_frames=20,
  max_moments=3,
  student_dims=32,
  token_dims=24,
  teacher_dims=16,
  factor_dims=6,
  teacher_frame_ratio=0.75,
)
DEMO = SyntheticConfig(
  name='demo',
  description='For a first run: trains within a few minutes on two cores.',
)
