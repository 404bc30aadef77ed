"""A world of moments that a student sees all of and a teacher part of.

A video is a row of frames: two to four moments, each an event (subject, action, object, attribute),
in front of a background that drifts slowly, and between them frames that show other events of the
same subjects. A caption describes one moment in words.

* A student frame is a fixed random nonlinear function of everything at that frame, and noise.
* A token is a vector of its word, blurred with its neighbours, and noise. Words that mean the same
  have similar vectors, and nothing ties those to the frames but the training pairs.
* A teacher frame and a teacher sentence lie in one space, which knows subject and object, and
  neither action nor attribute: right in general and blind to what tells alike moments apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfds_builders.records import Sizes
from tfds_builders.synthetic_prvr.config import SyntheticConfig
from tfds_builders.synthetic_prvr.vocabulary import CONCEPTS, FACTORS, PLAIN_WORDS, num_concepts, sentence

SPLITS = ('train', 'val', 'test')
_SUBJECT, _ACTION, _OBJECT, _ATTRIBUTE = range(4)
_HIDDEN = 96
_TEACHER_SCALE = 10.0  # Teacher features are not of unit size, as those of CLIP are not.


class World:
  """A source of generated records; the same config gives the same bits.

  Each video has a random generator of its own, so the order in which records are asked for changes
  nothing.
  """

  def __init__(self, config: SyntheticConfig, teacher: bool = True):
    """Draws the parts that all videos share.

    Args:
      config: sizes, noise and seed.
      teacher: False leaves the teacher's features out.

    Raises:
      PackError: the config makes no data set.
    """
    config.validate()
    self._config, self._teacher = config, teacher
    rng = np.random.default_rng(np.random.SeedSequence([config.seed, 1]))
    size = config.factor_dims
    # concepts[factor] is [concepts, factor_dims], each of unit length.
    self._concepts = [_unit(rng, count, size) for count in num_concepts()]
    latent = 5 * size  # Four factors and the background.
    self._inner = rng.normal(0, 2.0, (latent, _HIDDEN))
    self._bias = rng.normal(0, 0.5, _HIDDEN)
    self._outer = rng.normal(0, _HIDDEN**-0.5, (_HIDDEN, config.student_dims))
    self._teacher_map = rng.normal(0, size**-0.5, (2 * size, config.teacher_dims))
    # The two sides of a joint space are known to lie apart by a constant.
    self._gap = rng.normal(0, 0.5, (2, config.teacher_dims))
    self._words = self._draw_words(rng)

  def _draw_words(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns the vector of each word, `[Dq]`: near that of its synonym."""
    dims = self._config.token_dims
    words = {}
    for factor, concepts in zip(FACTORS, self._concepts, strict=True):
      projection = rng.normal(0, 1.5, (concepts.shape[1], dims))
      meanings = np.tanh(concepts @ projection)
      for meaning, synonyms in zip(meanings, CONCEPTS[factor], strict=True):
        for word in synonyms:
          words[word] = meaning + rng.normal(0, 0.4, dims)
    for word in PLAIN_WORDS:
      words[word] = rng.normal(0, 0.7, dims)
    return words

  def sizes(self) -> Sizes:
    """Returns the features a row."""
    config = self._config
    teacher = config.teacher_dims if self._teacher else None
    return Sizes(config.student_dims, config.token_dims, teacher)

  def videos(self) -> dict[str, list[str]]:
    """Returns split → video ids."""
    counts = (self._config.num_train, self._config.num_val, self._config.num_test)
    return {
      split: [f'{split}_{index:05d}' for index in range(count)] for split, count in zip(SPLITS, counts, strict=True)
    }

  def description(self) -> dict[str, Any]:
    """Returns nothing: the config tells all."""
    return {}

  def record(self, split: str, video: str) -> dict[str, Any]:
    """Returns one generated record, features as float32."""
    config = self._config
    index = int(video.rsplit('_', 1)[1])
    rng = np.random.default_rng(np.random.SeedSequence([config.seed, 2 + SPLITS.index(split), index]))
    frames = int(rng.integers(config.min_frames, config.max_frames + 1))
    moments, events = self._draw_moments(rng, frames)
    latent = self._draw_frames(rng, frames, moments, events)
    chosen = [number % len(events) for number in range(config.captions_per_video)]
    chosen = rng.permutation(chosen)
    sentences = [sentence(events[moment], rng, config.attribute_rate, config.filler_rate) for moment in chosen]
    record = {
      'video_id': video,
      'student_frames': self._see(rng, latent),
      'student_tokens': np.concatenate([self._read(rng, words) for words in sentences]),
      'token_lengths': np.asarray([len(words) for words in sentences], np.int32),
      'captions': [' '.join(words) + '.' for words in sentences],
      'caption_ids': [f'{video}#enc#{number}' for number in range(len(sentences))],
      'moments': (moments[chosen] * config.seconds_per_frame).astype(np.float32),
      'duration': np.float32(frames * config.seconds_per_frame),
    }
    if self._teacher:
      record |= {
        'teacher_frames': self._teacher_see(rng, latent),
        'teacher_text': self._teacher_read(rng, events[chosen]),
      }
    return record

  def _draw_moments(self, rng: np.random.Generator, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns first and end frame of each moment, `[M, 2]`, and its concepts, `[M, 4]`."""
    count = int(rng.integers(2, self._config.max_moments + 1))
    slot = frames / count
    moments = []
    for number in range(count):
      length = int(rng.integers(2, max(3, int(slot * 0.7)) + 1))
      first = int(number * slot) + int(rng.integers(0, max(1, int(slot) - length) + 1))
      moments.append((first, min(first + length, frames)))
    events = np.stack([self._draw_event(rng) for _ in range(count)])
    # Half of the moments show who was seen before: one moment is not told by its subject.
    for number in range(1, count):
      if rng.random() < 0.5:
        events[number, _SUBJECT] = events[0, _SUBJECT]
    return np.asarray(moments), events

  def _draw_event(self, rng: np.random.Generator) -> np.ndarray:
    return np.asarray([rng.integers(count) for count in num_concepts()])

  def _draw_frames(self, rng: np.random.Generator, frames: int, moments: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Returns what is there at each frame, `[L, 5 · factor_dims]`."""
    config, size = self._config, self._config.factor_dims
    latent = np.zeros((frames, 5 * size))
    inside = np.zeros(frames, bool)
    for (first, end), event in zip(moments, events, strict=True):
      steps = np.arange(end - first)
      fade = np.minimum(1.0, 0.6 + 0.4 * np.minimum(steps, steps[::-1]))  # Weaker at both ends.
      latent[first:end, : 4 * size] = np.outer(fade, self._event_vector(event))
      inside[first:end] = True
    outside = np.flatnonzero(~inside)
    for frame in outside[rng.random(len(outside)) < config.distractors]:
      event = self._draw_event(rng)
      event[_SUBJECT] = events[rng.integers(len(events)), _SUBJECT]
      shown = rng.random(4) < 0.6
      latent[frame, : 4 * size] = self._event_vector(event) * np.repeat(shown, size)
    start, goal = rng.normal(0, size**-0.5, (2, size))
    way = np.linspace(0, 1, frames)[:, None]
    latent[:, 4 * size :] = config.background * (start * (1 - way) + goal * way)
    return latent

  def _event_vector(self, event: np.ndarray) -> np.ndarray:
    """Returns the latent vector of one event, `[4 · factor_dims]`."""
    return np.concatenate([concepts[number] for concepts, number in zip(self._concepts, event, strict=True)])

  def _see(self, rng: np.random.Generator, latent: np.ndarray) -> np.ndarray:
    """Returns the student's frames, `[L, Dv]`."""
    signal = np.tanh(latent @ self._inner + self._bias) @ self._outer
    return _with_noise(rng, signal, self._config.student_noise)

  def _read(self, rng: np.random.Generator, words: list[str]) -> np.ndarray:
    """Returns the student's tokens of one sentence, `[W, Dq]`."""
    config = self._config
    own = np.stack([self._words[word] for word in words])
    around = np.pad(own, ((1, 1), (0, 0)), mode='edge')
    neighbours = (around[:-2] + around[2:]) / 2
    signal = (1 - config.token_mixing) * own + config.token_mixing * neighbours
    return _with_noise(rng, signal, config.token_noise)

  def _known(self, latent: np.ndarray) -> np.ndarray:
    """Returns the part of event vectors that the teacher knows, in its space, `[…, Dt]`."""
    size = self._config.factor_dims
    subject = latent[..., _SUBJECT * size : (_SUBJECT + 1) * size]
    thing = latent[..., _OBJECT * size : (_OBJECT + 1) * size]
    return np.concatenate([subject, thing], axis=-1) @ self._teacher_map

  def _teacher_see(self, rng: np.random.Generator, latent: np.ndarray) -> np.ndarray:
    """Returns the teacher's frames, `[m, Dt]`; m need not be L."""
    config = self._config
    count = max(1, round(len(latent) * config.teacher_frame_ratio))
    rows = np.minimum(np.arange(count) * len(latent) // count, len(latent) - 1)
    nuisance = config.teacher_nuisance * rng.normal(0, 1, config.teacher_dims)
    signal = self._known(latent[rows]) + self._gap[0] + nuisance
    return _TEACHER_SCALE * _with_noise(rng, signal, config.teacher_noise)

  def _teacher_read(self, rng: np.random.Generator, events: np.ndarray) -> np.ndarray:
    """Returns the teacher's vectors of sentences about events, `[k, Dt]`."""
    vectors = np.stack([self._event_vector(event) for event in events])
    signal = self._known(vectors) + self._gap[1]
    return _TEACHER_SCALE * _with_noise(rng, signal, self._config.teacher_text_noise)


def _unit(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
  """Returns `[count, size]` random directions."""
  vectors = rng.normal(0, 1, (count, size))
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _with_noise(rng: np.random.Generator, signal: np.ndarray, amount: float) -> np.ndarray:
  """Returns the signal with noise of `amount` times its own spread, as float32."""
  return (signal + amount * signal.std() * rng.normal(0, 1, signal.shape)).astype(np.float32)
