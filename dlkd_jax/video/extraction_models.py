"""The backbones of an extraction as one: what they see of a film, and the features of it and of its captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.video import backbones, spans


class Models:
  """The backbones of a request, and what they made."""

  def __init__(self, student: str | None, tokens: str | None, teacher: str | None, keep_pixels: bool = False):
    """Opens them by their names, which are those of a `Request`; errors are of `backbones.open_frame_backbone`.

    Without `tokens` there are none of sentences, the teacher's neither; without `student` the teacher alone sees films.
    """
    self.student = backbones.open_frame_backbone(student) if student is not None else None
    self.text = backbones.open_text_backbone(tokens) if tokens is not None else None
    self.teacher = self.teacher_text = None
    if teacher is not None:
      self.teacher = self.student if teacher == student else backbones.open_frame_backbone(teacher)
      if tokens is not None:
        self.teacher_text = self.text if teacher == tokens else backbones.open_text_backbone(teacher)
      if self.teacher_text is not None and self.teacher.features != self.teacher_text.sentence_features:
        raise UserError(
          f'teacher {teacher!r} gives {self.teacher.features} features of a picture and '
          f'{self.teacher_text.sentence_features} of a sentence; a teacher needs one space for both'
        )
    backbones.forget_files()
    self._parts = backbones.parts_of(self.student) if self.student is not None else ()
    self.captions, self.cut, self.unknown = 0, 0, 0
    self.pixels = self._side(teacher) if keep_pixels else None

  def _side(self, name: str | None) -> int:
    """Returns S, the side of the pictures that the teacher sees; ValueError where it sees none."""
    single = self.teacher is not None and spans.span_of(self.teacher).pictures == 1
    seen = self.teacher.prepare(np.zeros((8, 8, 3), np.uint8)) if single else np.zeros(0)
    if seen.dtype != np.uint8 or seen.ndim != 3 or seen.shape != (len(seen), len(seen), 3):
      raise UserError(f'pixels are kept for a teacher that sees square pictures, as clip:DIR; the teacher is {name!r}')
    return len(seen)

  def sizes(self) -> dict[str, int | None]:
    """Returns Dv, Dq and Dt, and S where pictures are kept."""
    parts = (('Dv', self.student, 'features'), ('Dq', self.text, 'token_features'), ('Dt', self.teacher, 'features'))
    sizes = {name: getattr(model, size) if model else None for name, model, size in parts}
    return sizes | ({'S': self.pixels} if self.pixels else {})

  def fingerprints(self) -> dict[str, str | None]:
    """Returns what tells the models from others."""
    models = {'teacher': self.teacher, 'student': self.student, 'tokens': self.text}
    return {name: model.fingerprint if model else None for name, model in models.items()}

  def where(self) -> dict[str, str]:
    """Returns where the models' files are, of those that have any, and know."""
    models = {'teacher': self.teacher, 'student': self.student, 'tokens': self.text}
    return {name: where for name, model in models.items() if (where := getattr(model, 'where', None))}

  def views(self) -> tuple[spans.View, ...]:
    """Returns what the parts of the student's backbone see of a film, then what the teacher's does if it is its own."""
    seeing = (*self._parts, *(() if self.teacher in (None, self.student) else (self.teacher,)))
    return tuple(spans.View(spans.span_of(each), each.prepare) for each in seeing)

  def encode(self, samples: Sequence[list[list[Any]]]) -> dict[str, np.ndarray]:
    """Returns the features of samples, each the prepared pictures of each view, by name as in a record."""
    columns = list(zip(*samples, strict=True))
    rows = [_encoded(part, column) for part, column in zip(self._parts, columns, strict=False)]
    features = {'student_frames': rows[0] if len(rows) == 1 else self.student.join(rows)} if rows else {}
    if self.teacher is not None:
      own = len(columns) > len(rows)
      features['teacher_frames'] = _encoded(self.teacher, columns[-1]) if own else features['student_frames']
    if self.pixels is not None:
      features['teacher_pixels'] = np.stack([seen[0] for seen in columns[-1]])
    return features

  def encode_text(self, texts: list[str]) -> dict[str, np.ndarray]:
    """Returns the features of the captions of one video, by name as in a record."""
    tokens = self.text.tokens(texts) if texts else []
    self._count(texts)
    features = {
      'student_tokens': np.concatenate([*tokens, np.zeros((0, self.text.token_features), np.float32)]),
      'token_lengths': np.array([len(rows) for rows in tokens], np.int32),
    }
    if self.teacher_text is not None:
      empty = np.zeros((0, self.teacher_text.sentence_features), np.float32)
      features['teacher_text'] = self.teacher_text.sentences(texts) if texts else empty
    return features

  def _count(self, texts: list[str]) -> None:
    """Counts the captions, and those that a backbone cuts or knows no word of."""
    # A backbone need not know what it leaves out.
    readers = [each for each in {self.text, self.teacher_text} if hasattr(each, 'reads')]
    for text in texts:
      readings = [each.reads(text) for each in readers]
      self.captions += 1
      self.cut += any(read < needed for needed, read, _ in readings)
      self.unknown += not all(known for _, _, known in readings)

  def notes(self) -> list[str]:
    """Returns what is to be said of how captions were read."""
    whole = f'of {self.captions:,} captions'
    found = [f'{self.cut:,} {whole} are longer than the text backbone reads, and were cut'] if self.cut else []
    return found + ([f'{self.unknown:,} {whole} have no word that the text backbone knows'] if self.unknown else [])


def _encoded(backbone: backbones.FrameBackbone, seen: Sequence[list[Any]]) -> np.ndarray:
  """Returns the features [N, D] of the pictures that a backbone sees around N times."""
  single = spans.span_of(backbone).pictures == 1
  return backbone.encode([pictures[0] for pictures in seen] if single else seen)
