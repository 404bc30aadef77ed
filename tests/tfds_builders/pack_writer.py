"""Writes small random feature packs in every variant of the release's layout, and remembers what it wrote."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import h5py
import numpy as np

SPELLINGS = {'enc': '{video}#enc#{number}', 'plain': '{video}#{number}'}
# Ids with characters that a careless reader trips over.
ODD_IDS = ('v_-x#3', 'a.b_c', 'é7', "o'neil", 'b"q', 'x#enc#y', 'back\\slash', 'a/b')


@dataclasses.dataclass(frozen=True)
class Variant:
  """What a pack looks like on disk."""

  collection: str = 'tvr'
  feature: str = 'i3d_resnet'
  packing: str = 'bigfile'  # or 'hdf5 in folder', 'hdf5 beside'
  caption_spelling: str = 'enc'
  token_spelling: str = 'enc'
  teacher_spelling: str = 'plain'
  leading_axis: bool = True  # [1, n, D], else [n, D]
  dtype: str = 'float32'
  taught_splits: tuple[str, ...] = ('train', 'val', 'test')
  moments: bool = True
  scattered_rows: bool = False
  dims: tuple[int, int, int] = (6, 5, 4)
  videos: tuple[int, int, int] = (8, 3, 4)


@dataclasses.dataclass
class Video:
  """All that was written of one video."""

  split: str
  frames: np.ndarray
  teacher_frames: np.ndarray | None
  captions: dict[str, str]
  tokens: list[np.ndarray]
  teacher_text: list[np.ndarray]
  moments: list[tuple[float, float, float]]


@dataclasses.dataclass
class Written:
  """A pack on disk: where, and what is in it."""

  root: pathlib.Path
  variant: Variant
  videos: dict[str, Video]

  @property
  def text(self) -> pathlib.Path:
    """The folder TextData."""
    return self.root / self.variant.collection / 'TextData'

  @property
  def features(self) -> pathlib.Path:
    """The folder FeatureData."""
    return self.root / self.variant.collection / 'FeatureData'

  @property
  def big(self) -> pathlib.Path:
    """The BigFile folder."""
    return self.features / self.variant.feature

  @property
  def tokens(self) -> pathlib.Path:
    """The file of token features."""
    return self.text / f'roberta_{self.variant.collection}_query_feat.hdf5'

  @property
  def teacher_text(self) -> pathlib.Path:
    """The file of the teacher's text features."""
    return self.text / f'clip_ViT_B_32_{self.variant.collection}_query_feat.hdf5'

  @property
  def teacher_frames(self) -> pathlib.Path:
    """The file of the teacher's frame features."""
    return self.features / f'new_clip_vit_32_{self.variant.collection}_vid_features.hdf5'

  def captions(self, split: str) -> pathlib.Path:
    """The caption file of a split."""
    return self.text / f'{self.variant.collection}{split}.caption.txt'


def write(root: pathlib.Path, variant: Variant | None = None, seed: int = 0) -> Written:
  """Writes a random pack below `root` and returns what it holds."""
  variant = variant or Variant()
  rng = np.random.default_rng(seed)
  videos = {}
  for split, count in zip(('train', 'val', 'test'), variant.videos, strict=True):
    for index in range(count):
      odd = ODD_IDS[index % len(ODD_IDS)] if split == 'train' else 'plain'
      video = f'{split}_{index}_{odd}'
      videos[video] = _random_video(rng, variant, split, video)
  written = Written(root, variant, videos)
  written.text.mkdir(parents=True)
  written.features.mkdir(parents=True)
  _write_text(written)
  _write_frames(written, rng)
  with h5py.File(written.teacher_frames, 'w') as file:
    for name, video in videos.items():
      if video.teacher_frames is not None:
        file[name] = _shaped(video.teacher_frames, variant)
  return written


def _random_video(rng: np.random.Generator, variant: Variant, split: str, video: str) -> Video:
  def draw(rows: int, dims: int) -> np.ndarray:
    return rng.normal(0, 1, (rows, dims)).astype(variant.dtype)

  student, token, teacher = variant.dims
  count = int(rng.integers(1, 5))
  ids = [SPELLINGS[variant.caption_spelling].format(video=video, number=number) for number in range(count)]
  taught = split in variant.taught_splits
  duration = float(rng.uniform(20, 40))
  return Video(
    split=split,
    frames=draw(int(rng.integers(1, 9)), student).astype(np.float32),
    teacher_frames=draw(int(rng.integers(1, 9)), teacher) if taught else None,
    captions={name: f'Sentence {number}, «été» of {name}.' for number, name in enumerate(ids)},
    tokens=[draw(int(rng.integers(1, 40)), token) for _ in ids],
    teacher_text=[draw(1, teacher) for _ in ids] if taught else [],
    moments=[(float(number), float(number + 3), duration) for number in range(count)],
  )


def _shaped(rows: np.ndarray, variant: Variant) -> np.ndarray:
  return rows[None] if variant.leading_axis else rows


def _write_text(written: Written) -> None:
  variant = written.variant
  moments = {}
  with h5py.File(written.tokens, 'w') as tokens, h5py.File(written.teacher_text, 'w') as teacher:
    for name, video in written.videos.items():
      for number, caption_id in enumerate(video.captions):
        key = SPELLINGS[variant.token_spelling].format(video=name, number=number)
        tokens[key] = _shaped(video.tokens[number], variant)
        if video.teacher_text:
          key = SPELLINGS[variant.teacher_spelling].format(video=name, number=number)
          teacher[key] = video.teacher_text[number]
        moments[caption_id] = video.moments[number]
  for split in ('train', 'val', 'test'):
    lines = [
      f'{caption_id} {text}\n'
      for video in written.videos.values()
      if video.split == split
      for caption_id, text in video.captions.items()
    ]
    written.captions(split).write_text(''.join(lines), encoding='utf-8')
  if variant.moments:
    path = written.text / f'{variant.collection}.moments.json'
    path.write_text(json.dumps(moments), encoding='utf-8')


def _write_frames(written: Written, rng: np.random.Generator) -> None:
  variant = written.variant
  if variant.packing == 'bigfile':
    write_bigfile(written.big, {name: video.frames for name, video in written.videos.items()}, variant, rng)
    return
  inside = variant.packing == 'hdf5 in folder'
  path = written.big / 'feature.hdf5' if inside else written.features / f'{variant.feature}.hdf5'
  path.parent.mkdir(exist_ok=True)
  with h5py.File(path, 'w') as file:
    for name, video in written.videos.items():
      file[name] = _shaped(video.frames.astype(variant.dtype), variant)


def write_bigfile(
  folder: pathlib.Path, frames: dict[str, np.ndarray], variant: Variant, rng: np.random.Generator
) -> None:
  """Writes feature.bin, id.txt, shape.txt and video2frames.txt."""
  folder.mkdir(parents=True)
  names = [f'{video}_{row}' for video, rows in frames.items() for row in range(len(rows))]
  rows = np.concatenate(list(frames.values())).astype('<f4')
  video2frames = {video: [f'{video}_{row}' for row in range(len(each))] for video, each in frames.items()}
  if variant.scattered_rows:
    order = rng.permutation(len(names))
    names, rows = [names[row] for row in order], rows[order]
  rows.tofile(folder / 'feature.bin')
  (folder / 'id.txt').write_text(' '.join(names), encoding='utf-8')
  (folder / 'shape.txt').write_text(f'{len(names)} {rows.shape[1]}')
  (folder / 'video2frames.txt').write_text(repr(video2frames), encoding='utf-8')
