"""The student of `plus`: its parts against plain loops, and that none depends on how videos lie in rows."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.errors import UserError
from dlkd_jax.layout import padded_layout
from dlkd_jax.models.layers import FeedForward
from dlkd_jax.models.plus import PlusStudent, WidthsAttention, clip_layout, clip_means
from dlkd_jax.models.students import init_parameters
from tests import options as made
from tests.models.plain_student import EPSILON, softmax
from tests.training import worlds

H, HEADS, WIDTHS, TEMPERATURE, FRAMES = 6, 2, (0.0, 0.5, 3.0), 0.6, 2


def linear(params, name, x):
  return x @ np.asarray(params[name]['kernel'], np.float64) + np.asarray(params[name].get('bias', 0.0))


def layer_norm(params, x):
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPSILON)
  return x * params['scale'] + params['bias']


def widths_attention(params, rows):
  """One sequence of states `[T, H]`, and the entropies of its mixes."""
  query, key, value = (linear(params, name, rows) for name in ('query', 'key', 'value'))
  size, found = H // HEADS, []
  for width in WIDTHS:
    context = np.zeros_like(rows)
    for i in range(len(rows)):
      for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = []
        for j in range(len(rows)):
          damping = math.exp(-(((i - j) * FRAMES / 128) ** 2) / (2 * (width / 9) ** 2)) if width else 1.0
          scores.append(damping * float(query[i, part] @ key[j, part]) / math.sqrt(size))
        context[i, part] = sum(w * value[j, part] for j, w in enumerate(softmax(scores)))
    found.append(layer_norm(params['norm'], rows + context))
  mixed, entropies = np.zeros_like(rows), []
  for i in range(len(rows)):
    logits = []
    for one in found:
      hidden = linear(params, 'mix_position', one[i]) + linear(params, 'mix_sequence', one.mean(axis=0))
      logits.append(float(linear(params, 'mix', np.maximum(hidden, 0))[0]) / TEMPERATURE)
    weights = softmax(logits)
    mixed[i] = sum(w * one[i] for w, one in zip(weights, found, strict=True))
    entropies.append(-sum(w * math.log(w) for w in weights) / math.log(len(WIDTHS)))
  return mixed, entropies


def random_parameters(module, *arguments):
  params = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments))['params']
  random = np.random.default_rng(0)
  return jax.tree.map(lambda x: (0.5 * random.standard_normal(x.shape)).astype(np.float32), params)


def test_widths_against_plain_loops():
  module = WidthsAttention(H, HEADS, 0.0, jnp.float32, WIDTHS, TEMPERATURE, FRAMES)
  rows = np.random.default_rng(1).standard_normal((3, 7, H)).astype(np.float32)
  lengths = (7, 3, 1)
  layout = padded_layout(jnp.asarray(np.arange(7) < np.array(lengths)[:, None]))
  params = random_parameters(module, rows, layout, True)
  apply = jax.jit(lambda params: module.apply({'params': params}, rows, layout, True, mutable=['measures']))
  found, sown = apply(params)
  for row, length in enumerate(lengths):
    expected, entropies = widths_attention(params, rows[row, :length].astype(np.float64))
    np.testing.assert_allclose(found[row, :length], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sown['measures']['width_entropy'][0][row, :length], entropies, atol=1e-5)


def test_feed_forward_against_plain_formulas():
  module, rows = FeedForward(H, 3, 0.0), np.random.default_rng(1).standard_normal((2, 4, H)).astype(np.float32)
  params = random_parameters(module, rows, True)
  inner = np.maximum(linear(params, 'inner', rows.astype(np.float64)), 0)
  expected = layer_norm(params['norm'], rows + linear(params, 'outer', inner))
  np.testing.assert_allclose(module.apply({'params': params}, rows, True), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('frames', [2, 3, 4])
@pytest.mark.parametrize('packed', [False, True])
def test_clips_hold_each_frame_once(frames, packed):
  batch = worlds.packed_batch() if packed else worlds.make_batch()
  layout = jax.tree.map(jnp.asarray, batch.frame_layout)

  @jax.jit
  def both(rows, layout):
    clips = clip_layout(layout, frames)
    return clips, clip_means(rows, layout, clips, frames)

  clips, means = both(batch.student_frames, layout)
  slots = clips.slots
  for video, where in enumerate(layout.where[: worlds.VIDEOS]):
    row, slot = int(where) // slots, int(where) % slots
    rows = batch.student_frames[row][np.asarray(layout.slot[row] == slot)].astype(np.float64)
    count = -(-len(rows) // frames)
    here = np.asarray(clips.slot[row] == slot)
    assert here.sum() == count and (np.asarray(clips.position[row])[here] == np.arange(count)).all(), video
    middle = [int((f + 0.5) * count / len(rows)) for f in range(len(rows))]
    for k, vector in enumerate(np.asarray(means[row])[here]):
      mean = np.mean([rows[f] for f in range(len(rows)) if middle[f] == k], axis=0)
      np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-5)
  # A row is as wide as it may need to be, and no wider than frames allow.
  assert clips.slot.shape[1] == (layout.slot.shape[1] + slots * (frames - 1)) // frames
  assert not np.any(np.asarray(means)[np.asarray(clips.slot) < 0])


def sizes(student):
  init = functools.partial(init_parameters, student, frame_features=5, token_features=4)
  flat = jax.tree_util.tree_leaves_with_path(jax.eval_shape(init, jax.random.key(0)))
  return {jax.tree_util.keystr(path): x.shape for path, x in flat}


def plus(**changes):
  plain = made.student(hidden=8, heads=2)
  fields = {name: getattr(plain, name) for name in plain.__dataclass_fields__ if name not in ('parent', 'name')}
  return PlusStudent(**(fields | {'distilled': ('inheritance',)} | changes))


def test_without_options_it_is_the_paper_s_student():
  assert sizes(plus()) == sizes(made.student(hidden=8, heads=2))
  layout = padded_layout(jnp.ones((1, 5), bool))
  assert all(own is layout for own in plus().layouts(layout).values())


def test_parameters_of_the_parts():
  more = {name: shape for name, shape in sizes(plus(widths=(0.0, 1.0), feed_forward=4, frames_per_clip=4)).items()}
  plain = sizes(plus())
  grown = {name.split("'")[5] for name in set(more) - set(plain)}
  assert grown == {'attention', 'feed_forward'}
  assert more["['exploration']['frame_encoder']['position_embedding']"] == (32, 8)
  assert more["['inheritance']['frame_encoder']['position_embedding']"] == (128, 8)


@pytest.mark.parametrize('odd', [{'frames_per_clip': 0}, {'widths': (-1.0,)}, {'feed_forward': 2.5}])
def test_options_that_make_no_student_are_refused(odd):
  with pytest.raises(UserError, match=r'config\.model\.options'):
    sizes(plus(**odd))
