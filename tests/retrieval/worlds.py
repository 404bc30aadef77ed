"""A small random gallery cut into blocks of any size, simple encoders, and the scores by plain loops."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dlkd_jax.data.evaluation_blocks import Block
from dlkd_jax.retrieval.evaluate import Encoders
from dlkd_jax.retrieval.metrics import RetrievalMetrics

WORDS, TOKEN_FEATURES, FRAME_FEATURES, TEACHER_FEATURES, HIDDEN, SIGNS = 5, 6, 7, 4, 8, 16


@dataclasses.dataclass
class Blocks:
  """A split of blocks that are made by functions."""

  num_videos: int
  captions: Callable
  videos: Callable


@dataclasses.dataclass
class World:
  """Lists of one entry a video (frames, teacher frames, id) and a caption (tokens, teacher text, ids)."""

  frames: list[np.ndarray]
  teacher_frames: list[np.ndarray]
  video_ids: list[str]
  tokens: list[np.ndarray]
  teacher_text: list[np.ndarray]
  caption_ids: list[str]
  own_ids: list[str]

  def video_blocks(self, block: int, frames: int, teacher: bool = True):
    """Cuts the gallery into blocks padded to `frames` rows; padding is filled with noise, not zeros."""
    rng = np.random.default_rng(99)
    for start in range(0, len(self.frames), block):
      ids = self.video_ids[start : start + block]
      rows, mask = _pad(self.frames[start : start + block], block, frames, rng)
      teacher_rows, teacher_mask = _pad(self.teacher_frames[start : start + block], block, frames, rng)
      found = (teacher_rows, teacher_mask) if teacher else (None, None)
      yield Block(rows, mask, found[0], ids, teacher_mask=found[1])

  def caption_blocks(self, block: int, words: int = WORDS, teacher: bool = True):
    """Cuts the captions into blocks padded to `words` tokens."""
    rng = np.random.default_rng(98)
    for start in range(0, len(self.tokens), block):
      ids = self.caption_ids[start : start + block]
      rows, mask = _pad(self.tokens[start : start + block], block, words, rng)
      text = rng.standard_normal((block, TEACHER_FEATURES)).astype(np.float32)
      text[: len(ids)] = self.teacher_text[start : start + block]
      own = self.own_ids[start : start + block]
      yield Block(rows, mask, text if teacher else None, ids, video_ids=own)

  def split(self, captions=8, videos=4, frames=6, words=WORDS, teacher=True, num_videos=None) -> Blocks:
    """Returns the world as a split, in blocks of so many captions and videos."""
    return Blocks(
      len(self.frames) if num_videos is None else num_videos,
      lambda: self.caption_blocks(captions, words, teacher),
      lambda: self.video_blocks(videos, frames, teacher),
    )

  def permuted(self, order) -> World:
    """Returns the same world with its videos in another order."""
    return dataclasses.replace(
      self,
      frames=[self.frames[i] for i in order],
      teacher_frames=[self.teacher_frames[i] for i in order],
      video_ids=[self.video_ids[i] for i in order],
    )


def make_world(videos: int = 13, captions: int = 29, longest: int = 6, seed: int = 0) -> World:
  """Draws a world; videos have 1 to `longest` frames and teacher rows of another count."""
  rng = np.random.default_rng(seed)

  def draw(rows, features):
    return rng.standard_normal((rows, features)).astype(np.float32)

  return World(
    frames=[draw(rng.integers(1, longest + 1), FRAME_FEATURES) for _ in range(videos)],
    teacher_frames=[draw(rng.integers(1, longest + 1), TEACHER_FEATURES) for _ in range(videos)],
    video_ids=[f'video{i}' for i in range(videos)],
    tokens=[draw(rng.integers(1, WORDS + 1), TOKEN_FEATURES) for _ in range(captions)],
    teacher_text=[draw(1, TEACHER_FEATURES)[0] for _ in range(captions)],
    caption_ids=[f'caption{i}' for i in range(captions)],
    own_ids=[f'video{rng.integers(videos)}' for _ in range(captions)],
  )


def tied_world(videos: int = 21, captions: int = 37, seed: int = 2) -> World:
  """Draws a world of signs, ±1, whose cosines are exact in float32, so that many of them are equal bit for bit."""
  rng = np.random.default_rng(seed)

  def draw(rows, features):
    return rng.choice(np.float32([-1, 1]), (rows, features))

  return dataclasses.replace(
    make_world(videos, captions, seed=seed),
    frames=[draw(rng.integers(1, 4), SIGNS) for _ in range(videos)],
    teacher_frames=[draw(rng.integers(1, 3), TEACHER_FEATURES) for _ in range(videos)],
    tokens=[draw(1, SIGNS) for _ in range(captions)],
    teacher_text=[draw(1, TEACHER_FEATURES)[0] for _ in range(captions)],
  )


def sign_encoders() -> Encoders:
  """Encoders of `tied_world` that keep norms exact: all signs for one branch, the first four for the other."""

  def branches(signs):
    return {'inheritance': signs, 'exploration': signs[..., :4]}

  return Encoders(
    tokens=jax.jit(lambda params, rows, mask: branches(rows[:, 0])),
    frames=jax.jit(lambda params, rows, mask: branches(rows)),
  )


def linear_parameters(seed: int = 1) -> dict:
  """Parameters of the linear encoders: one matrix for tokens and one for frames, a branch."""
  rng = np.random.default_rng(seed)
  return {
    branch: {
      'tokens': rng.standard_normal((TOKEN_FEATURES, HIDDEN)).astype(np.float32),
      'frames': rng.standard_normal((FRAME_FEATURES, HIDDEN)).astype(np.float32),
    }
    for branch in ('inheritance', 'exploration')
  }


def linear_encoders() -> Encoders:
  """Encoders simple enough to redo by hand: mean of the valid tokens, each frame alone, times a matrix."""

  @jax.jit
  def tokens(params, rows, mask):
    weight = mask.astype(jnp.float32)[..., None]
    mean = (rows * weight).sum(1) / jnp.maximum(weight.sum(1), 1.0)
    return {branch: mean @ p['tokens'] for branch, p in params.items()}

  @jax.jit
  def frames(params, rows, mask):
    del mask
    return {branch: rows @ p['frames'] for branch, p in params.items()}

  return Encoders(tokens, frames)


def loop_scores(world: World, params: dict) -> dict[str, np.ndarray]:
  """All score matrices, one query, one video and one frame at a time, in float64."""
  scores = {name: np.empty((len(world.tokens), len(world.frames))) for name in (*params, 'fused', 'teacher')}
  for q, tokens in enumerate(world.tokens):
    for v in range(len(world.frames)):
      for branch, p in params.items():
        query = tokens.mean(0) @ p['tokens']
        scores[branch][q, v] = max(_cosine(query, f @ p['frames']) for f in world.frames[v])
      scores['teacher'][q, v] = max(_cosine(world.teacher_text[q], f) for f in world.teacher_frames[v])
      scores['fused'][q, v] = 0.7 * scores['inheritance'][q, v] + 0.3 * scores['exploration'][q, v]
  return scores


def in_release_order(found: RetrievalMetrics) -> list[float]:
  """Returns the metrics in the order in which the authors' program gives them."""
  recall = [found.r1, found.r5, found.r10, found.r100]
  return [*recall, found.median_rank, found.mean_rank, found.mean_ap]


def _cosine(a, b) -> float:
  return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def _pad(items, block, length, rng):
  rows = rng.standard_normal((block, length, items[0].shape[1])).astype(np.float32)
  mask = np.zeros((block, length), bool)
  for i, item in enumerate(items):
    rows[i, : len(item)] = item
    mask[i, : len(item)] = True
  return rows, mask
