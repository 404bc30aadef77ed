"""The text backbones of an index: what turns a typed sentence into the features that its scorers were made for.

An index knows them by fingerprint, whose name `video.backbones` finds. Files are looked for where they were when the
index was made, or where `--clip` says that they are now.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dlkd_jax import files
from dlkd_jax.errors import UserError
from dlkd_jax.gallery.encoding import TEACHER, StudentEncoder
from dlkd_jax.gallery.segments import IndexFolderError
from dlkd_jax.models import hub
from dlkd_jax.vectors import unit
from dlkd_jax.video import backbones


def describe(options: Mapping[str, Any], where: Mapping[str, str], clip: str | None) -> dict[str, Any]:
  """Returns what an index notes of the backbones of a data set.

  Args:
    options: of the data set, as its builder noted them.
    where: of the data set: 'tokens', 'teacher', 'student' → place of their files, as far as it was noted.
    clip: place of its model of pictures and sentences, as `hub.find` has it, where that is another now.

  Returns:
    'text' (of 'tokens' and 'teacher') and 'pictures' (of 'student' and 'teacher') → {'fingerprint', 'where': the place,
    or None}; None where the set was not made with a backbone that is known here.
  """
  now = hub.find(clip).where if clip else None

  def one(name: str, pictures: bool) -> dict[str, Any] | None:
    fingerprint = str(options.get(name))
    try:
      has_files = backbones.spec_again(fingerprint, None, pictures) is None
    except LookupError:
      return None
    place = (now if backbones.is_joint(fingerprint) else None) or where.get(name)
    return {'fingerprint': fingerprint, 'where': place if has_files else None}

  return {
    'text': {name: one(name, False) for name in ('tokens', TEACHER)},
    'pictures': {name: one(name, True) for name in ('student', TEACHER)},
  }


def open_backbone(about: Mapping[str, Any], clip: str | None, what: str) -> backbones.TextBackbone:
  """Opens a text backbone and checks that it is the one of the index.

  Args:
    about: 'fingerprint', and 'where', the place where it was; in older indexes 'clip', a folder.
    clip: where the model of pictures and sentences is now; None: where it was.
    what: what it is for, for messages.

  Raises:
    IndexFolderError: it is not there, or another one is.
    UserError: it is on the hub, and cannot be had.
  """
  fingerprint, place = about['fingerprint'], about.get('where', about.get('clip'))
  joint = backbones.is_joint(fingerprint)
  if joint:
    place = clip or place
  made = f'{what} of this index are made by {"the CLIP " * joint}{fingerprint!r}'
  hint = 'say where it is with --clip=DIR' if joint else 'put it there again, or a link to it'
  try:
    spec = backbones.spec_again(fingerprint, place)
  except LookupError as error:
    raise IndexFolderError(f'{made}: {error}; install its package') from error
  if spec is None:
    raise IndexFolderError(f'{made}, and the index does not know where it is; {hint}')
  if spec != fingerprint and not (found := hub.find(place)).path.exists():
    raise IndexFolderError(f'{made}, and {found.path} does not exist; {hint}')
  backbone = backbones.open_text_backbone(spec)
  # A data set notes of its teacher how it sees pictures.
  if fingerprint not in (backbone.fingerprint, getattr(backbone, 'of_pictures', None)):
    again = 'Say with --clip=DIR where the right one is' if joint else 'Put the right one there'
    raise IndexFolderError(f'{made}; {place} holds {backbone.fingerprint!r}. {again}')
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
    kinds = self._kinds(wanted)
    texts = self._open(TEACHER).sentences(sentences) if TEACHER in kinds else None
    if 'tokens' in kinds:
      vectors |= self._student.encode_tokens(self._student.joined(self._open('tokens').tokens(sentences), texts))
    if TEACHER in wanted:
      vectors[TEACHER] = unit(texts)
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
    taught = {TEACHER, *(self._student.taught if self._student else ())} & {*scorers}
    return [*(['tokens'] if any(name != TEACHER for name in scorers) else []), *([TEACHER] if taught else [])]

  def _open(self, kind: str) -> backbones.TextBackbone:
    about = self._text.get(kind)
    if about is None:
      raise IndexFolderError(
        'a typed sentence cannot be searched here: the data set of this index came as features, and what made them of '
        'sentences is not known. Search with a caption of the set (--caption=ID; '
        '`dlkd info --captions` lists them), or with query vectors (Gallery.search_vectors)'
      )
    return _opened(about['fingerprint'], about.get('where', about.get('clip')), self._clip, kind)


@functools.lru_cache(maxsize=8)
def _opened(fingerprint: str, then: str | None, clip_now: str | None, kind: str) -> backbones.TextBackbone:
  what = 'the query vectors of the teacher' if kind == TEACHER else 'the tokens of sentences'
  backbone = open_backbone({'fingerprint': fingerprint, 'where': then}, clip_now, what)
  backbones.forget_files()
  return backbone
