"""Clips with one sentence each, joined to untrimmed videos whose moments are known, and written as a feature pack.

Sizes: N clips, F frames of a clip, D features.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import zipfile
from typing import NamedTuple

import h5py
import numpy as np

from dlkd_jax.errors import UserError

SPLITS = ('train', 'val', 'test')
FEATURE = 'efficientnet_lite0'
TOKENS = 'minilm_composites_query_feat.hdf5'
# The pack does not say how long its clips are; MSR-VTT's are about this long.
CLIP_SECONDS = 15.0


class Clips(NamedTuple):
  """Trimmed clips: their ids, frame features `[N, F, D]` float32, and the sentence of each."""

  ids: list[str]
  frames: np.ndarray
  texts: list[str]


class Composite(NamedTuple):
  """An untrimmed video: its id, and the rows of its clips in order."""

  name: str
  clips: list[int]


def read_clips(folder: pathlib.Path) -> Clips:
  """Reads `frames.npz` (`F` `[N, F, D]`, `ids` `[N]`) and `captions.jsonl` (`video`, `text`), joined on the ids.

  Raises:
    FileNotFoundError: a file is absent.
    ValueError: a file is damaged, a clip has no sentence or several, or features are not finite.
  """
  files = [folder / name for name in ('frames.npz', 'captions.jsonl')]
  absent = [str(path) for path in files if not path.is_file()]
  if absent:
    raise FileNotFoundError(f'{" and ".join(absent)} absent; expected a folder with frames.npz and captions.jsonl.')
  try:
    with np.load(files[0], allow_pickle=False) as arrays:
      frames, ids = arrays['F'].astype(np.float32), [str(x) for x in arrays['ids']]
    lines = [json.loads(line) for line in files[1].read_text(encoding='utf-8').splitlines()]
    texts = {line['video']: line['text'] for line in lines}
  except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
    raise UserError(f'{folder}: {type(error).__name__}: {error}; expected F, ids, and lines of video, text.') from error
  if frames.ndim != 3 or len(ids) != len(frames) or not np.isfinite(frames).all():
    raise UserError(f'{files[0]}: F is {frames.shape} for {len(ids)} ids; expected [N, F, D], finite, N ids.')
  if len(texts) != len(lines) or set(texts) != set(ids) or len(set(ids)) != len(ids):
    odd = sorted(set(texts) ^ set(ids))[:5]
    raise UserError(f'{folder}: expected one sentence a clip, found {len(lines)} for {len(ids)} clips; odd: {odd}.')
  return Clips(ids, frames, [texts[name] for name in ids])


def split_clips(count: int, sizes: tuple[int, int, int], seed: int) -> dict[str, list[int]]:
  """Draws which clips belong to which split; no clip is in two.

  Raises:
    ValueError: there are fewer clips than asked for.
  """
  if sum(sizes) > count or min(sizes) < 1:
    raise UserError(f'splits of {sizes} clips were asked for, and there are {count}; expected sizes that fit.')
  order = np.random.default_rng([seed, 0]).permutation(count).tolist()
  ends = np.cumsum((0, *sizes))
  return {split: order[ends[i] : ends[i + 1]] for i, split in enumerate(SPLITS)}


def join(split: str, clips: list[int], seed: int, rounds: int = 1) -> list[Composite]:
  """Joins each clip into one video of four to six clips a round; in each round with others.

  Args:
    split: part of the videos' names and of the draw.
    clips: rows of the split's clips; at least four.
    seed: of the draw.
    rounds: how often each clip is used.
  """
  rng = np.random.default_rng([seed, 1, SPLITS.index(split)])
  composites = []
  for _ in range(rounds):
    left = [clips[i] for i in rng.permutation(len(clips))]
    while left:
      # The last take what is left, so that no video is shorter than four clips or longer than seven.
      size = len(left) if len(left) < 8 else int(rng.integers(4, 7))
      composites.append(Composite(f'{split}_{len(composites):04}', left[:size]))
      left = left[size:]
  return composites


def write_pack(
  root: pathlib.Path, clips: Clips, tokens: list[np.ndarray], videos: dict[str, list[Composite]]
) -> pathlib.Path:
  """Writes composites as a feature pack in the release's layout, `<root>/composites/…`; it appears whole.

  Args:
    root: the folder for `--manual_dir`.
    clips: the clips.
    tokens: vectors `[tokens, Dq]` of each clip's sentence.
    videos: split → its composites.

  Returns:
    The folder of the pack.
  """
  folder, temporary = root / 'composites', root / 'composites.tmp'
  shutil.rmtree(temporary, ignore_errors=True)
  text, features = temporary / 'TextData', temporary / 'FeatureData'
  text.mkdir(parents=True)
  features.mkdir()
  moments = {}
  with h5py.File(features / f'{FEATURE}.hdf5', 'w') as frames, h5py.File(text / TOKENS, 'w') as words:
    for split, composites in videos.items():
      lines = []
      for name, parts in composites:
        frames[name] = clips.frames[parts].reshape(-1, clips.frames.shape[-1]).astype(np.float16)
        for index, clip in enumerate(parts):
          caption = f'{name}#enc#{index}'
          lines.append(f'{caption} {clips.texts[clip]}\n')
          words[caption] = tokens[clip].astype(np.float16)
          moments[caption] = [x * CLIP_SECONDS for x in (index, index + 1, len(parts))]
      (text / f'composites{split}.caption.txt').write_text(''.join(lines), encoding='utf-8')
  (text / 'composites.moments.json').write_text(json.dumps(moments), encoding='utf-8')
  shutil.rmtree(folder, ignore_errors=True)
  temporary.rename(folder)
  return folder
