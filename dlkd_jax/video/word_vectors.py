"""A fixed random vector a word: tokens that know which words are the same, and nothing else.

Scripts without spaces between words have no words to hash: of these each character and each pair of neighbours is a
token, so that sentences with common words have tokens in common. A character goes with the marks on it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.models.clip_inputs import Reading

_PLAIN_WORD = re.compile(r"\w+(?:'\w+)*")
# Thai, Lao, Myanmar, Khmer, Tai Le to Tai Tham, kana, Han and its marks of repetition, Tai Viet.
_UNSPACED = (
  '\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ebd\u0ec0-\u0ece\u0edc-\u0edf\u1000-\u103f\u104c-\u108f\u109a-\u109d'
  '\u1780-\u17d3\u17d7\u17dc\u17dd\u1950-\u1974\u1980-\u19c9\u1a20-\u1a7c\u3005-\u3007\u3021-\u302f\u3031-\u3035'
  '\u3038-\u303c\u3041-\u3096\u309d-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ef\ua9fa-\ua9fe'
  '\uaa60-\uaac2\uaadb-\uaadd\uf900-\ufaff\uff66-\uff9f\U0001aff0-\U0001b16f\U00020000-\U0003ffff'
)
# Behind these, which write one consonant below another, a character goes on.
_STACKING = '\u1039\u17d2\u1a60'
# Vowels and marks of sound that are letters to Unicode, and no character of their own to a reader.
_FOLLOWING = '\u0e33\u0eb3\uff9e\uff9f'


class WordVectors:
  """Text features without weights: vectors N(0, 1) / sqrt(D) that follow from a hash of the lower-cased word."""

  form = 'words:256'
  files = False

  def __init__(self, where: str = '256'):
    """Takes D; UserError where it is no number."""
    if not (where.isascii() and where.isdecimal() and int(where) > 0):
      raise UserError(f"'words:{where}': expected the number of features after the colon, as words:256")
    dims = int(where)
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

  def reads(self, text: str) -> Reading:
    """Returns how many tokens a sentence has, how many of them are read, and how many of these are words."""
    count = len(_words(text))
    return Reading(max(1, count), max(1, count), count)

  def sentences(self, texts: Sequence[str]) -> np.ndarray:
    """Returns the mean of each text's words, float32 [N, D]."""
    means = [rows.mean(axis=0) for rows in self.tokens(texts)]
    return np.stack(means) if means else np.zeros((0, self.sentence_features), np.float32)


def words(text: str) -> list[str]:
  """Returns the tokens of a text in their order, lower-cased and composed (NFC); at least one.

  Words, of letters, digits and the marks on them, with apostrophes inside; of scripts without spaces every character,
  and behind it its pair with the next one.
  """
  return _words(text) or [_normal(text.strip())]


def _words(text: str) -> list[str]:
  if text.isascii():
    return _PLAIN_WORD.findall(text.lower())
  word, unspaced, character = _patterns()
  found: list[str] = []
  for part in word.findall(_normal(text)):
    for run in unspaced.split(part):
      if not run:
        continue
      if not unspaced.fullmatch(run):
        found += word.findall(run)
        continue
      characters = character.findall(run)
      pairs = (one + other for one, other in itertools.pairwise(characters))
      found += [token for both in itertools.zip_longest(characters, pairs) for token in both if token]
  return found


def token_spans(text: str) -> list[tuple[str, int, int]]:
  """Returns the tokens of `words` as they stand in a text, and from which character to which; none of an empty text."""
  word, unspaced, character = _patterns()
  found: list[tuple[str, int, int]] = []
  for part in word.finditer(text):
    start = part.start()
    for run in unspaced.split(part[0]):
      if run and not unspaced.fullmatch(run):
        found += [(each[0], start + each.start(), start + each.end()) for each in word.finditer(run)]
      elif run:
        each = [(one[0], start + one.start(), start + one.end()) for one in character.finditer(run)]
        found += each + [(one[0] + other[0], one[1], other[2]) for one, other in itertools.pairwise(each)]
      start += len(run)
  return sorted(found, key=lambda token: token[1])


def _normal(text: str) -> str:
  return unicodedata.normalize('NFC', text.lower())


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
  """Returns patterns of a word, of a run without spaces, as a group, and of one character of such a run."""
  # Python's expressions know no class of marks. The dot above is left out: lower-casing puts one behind the i of the
  # Turkish İ, and words have always ended there.
  codes = (*range(0x300, 0x307), *range(0x308, 0x1F000), *range(0xE0100, 0xE01F0))
  marks = ''.join(x for x in map(chr, codes) if unicodedata.category(x)[0] == 'M')
  word = rf"\w[\w{marks}]*(?:['\u2019]\w[\w{marks}]*)*"
  follows = f'[{marks}{_FOLLOWING}]'
  return (
    re.compile(word),
    re.compile(f'((?:[{_UNSPACED}]{follows}*)+)'),
    re.compile(f'.(?:{follows}|(?<=[{_STACKING}]).)*', re.DOTALL),
  )
