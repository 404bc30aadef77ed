"""The text backbones of an index: what turns a typed sentence into the features that its scorers were made for.

An index knows them by fingerprint, whose name `video.backbones` finds. Files are looked for where they were when the
index was made, or where `--clip` says that they are now.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dlkd_jax import files
from dlkd_jax.errors import UserError
from dlkd_jax.gallery.encoding import TEACHER, StudentEncoder, unit
from dlkd_jax.gallery.segments import IndexFolderError
from dlkd_jax.video import backbones


def describe(options: Mapping[str, Any], clip: str | None) -> dict[str, Any]:
  """Returns what an index notes of the text backbones of a data set.

  Args:
    options: of the data set, as its builder noted them.
    clip: folder of its CLIP, where known.

  Returns:
    'tokens' and 'teacher' → {'fingerprint', 'clip': the folder, or None}; None where the set was not made with a
    backbone that is known here.
  """

  folder = str(pathlib.Path(clip).absolute()) if clip else None

  def one(fingerprint: Any) -> dict[str, Any] | None:
    try:
      spec = backbones.spec_again(str(fingerprint), folder)
    except LookupError:
      return None
    return {'fingerprint': fingerprint, 'clip': None if spec == fingerprint else folder}

  return {name: one(options.get(name)) for name in ('tokens', TEACHER)}


def open_backbone(about: Mapping[str, Any], clip: str | None, what: str) -> backbones.TextBackbone:
  """Opens a text backbone and checks that it is the one of the index.

  Args:
    about: 'fingerprint', and 'clip', the folder where it was.
    clip: where it is now; None: where it was.
    what: what it is for, for messages.

  Raises:
    IndexFolderError: it is not there, or another one is.
  """
  fingerprint, folder = about['fingerprint'], clip or about['clip']
  try:
    spec = backbones.spec_again(fingerprint, folder)
  except LookupError as error:
    raise IndexFolderError(f'{what} of this index are made by {fingerprint!r}: {error}; install its package') from error
  if spec is None or (spec != fingerprint and not pathlib.Path(folder).exists()):
    where = 'the index does not know where it is' if folder is None else f'{folder} does not exist'
    raise IndexFolderError(
      f'{what} of this index are made by the CLIP {fingerprint!r}, and {where}; say where it is with --clip=DIR'
    )
  backbone = backbones.open_text_backbone(spec)
  if backbone.fingerprint != fingerprint:
    raise IndexFolderError(
      f'{what} of this index are made by the CLIP {fingerprint!r}; {folder} holds {backbone.fingerprint!r}. Say with '
      '--clip=DIR where the right one is'
    )
  return backbone


class SentenceEncoder:
  """Turns sentences into query vectors; backbones are opened when the first sentence comes."""

  def __init__(
    self, text: Mapping[str, Any], scorers: Sequence[str], student: StudentEncoder | None, clip: str | None = None
  ):
    """Takes what the index notes of its backbones (`describe`), its scorers, and where a CLIP is now."""
    self._text, self._scorers, self._student, self._clip = text, tuple(scorers), student, clip

  def check(self, scorers: Sequence[str]) -> None:
    """Opens the backbones that some scorers need.

    Raises:
      IndexFolderError: the data set of the index was made without one that is known here, or it is not there.
    """
    for kind in self._kinds(scorers):
      self._open(kind)

  def __call__(self, sentences: Sequence[str], scorers: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Encodes sentences.

    Args:
      sentences: q of them, none empty.
      scorers: which are wanted; None: all of the index.

    Returns:
      scorer → `[q, H]` float32 unit vectors.

    Raises:
      UserError: a sentence is empty, or holds half of a character.
      IndexFolderError: as `check`.
    """
    wanted = self._scorers if scorers is None else tuple(scorers)
    for number, sentence in enumerate(sentences):
      if not sentence.strip():
        raise UserError(f'sentence {number + 1} is empty; type what is to be found')
      files.check_characters(sentence, f'sentence {number + 1}')
    self.check(wanted)
    vectors: dict[str, np.ndarray] = {}
    if 'tokens' in self._kinds(wanted):
      vectors |= self._student.tokens(self._open('tokens').tokens(sentences))
    if TEACHER in wanted:
      vectors[TEACHER] = unit(self._open(TEACHER).sentences(sentences))
    return {name: vectors[name] for name in wanted}

  def notes(self, sentence: str, scorers: Sequence[str]) -> tuple[str, ...]:
    """Returns what is to be said of how some scorers read a sentence: that it was cut, or that no word is known."""
    found = []
    for kind in self._kinds(scorers):
      who, most = ('the teacher', None) if kind == TEACHER else ('the student', self._student.config.data.max_words)
      reading = self._open(kind).reads(sentence)
      read = reading.read if most is None else min(reading.read, most)
      if read < reading.needed:
        found.append(
          f'{who} reads {read} of the {reading.needed} tokens of this sentence; what stands behind has no part in the '
          'search: say it shorter'
        )
      if not reading.known:
        found.append(f'{who} knows no word of this sentence; its scores mean nothing')
    return tuple(found)

  def _kinds(self, scorers: Sequence[str]) -> list[str]:
    return [kind for kind in ('tokens', TEACHER) if any((name == TEACHER) == (kind == TEACHER) for name in scorers)]

  def _open(self, kind: str) -> backbones.TextBackbone:
    about = self._text.get(kind)
    if about is None:
      raise IndexFolderError(
        'a typed sentence cannot be searched here: the data set of this index came as features, and what made them of '
        'sentences is not known. Search with a caption of the set (--caption=ID; '
        '`python -m dlkd_jax.index info --captions` lists them), or with query vectors (Gallery.search_vectors)'
      )
    return _opened(about['fingerprint'], about['clip'], self._clip, kind)


@functools.lru_cache(maxsize=8)
def _opened(fingerprint: str, clip_then: str | None, clip_now: str | None, kind: str) -> backbones.TextBackbone:
  what = 'the query vectors of the teacher' if kind == TEACHER else 'the tokens of sentences'
  backbone = open_backbone({'fingerprint': fingerprint, 'clip': clip_then}, clip_now, what)
  backbones.forget_files()
  return backbone
