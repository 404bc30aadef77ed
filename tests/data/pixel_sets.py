"""Small data sets on disk whose records hold the pictures that the teacher saw."""

import pathlib

import numpy as np

from tests.data import fakes
from tfds_builders import base_builder
from tfds_builders.records import Sizes

NAME = 'pixel_prvr'
SPLITS = {'train': 10, 'val': 4, 'test': 4}


class PixelPrvr(base_builder.PrvrBuilder, skip_registration=True):
  """Random records that are the same for the same video."""

  def __init__(self, size: int, encode, features: int, **kwargs):
    """`encode` makes the teacher's frames `[m, features]` of pictures `[m, size, size, 3]`."""
    self.size, self.encode, self.features = size, encode, features
    super().__init__(**kwargs)

  def _open_source(self, manual_dir):
    return self

  def _requested(self):
    return {'dtype': 'float32', 'num_shards': 1}

  def sizes(self):
    return Sizes(fakes.STUDENT, fakes.TOKEN, self.features, pixels=self.size)

  def videos(self):
    return {split: [f'{split}{index}' for index in range(count)] for split, count in SPLITS.items()}

  def record(self, split, video):
    rng = np.random.default_rng(sum(video.encode()))
    frames = int(rng.integers(1, 12))
    made = fakes.record(video, rng, frames, frames, (3, 2), np.float32, pixels=self.size)
    made['teacher_frames'] = np.asarray(self.encode(made['teacher_pixels']), np.float32)
    made['teacher_text'] = rng.standard_normal((2, self.features)).astype(np.float32)
    return made

  def description(self):
    return {}


def write(folder: pathlib.Path, size: int, encode, features: int) -> str:
  """Builds the set below a folder; returns its name."""
  PixelPrvr(size, encode, features, data_dir=str(folder)).download_and_prepare()
  return NAME
