"""Backbones: what their features are made of, against plain computations, and which names are refused."""

from __future__ import annotations

import hashlib
import math
import pathlib
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlkd_jax.files import fingerprint_of_files
from dlkd_jax.video import backbones, word_vectors


def _picture(height=96, width=128):
  image = np.zeros((height, width, 3), np.uint8)
  image[: height // 2, : width // 2] = (200, 10, 10)
  return image


def _plain(features):
  """Takes the usual mean and scale of each part out again: [N, 193]."""
  hues = np.array([[0.1, 0.15], [0, 0.15], [0.15, 0.2], [0, 0.15], [0.15, 0.2]])
  parts = [(48, 0.4, 0.2), (16, 0.12, 0.08), (27, 0.1, 0.2), (72, 0.07, 0.05)]
  mean = np.concatenate([np.full(count, mean) for count, mean, _ in parts] + [np.tile(hues[:, 0], 6)])
  scale = np.concatenate([np.full(count, scale) for count, _, scale in parts] + [np.tile(hues[:, 1], 6)])
  return (features * scale + mean).astype(np.float32)


def test_statistics_describe_the_picture():
  backbone = backbones.open_frame_backbone('statistics')
  features = backbone([_picture(), np.full((50, 40, 3), 128, np.uint8)])
  assert features.shape == (2, backbone.features) == (2, 193) and features.dtype == np.float32
  assert np.isfinite(features).all() and np.abs(features).max() < 10
  features = _plain(features)
  means = features[:, :48].reshape(2, 4, 4, 3)
  np.testing.assert_allclose(means[0, :2, :2], np.broadcast_to(np.array([200, 10, 10]) / 255, (2, 2, 3)), atol=1e-5)
  assert np.abs(means[0, 2:]).max() < 1e-6 and np.allclose(means[1], 128 / 255)
  contrast, histogram = features[:, 48:64], features[:, 64:91]
  assert np.abs(contrast[1]).max() < 1e-6
  np.testing.assert_allclose((histogram**2).sum(axis=1), 1, rtol=1e-5)
  np.testing.assert_allclose(histogram[0, [0, 18]] ** 2, [0.75, 0.25], rtol=1e-5)
  hues = features[:, 163:].reshape(2, 6, 5)
  assert hues[0, 0, 0] > 0 and np.abs(hues[0, 1:, 0]).max() < 1e-6  # Red, and no other hue.
  np.testing.assert_allclose(hues[0, 0, [1, 3]], -0.5, atol=0.01)  # Its centre, above and on the left.
  assert np.abs(hues[1]).max() < 1e-6  # Grey has no hue.


def test_orientations_follow_the_edges():
  backbone = backbones.open_frame_backbone('statistics')
  image = np.zeros((48, 48, 3), np.uint8)
  image[:, 24:] = 255
  across, down = _plain(backbone([image, np.swapaxes(image, 0, 1).copy()]))[:, 91:163].reshape(2, 9, 8)
  # Brighter to the right is orientation 0, brighter downwards a quarter turn on; the middle third holds the edge.
  assert across[[1, 4, 7], 0].min() > 0.1 and across.sum() == pytest.approx(across[[1, 4, 7], 0].sum(), abs=1e-5)
  assert down[3:6, 2].min() > 0.1 and down.sum() == pytest.approx(down[3:6, 2].sum(), abs=1e-5)


def test_pictures_do_not_depend_on_their_batch():
  backbone = backbones.open_frame_backbone('statistics')
  images = [_picture(40 + n, 60) for n in range(5)]
  together = backbone(images)
  np.testing.assert_array_equal(together, np.concatenate([backbone([image]) for image in images]))


def _word(word, dims):
  """Box and Muller's transform of a word's hash, number by number."""
  half = (dims + 1) // 2
  data = hashlib.shake_256(word.encode()).digest(16 * half)
  uniform = [((int.from_bytes(data[8 * i : 8 * i + 8], 'little') >> 11) + 0.5) / 2**53 for i in range(2 * half)]
  pairs = [(math.sqrt(-2 * math.log(u)), 2 * math.pi * v) for u, v in zip(uniform[:half], uniform[half:], strict=True)]
  normal = [r * math.cos(a) for r, a in pairs] + [r * math.sin(a) for r, a in pairs]
  return np.array(normal[:dims]) / math.sqrt(dims)


@pytest.mark.parametrize('dims', [1, 7, 256])
def test_words_are_vectors_of_their_hash(dims):
  backbone = backbones.open_text_backbone(f'words:{dims}')
  tokens = backbone.tokens(["A dog's ball.", 'ball, a BALL', '...'])
  assert [rows.shape for rows in tokens] == [(3, dims), (3, dims), (1, dims)]
  for rows, names in zip(tokens, (('a', "dog's", 'ball'), ('ball', 'a', 'ball'), ('...',)), strict=True):
    np.testing.assert_allclose(rows, [_word(name, dims) for name in names], rtol=1e-5, atol=1e-6)
  means = backbone.sentences(["A dog's ball.", '...'])
  np.testing.assert_allclose(means, [tokens[0].mean(axis=0), tokens[2][0]], rtol=1e-6)
  assert backbone.sentences([]).shape == (0, dims)


def test_words_are_far_apart_and_of_length_one():
  rows = np.concatenate(backbones.open_text_backbone('words:256').tokens([' '.join(f'w{n}' for n in range(200))]))
  products = rows @ rows.T
  assert abs(np.diag(products).mean() - 1) < 0.05
  assert np.abs(products - np.diag(np.diag(products))).max() < 0.4


_tokens = word_vectors.words

# Letters, digits and signs of scripts with spaces, none a mark: U+0300 to U+036F and U+0483 to U+0489 are.
_SPACED = st.text(st.characters(max_codepoint=0x2FF) | st.characters(min_codepoint=0x370, max_codepoint=0x482))


@given(_SPACED)
@settings(max_examples=300, deadline=None)
def test_words_of_composed_text_with_spaces_are_what_they_always_were(text):
  text = unicodedata.normalize('NFC', text)
  assert _tokens(text) == (re.findall(r"\w+(?:['\u2019]\w+)*", text.lower()) or [text.strip().lower()])


@given(st.text(min_size=1, max_size=30))
@settings(max_examples=300, deadline=None)
def test_words_do_not_depend_on_how_text_is_composed(text):
  assert _tokens(unicodedata.normalize('NFD', text)) == _tokens(unicodedata.normalize('NFC', text))
  assert len(_tokens(text)) >= 1


@pytest.mark.parametrize(
  ('text', 'tokens'),
  [
    ('一只狗', '一 一只 只 只狗 狗'),
    ('犬が3回jumpする', '犬 犬が が 3 回 jump す する る'),
    ('ガイド', 'ガ ガイ イ イド ド'),
    ('人々', '人 人々 々'),
    ('ทะเล น้ำ', 'ท ทะ ะ ะเ เ เล ล น้ำ'),
    ('ខ្មែរ', 'ខ្មែ ខ្មែរ រ'),
    ('မြန်မာ', 'မြ မြန် န် န်မာ မာ'),
    ('ປະເທດ', 'ປ ປະ ະ ະເ ເ ເທ ທ ທດ ດ'),
    ('हिन्दी भाषा', 'हिन्दी भाषा'),
    ('x̂ÿ Cafe\u0301', 'x̂ÿ caf\u00e9'),
    ('Ein Hund 一只狗', 'ein hund 一 一只 只 只狗 狗'),
    ('🐶 …', '🐶 …'),
  ],
)
def test_words_of_scripts_without_spaces_and_of_marks(text, tokens):
  assert _tokens(text) == ([text.strip()] if '🐶' in text else tokens.split(' '))


def test_sentences_that_share_characters_share_tokens():
  one, other, third = backbones.open_text_backbone('words:256').sentences(['一只狗跳进湖里', '狗跳进水里', '两辆汽车'])
  cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
  assert cosine(one, other) > 0.5 > 0.2 > cosine(one, third)


def test_words_say_what_they_read():
  reads = backbones.open_text_backbone('words:8').reads
  assert reads('a dog') == (2, 2, 2) and reads('一只狗') == (5, 5, 5) and reads('?!') == (1, 1, 0)


@pytest.mark.parametrize(
  'spec', ['resnet', 'statistics:3', 'words:256', 'clip', 'clip:DIR@depth=2', 'efficientnet_lite0', '']
)
def test_unknown_frame_backbones_are_refused(spec):
  with pytest.raises(ValueError, match='expected one of clip:MODEL'):
    backbones.open_frame_backbone(spec)


@pytest.mark.parametrize('spec', ['statistics', 'words:many', 'words:0', 'bert', 'clip:DIR@layer=last'])
def test_unknown_text_backbones_are_refused(spec):
  with pytest.raises(ValueError, match='expected'):
    backbones.open_text_backbone(spec)


def test_fingerprints_follow_the_contents(tmp_path: pathlib.Path):
  one, other = tmp_path / 'one', tmp_path / 'other'
  one.write_bytes(b'weights')
  other.write_bytes(b'weights')
  assert fingerprint_of_files(one) == fingerprint_of_files(other)
  other.write_bytes(b'weightz')
  assert fingerprint_of_files(one) != fingerprint_of_files(other)
  assert fingerprint_of_files(one, other) != fingerprint_of_files(other, one)


def test_backbones_of_other_packages_are_found(monkeypatch):
  class Grey:
    form, files, name, fingerprint, features = 'grey:N', False, 'grey:2', 'grey:2', 1

    def __init__(self, where: str, power: str = '1'):
      self.power = int(where) * int(power)

    def encode(self, prepared):
      return np.stack(prepared)

  class Entry:
    name, value = 'grey', 'somewhere:Grey'

    def load(self):
      return Grey

  monkeypatch.setattr(
    backbones.importlib.metadata, 'entry_points', lambda group: [Entry()] * (group == backbones.GROUP)
  )
  assert backbones.open_frame_backbone('grey:2@power=3').power == 6
  with pytest.raises(ValueError, match=r'no backbone of frames .*statistics, hf:OWNER/NAME, grey'):
    backbones.open_frame_backbone('grey')
  with pytest.raises(ValueError, match="no backbone of sentences 'grey:2'"):
    backbones.open_text_backbone('grey:2')
  monkeypatch.setattr(Entry, 'load', lambda self: __import__('no_such_package'))
  with pytest.raises(ValueError, match="'grey' is somewhere:Grey, which cannot be imported"):
    backbones.open_frame_backbone('grey:2')


def test_fingerprints_lead_back_to_what_opens_them():
  again = backbones.spec_again
  assert again('words:8', None) == again('words:8', '/clip') == 'words:8'
  assert again('clip@layer=11:c49b', '/clip') == 'clip:/clip@layer=11' and again('clip:c49b', None) is None
  for odd in ('roberta.hdf5', 'clip', 'statistics:2'):
    with pytest.raises(LookupError):
      again(odd, '/clip')


def test_the_student_sees_what_its_teacher_does_where_nobody_says_otherwise():
  assert backbones.defaults('clip:hf:a/b', {}) == ('clip:hf:a/b@layer=-2', 'clip:hf:a/b')
  for teacher in (None, 'statistics', 'clip:DIR@layer=-2'):
    assert backbones.defaults(teacher, {}) == ('statistics', 'words:256')
  # Sets that were begun when that was no default go on as they were.
  begun = {'student': 'statistics:2', 'tokens': 'words:64'}
  assert backbones.defaults('clip:DIR', begun) == ('statistics', 'words:64')
  begun = {'student': 'clip@layer=1:ab', 'tokens': 'clip:ab'}
  assert backbones.defaults('clip:DIR', begun) == ('clip:DIR@layer=-2', 'clip:DIR')
