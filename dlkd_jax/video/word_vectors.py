"""A fixed random vector a word: tokens that know which words are the same, and nothing else."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")


class WordVectors:
  """Text features without weights: vectors N(0, 1) / sqrt(D) that follow from a hash of the lower-cased word."""

  def __init__(self, dims: int):
    """Takes D."""
    self.name = self.fingerprint = f'words:{dims}'
    self.token_features = self.sentence_features = dims
    self._vector = functools.lru_cache(maxsize=1 << 16)(self._make)

  def _make(self, word: str) -> np.ndarray:
    # Box and Muller's transform of hashed bytes: no generator whose stream may change with a version.
    half = (self.token_features + 1) // 2
    bits = np.frombuffer(hashlib.shake_256(word.encode()).digest(16 * half), '<u8')
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2 * np.log(uniform[:half])), 2 * np.pi * uniform[half:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: self.token_features]
    return (normal / np.sqrt(self.token_features)).astype(np.float32)

  def tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the vectors of each text's words in their order, float32 [n_i, D]; a text without a word is one."""
    return [np.stack([self._vector(word) for word in words(text)]) for text in texts]

  def sentences(self, texts: Sequence[str]) -> np.ndarray:
    """Returns the mean of each text's words, float32 [N, D]."""
    means = [rows.mean(axis=0) for rows in self.tokens(texts)]
    return np.stack(means) if means else np.zeros((0, self.sentence_features), np.float32)


def words(text: str) -> list[str]:
  """Returns the lower-cased words of a text in their order; at least one."""
  return _WORD.findall(text.lower()) or [text.strip().lower()]
