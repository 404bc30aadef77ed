"""Clips with one sentence each, joined to untrimmed videos whose moments are known, and written as a feature pack.

Sizes: N clips, n frames of a clip, D features of a frame, S of a token.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import zipfile
from typing import NamedTuple

import h5py
import numpy as np

from dlkd_jax.data import sources
from dlkd_jax.errors import UserError
from dlkd_jax.vectors import unit

SPLITS = ('train', 'val', 'test')
FEATURE = 'efficientnet_lite0'
TOKENS = 'minilm_composites_query_feat.hdf5'
# The pack does not say how long its clips are; MSR-VTT's are about this long.
CLIP_SECONDS = 15.0


class Clips(NamedTuple):
  """Trimmed clips.

  Attributes:
    ids: of the clips.
    frames: features of each, `[n, D]` float32.
    texts: the sentence of each.
    seconds: how long each is.
    feature: what the features are called; None: as the collection of data sets has it.
    tokens: vectors of each sentence, `[tokens, S]`; None: not made yet.
  """

  ids: list[str]
  frames: list[np.ndarray]
  texts: list[str]
  seconds: list[float]
  feature: str | None = None
  tokens: list[np.ndarray] | None = None

  def sentences(self) -> np.ndarray:
    """Returns the mean of each sentence's tokens, of length 1: `[N, S]`."""
    return unit(np.stack([x.mean(0, dtype=np.float32) for x in self.tokens]))


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
  return Clips(ids, list(frames), [texts[name] for name in ids], [CLIP_SECONDS] * len(ids))


def read_set(data_dir: pathlib.Path, dataset: str = 'custom_prvr') -> Clips:
  """Reads the clips of a built data set, of all splits, that have a caption, by rising id.

  Raises:
    FileNotFoundError: there is no such data set.
    UserError: a clip has several captions, no frames, or a length that is not known.
  """
  found = {}
  for split in sources.split_names(data_dir, dataset):
    source = sources.open_source(data_dir, dataset, split)
    for record in (source[index] for index in range(len(source))):
      name, texts = sources.text(record['video_id']), sources.texts(record['captions'])
      seconds = float(record['duration'])
      if not texts:
        continue
      if len(texts) > 1 or not len(record['student_frames']) or not np.isfinite(seconds):
        about = f'{len(texts)} captions, {len(record["student_frames"])} frames and {seconds} seconds'
        raise UserError(f'{name} of {dataset} has {about}; expected one caption, and frames of a known length')
      found[name] = record['student_frames'].astype(np.float32), texts[0], seconds, record['student_tokens']
  ids = sorted(found)
  frames, texts, seconds, tokens = (list(x) for x in zip(*(found[name] for name in ids), strict=True))
  return Clips(ids, frames, texts, seconds, 'frames', [x.astype(np.float32) for x in tokens])


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


def write_pack(root: pathlib.Path, clips: Clips, videos: dict[str, list[Composite]]) -> pathlib.Path:
  """Writes composites as a feature pack in the release's layout, `<root>/composites/…`; it appears whole.

  Args:
    root: the folder for `--manual_dir`.
    clips: the clips, with tokens.
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
  with h5py.File(features / f'{clips.feature or FEATURE}.hdf5', 'w') as frames, h5py.File(text / TOKENS, 'w') as words:
    for split, composites in videos.items():
      lines = []
      for name, parts in composites:
        frames[name] = np.concatenate([clips.frames[clip] for clip in parts]).astype(np.float16)
        ends = np.cumsum([0.0, *(clips.seconds[clip] for clip in parts)]).tolist()
        for index, clip in enumerate(parts):
          caption = f'{name}#enc#{index}'
          lines.append(f'{caption} {clips.texts[clip]}\n')
          words[caption] = clips.tokens[clip].astype(np.float16)
          moments[caption] = [ends[index], ends[index + 1], ends[-1]]
      (text / f'composites{split}.caption.txt').write_text(''.join(lines), encoding='utf-8')
  (text / 'composites.moments.json').write_text(json.dumps(moments), encoding='utf-8')
  shutil.rmtree(folder, ignore_errors=True)
  temporary.rename(folder)
  return folder
