"""The anchored student: at step 0 the anchors' scores, what learns and what does not, packed as padded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlkd_jax.config_defaults import load_recipe
from dlkd_jax.data.batch import unit_rows
from dlkd_jax.errors import UserError
from dlkd_jax.layout import Layout, padded_layout
from dlkd_jax.models import anchors
from dlkd_jax.models.anchored import REACH, AnchoredStudent
from dlkd_jax.models.students import init_parameters, learns_from_teacher
from dlkd_jax.training import anchoring
from dlkd_jax.training.optimizer import bert_adam

DV, DQ, H = 7, 6, 5
STUDENT = AnchoredStudent(H, 0.3, ('inheritance', 'exploration'), jnp.float32)
RANDOM = np.random.default_rng(0)


def corpus():
  """Ten videos of unit frames, and their captions as tokens: all of three words."""
  counts, owners = RANDOM.integers(2, 6, 10), np.arange(10).repeat(2)
  tokens = np.asarray(unit_rows(RANDOM.normal(size=(20, 3, DQ)))).astype(float)
  unit = anchors.unit
  frames = unit(RANDOM.normal(size=(counts.sum(), DV)) + 1.0)
  taught, texts = unit(RANDOM.normal(size=(counts.sum(), 4))), unit(RANDOM.normal(size=(20, 4)))
  return tokens, anchors.Corpus(frames, counts, unit(tokens.mean(1)), owners, taught, texts)


TOKENS, CORPUS = corpus()


@pytest.fixture(scope='module')
def fitted():
  settings = anchors.AnchorSettings(size=H)
  return fit(settings, STUDENT.branches)


def fit(settings, branches):
  """Anchors by branch, and as a training has them."""
  found = {name: anchors.fit(name, CORPUS, settings) for name in branches}
  arrays = {}
  fill = lambda x: np.pad(x, ((0, 0), (0, H - x.shape[1])))  # noqa: E731
  for name, each in found.items():
    arrays |= {f'{name}/sentence/mean': each.sentence_mean, f'{name}/sentence/scale': np.array(each.sentence_scale)}
    arrays |= {f'{name}/sentence/map': fill(each.sentence_map), f'{name}/frame/mean': each.frame_mean}
    arrays |= {f'{name}/frame/map': fill(each.frame_map)}
  return found, anchoring.Fitted(arrays, np.zeros((20, 2 * H), np.float32), CORPUS.owners, (0.5, 0.5))


@pytest.fixture(scope='module')
def params(fitted):
  return anchoring.put(fitted[1], init_parameters(STUDENT, jax.random.key(0), DV, DQ))


def padded(rows, counts):
  length = max(counts)
  mask = np.arange(length)[None] < np.asarray(counts)[:, None]
  array = np.zeros((len(counts), length, rows.shape[-1]), np.float32)
  array[mask] = rows
  return array, mask


@functools.partial(jax.jit, static_argnames=('method', 'deterministic', 'student'))
def encode(params, method, inputs, layout, deterministic=True, student=STUDENT, **more):
  return student.apply({'params': params}, inputs, layout, deterministic, method=method, **more)


def test_at_step_0_every_score_is_the_anchors(fitted, params):
  frames, mask = padded(CORPUS.frames, CORPUS.counts)
  videos = encode(params, 'encode_frames', frames, mask)
  queries = encode(params, 'encode_tokens', TOKENS.astype(np.float32), np.ones((20, 3), bool))
  for name, anchor in fitted[0].items():
    cosines = np.where(mask, np.einsum('qh,vlh->qvl', queries[name], videos[name]), -2).max(2)
    np.testing.assert_allclose(cosines, anchors.scores(name, anchor, CORPUS), atol=1e-5)


def test_packed_as_padded(params):
  frames, mask = padded(CORPUS.frames[: sum(CORPUS.counts[:2])], CORPUS.counts[:2])
  apart = encode(params, 'encode_frames', frames, mask)
  first, second = CORPUS.counts[:2]
  row = np.concatenate([CORPUS.frames[: first + second], np.zeros((2, DV))])[None].astype(np.float32)
  slot = np.array([[0] * first + [1] * second + [-1] * 2], np.int32)
  position = np.array([[*range(first), *range(second), 0, 0]], np.int32)
  layout = Layout(slot, position, np.array([[0, 1]], np.int32), np.array([0, 1], np.int32))
  for name, packed in encode(params, 'encode_frames', row, layout).items():
    np.testing.assert_array_equal(packed[0, : first + second], apart[name][mask])


def turned(params, scale=1.0):
  """The parameters with a turn that is not 0."""
  kernel = jnp.asarray(RANDOM.normal(size=(DQ, H)) * scale, jnp.float32)
  return {name: {**own, 'turn': {'kernel': kernel}} for name, own in params.items()}


def test_the_turn_is_bounded_and_starts_where_it_is_told(params):
  mask, tokens = np.ones((20, 3), bool), TOKENS.astype(np.float32)
  plain = encode(params, 'encode_tokens', tokens, mask)
  far = encode(turned(params, 100.0), 'encode_tokens', tokens, mask)
  for name in STUDENT.branches:
    cosines = np.sum(plain[name] * far[name], axis=1)
    assert cosines.min() >= np.cos(np.arcsin(REACH['linear'])) - 1e-5 and cosines.min() < 0.99
  given = anchors.unit(RANDOM.normal(size=(20, 1, 2 * H))).astype(np.float32)
  layout = padded_layout(mask)
  found = encode(params, 'encode_tokens', tokens, layout, anchors=given)
  starts = dict(zip(STUDENT.branches, np.split(given, 2, axis=-1), strict=True))
  for name, start in starts.items():
    np.testing.assert_allclose(found[name], anchors.unit(start), atol=1e-6)


def test_the_turn_alone_learns(params):
  key, mask = jax.random.key(1), np.ones((20, 3), bool)
  frames, frame_mask = padded(CORPUS.frames, CORPUS.counts)

  def loss(params):
    rngs = {'dropout': key}
    queries = encode(params, 'encode_tokens', TOKENS.astype(np.float32), mask, False, rngs=rngs)
    videos = encode(params, 'encode_frames', frames, frame_mask, False, rngs=rngs)
    return sum(jnp.einsum('qh,vlh->', queries[name], videos[name]) for name in STUDENT.branches)

  @jax.jit
  def learned(params):
    optimizer = bert_adam(1e-2, 0.1, 1.0)
    updates, _ = optimizer.update(jax.grad(loss)(params), optimizer.init(params), params)
    return optax.apply_updates(params, updates)

  new = learned(params)
  for name in STUDENT.branches:
    jax.tree.map(np.testing.assert_array_equal, new[name]['frame_anchor'], params[name]['frame_anchor'])
    jax.tree.map(np.testing.assert_array_equal, new[name]['sentence_anchor'], params[name]['sentence_anchor'])
    assert np.abs(new[name]['turn']['kernel'][:, :4]).min() > 0  # The teacher here has four dimensions.


def test_dropout_follows_the_caption_not_its_place(params):
  own, tokens = turned(params), TOKENS[:2].reshape(1, 6, DQ).astype(np.float32)
  slot, position = np.array([[0, 0, 0, 1, 1, 1]], np.int32), np.array([[0, 1, 2, 0, 1, 2]], np.int32)
  both = Layout(slot, position, np.array([[3, 7]], np.int32), np.array([0, 1], np.int32))
  apart = padded_layout(np.ones((2, 3), bool), np.array([3, 7], np.int32))
  rngs = {'dropout': jax.random.key(2)}
  packed = encode(own, 'encode_tokens', tokens, both, False, rngs=rngs)
  single = encode(own, 'encode_tokens', TOKENS[:2].astype(np.float32), apart, False, rngs=rngs)
  plain = encode(own, 'encode_tokens', TOKENS[:2].astype(np.float32), apart)
  for name in STUDENT.branches:
    np.testing.assert_allclose(packed[name][0], single[name][:, 0], atol=1e-6)
    assert np.abs(single[name] - plain[name]).max() > 1e-3


@pytest.mark.parametrize(
  ('argument', 'learns'),
  [('', True), ('no_teacher', False), ('plus', True), ('anchored', True), ('anchored,no_teacher', False)],
)
def test_who_learns_from_the_teacher(argument, learns):
  config = load_recipe('charades', argument)
  assert learns_from_teacher(config) is learns
  assert not argument.startswith('anchored') or config.loss.teacher is False


def test_a_branch_without_an_anchor_is_refused():
  student = AnchoredStudent(H, 0.3, ('other',), jnp.float32)
  with pytest.raises(UserError, match='no branch other; expected some of inheritance, exploration'):
    init_parameters(student, jax.random.key(0), DV, DQ)


FULL = AnchoredStudent(H, 0.3, STUDENT.branches, jnp.float32, 'full')


@pytest.fixture(scope='module')
def full(fitted):
  return anchoring.put(fitted[1], init_parameters(FULL, jax.random.key(0), DV, DQ))


def away(params, seed=0):
  """Parameters whose turns are not 0."""
  random = np.random.default_rng(seed)
  fill = lambda path, x: x if '_anchor' in str(path) else random.normal(size=x.shape).astype(np.float32) / 3  # noqa: E731
  return jax.tree_util.tree_map_with_path(fill, params)


def test_a_full_student_starts_at_the_anchors(params, full):
  frames, mask = padded(CORPUS.frames, CORPUS.counts)
  tokens, words = TOKENS.astype(np.float32), np.ones((20, 3), bool)
  for method, *inputs in (('encode_frames', frames, mask), ('encode_tokens', tokens, words)):
    plain, found = encode(params, method, *inputs), encode(full, method, *inputs, student=FULL)
    for name in FULL.branches:
      np.testing.assert_allclose(found[name], plain[name], atol=1e-6)


def plain_frames(own, start):
  """Turned frames of one video `[n, H]`, frame by frame."""
  own = jax.tree.map(np.asarray, own)
  part = lambda name, x: x @ own[name]['kernel'] + own[name].get('bias', 0.0)  # noqa: E731
  gelu = lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))  # noqa: E731
  layer = part('layer', start)
  query, key, value = (part(name, layer).reshape(len(start), 4, -1) for name in ('query', 'key', 'value'))
  found = np.zeros_like(start)
  for i in range(len(start)):
    heads = []
    for head in range(4):
      logits = [
        query[i, head] @ key[j, head] / np.sqrt(query.shape[-1]) + own['distance'][j - i + 16, head]
        for j in range(len(start))
      ]
      shares = np.exp(logits) / np.exp(logits).sum()
      heads.append(shares @ value[:, head])
    hidden = layer[i] + np.concatenate(heads)
    turn = start[i] @ own['linear']['kernel'] + gelu(hidden) @ own['turn']['kernel']
    turn *= min(1.0, 1.5 / np.linalg.norm(turn))
    found[i] = (start[i] + turn) / np.linalg.norm(start[i] + turn)
  return found


def test_full_turns_follow_the_plain_loops_packed_or_not(fitted, params, full):
  own, counts = away(full), CORPUS.counts[:2]
  total = sum(counts)
  frames, mask = padded(CORPUS.frames[:total], counts)
  starts = encode(params, 'encode_frames', frames, mask)
  row = np.concatenate([CORPUS.frames[:total], np.ones((2, DV))])[None].astype(np.float32)
  slot = np.array([[0] * counts[0] + [1] * counts[1] + [-1] * 2], np.int32)
  position = np.array([[*range(counts[0]), *range(counts[1]), 0, 0]], np.int32)
  layout = Layout(slot, position, np.array([[0, 1]], np.int32), np.array([0, 1], np.int32))
  apart = encode(own, 'encode_frames', frames, mask, student=FULL)
  packed = encode(own, 'encode_frames', row, layout, student=FULL)
  for name in FULL.branches:
    for video, count in enumerate(counts):
      expected = plain_frames(own[name]['frame_turn'], np.asarray(starts[name][video, :count]))
      np.testing.assert_allclose(apart[name][video, :count], expected, atol=1e-5)
    np.testing.assert_allclose(packed[name][0, :total], apart[name][mask], atol=1e-5)


def test_branches_of_the_teacher_see_what_stands_behind():
  student = AnchoredStudent(H, 0.3, ('exploration', 'teacher_inheritance'), jnp.float32, 'linear', 4)
  found, fitted = fit(anchors.AnchorSettings(size=H), student.branches)
  joined = np.concatenate([3 * CORPUS.frames, CORPUS.teacher_frames], axis=1)
  words = np.repeat(CORPUS.teacher_sentences[:, None], 3, axis=1)
  frames, mask = padded(joined, CORPUS.counts)
  tokens = np.asarray(unit_rows(np.concatenate([2 * TOKENS, words], axis=2)))
  params = anchoring.put(fitted, init_parameters(student, jax.random.key(0), DV + 4, DQ + 4))
  videos = encode(params, 'encode_frames', unit_rows(frames), mask, student=student)
  queries = encode(params, 'encode_tokens', tokens, np.ones((20, 3), bool), student=student)
  for name, anchor in found.items():
    cosines = np.where(mask, np.einsum('qh,vlh->qvl', queries[name], videos[name]), -2).max(2)
    np.testing.assert_allclose(cosines, anchors.scores(name, anchor, CORPUS), atol=1e-5)
