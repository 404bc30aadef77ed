"""Losses of a batch spread over devices: the values and gradients of one device, whatever the mesh and the padding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from dlkd_jax.losses import pairs as pairs_lib
from dlkd_jax.losses.total import BranchView, LossInputs, total_loss
from tests import options as made
from tests.losses.problems import make_pairs

AXES = ('data', 'model')
# Eight shares of three captions and two videos, of which so many are real: some device has none of either.
SHARE_CAPTIONS, SHARE_VIDEOS = [3, 2, 0, 3, 1, 2, 3, 0], [2, 1, 1, 1, 1, 2, 2, 0]
Q, B, L = 8 * 3, 8 * 2, 4
COEFFICIENTS = made.coefficients(0.65, 0.7, 0.9)
MATRICES = ('cosine_i', 'dot_i', 'cosine_e', 'dot_e')


@dataclasses.dataclass
class World:
  """A padded batch in eight shares: who is real, whose captions are whose, and in what order."""

  labels: np.ndarray
  captions: np.ndarray
  videos: np.ndarray
  caption_ordinals: np.ndarray
  video_ordinals: np.ndarray
  frames: np.ndarray
  scores: dict

  @property
  def masks(self):
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != 'scores'}

  def without_padding(self):
    """The same batch with nothing but real entries, in the order of their ordinals."""
    rows = np.flatnonzero(self.captions)[np.argsort(self.caption_ordinals[self.captions])]
    columns = np.flatnonzero(self.videos)[np.argsort(self.video_ordinals[self.videos])]
    place = {column: i for i, column in enumerate(columns)}
    scores = {
      name: array[rows] if name.startswith('curve') or name == 'teacher_curve' else array[rows][:, columns]
      for name, array in self.scores.items()
    }
    world = World(
      np.array([place[v] for v in self.labels[rows]]),
      *(np.ones(len(x), bool) for x in (rows, columns)),
      *(np.arange(len(x)) for x in (rows, columns)),
      self.frames[columns],
      scores,
    )
    return world, rows, columns


def make_world(seed=0):
  rng = np.random.default_rng(seed)
  captions = np.concatenate([np.arange(3) < n for n in SHARE_CAPTIONS])
  videos = np.concatenate([np.arange(2) < n for n in SHARE_VIDEOS])
  labels = np.zeros(Q, np.int32)
  for share, (q, v) in enumerate(zip(SHARE_CAPTIONS, SHARE_VIDEOS, strict=True)):
    labels[share * 3 : share * 3 + q] = share * 2 + np.sort(rng.integers(0, v, q)) if q else 0
  # The order of the batch is not the order of the devices; the captions of a video stay together.
  video_ordinals, caption_ordinals, caption = np.full(B, -1), np.full(Q, -1), 0
  for ordinal, video in enumerate(rng.permutation(np.flatnonzero(videos))):
    video_ordinals[video] = ordinal
    for q in np.flatnonzero(captions & (labels == video)):
      caption_ordinals[q], caption = caption, caption + 1
  real = captions[:, None] & videos

  def matrix(scale):
    values = scale * rng.standard_normal((Q, B))
    return np.where(real, values, np.where(videos, 50.0, -1e10)).astype(np.float32)

  scores = {'cosine_i': matrix(0.3), 'dot_i': matrix(2), 'cosine_e': matrix(0.3), 'dot_e': matrix(2)}
  scores['teacher_dot'] = matrix(2)
  scores |= {name: np.tanh(rng.standard_normal((Q, L))).astype(np.float32) for name in ('curve', 'teacher_curve')}
  frames = np.arange(L) < rng.integers(1, L + 1, B)[:, None]
  return World(labels, captions, videos, caption_ordinals, video_ordinals, frames & videos[:, None], scores)


def loss(scores, masks, coefficients, key, *, options, axes, total_videos):
  """The total of one device's share: whole columns of the matrices, its part of every mask, all curves."""
  everyone = lambda x: jax.lax.all_gather(x, axes, tiled=True) if axes else x  # noqa: E731
  rows = lambda x: jax.lax.all_to_all(x, axes, 0, 1, tiled=True) if axes else x  # noqa: E731
  first = jax.lax.axis_index(axes) * masks['videos'].shape[0] if axes else 0
  text = make_pairs(
    masks['labels'],
    masks['captions'],
    everyone(masks['videos']),
    caption_ordinals=masks['caption_ordinals'],
    video_ordinals=everyone(masks['video_ordinals']),
  )
  video = make_pairs(
    everyone(masks['labels']),
    everyone(masks['captions']),
    masks['videos'],
    video_ids=first + jnp.arange(masks['videos'].shape[0]),
    caption_ordinals=everyone(masks['caption_ordinals']),
    video_ordinals=masks['video_ordinals'],
  )
  assert text.videos.shape == (total_videos,)
  column = video.labels - first
  here = (column >= 0) & (column < masks['videos'].shape[0])
  own_mask = masks['frames'][jnp.where(here, column, 0)] & (here & video.captions)[:, None]
  branches = {}
  for name in 'ie':
    cosine, dot = scores[f'cosine_{name}'], scores[f'dot_{name}']
    curve = scores['curve'] if name == 'i' else None
    branches[name] = BranchView(rows(cosine), rows(dot), cosine, dot, curve, own_mask)
  dot = scores['teacher_dot']
  teacher = BranchView(None, rows(dot), None, dot, scores['teacher_curve'])
  return total_loss(LossInputs(branches, teacher, text, video, coefficients, key, axes), options, key)


@functools.cache
def compiled(shape, options, total_videos=B):
  """Value, parts and gradients by all scores, on a mesh of this shape, or on one device without any mesh."""
  function = functools.partial(loss, options=options, axes=AXES if shape else (), total_videos=total_videos)
  if shape:
    devices = np.asarray(jax.devices()[: shape[0] * shape[1]]).reshape(shape)
    mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 2)
    columns, split, whole = PartitionSpec(None, AXES), PartitionSpec(AXES), PartitionSpec()
    scores = dict.fromkeys((*MATRICES, 'teacher_dot'), columns) | dict.fromkeys(('curve', 'teacher_curve'), whole)
    function = jax.shard_map(function, mesh=mesh, in_specs=(scores, split, whole, whole), out_specs=whole)
  return jax.jit(jax.value_and_grad(function, has_aux=True))


def run(world, shape, options, seed=0, **scheduled):
  function = compiled(shape, options, world.videos.size)
  return function(world.scores, world.masks, COEFFICIENTS | scheduled, jax.random.key(seed))


terms = functools.partial(made.terms, branches=('i', 'e'), distilled=('i',))
OPTIONS = {
  'recipe': terms(hard_pool=5),
  'random': made.terms(
    branches=('i', 'e'), distilled=('i',), hard_pool=5, random_split=True, kl_captions=6.0, stop_target_gradient=True
  ),
  'hard': terms(hard_pool=1, soft_labels=False),
}


# Two axes are taken by the step of `test_sharding`, too.
RUNS = [
  ('recipe', (8, 1)),
  pytest.param('recipe', (4, 2), marks=pytest.mark.slow),
  ('random', (8, 1)),
  ('hard', (2, 1)),
]


@pytest.mark.parametrize(('name', 'shape'), RUNS)
def test_values_and_gradients_are_those_of_one_device(name, shape):
  world, options = make_world(), OPTIONS[name]
  (value, parts), gradients = run(world, shape, options)
  (expected, expected_parts), expected_gradients = run(world, None, options)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  assert set(parts) == set(expected_parts)
  for part, other in expected_parts.items():
    np.testing.assert_allclose(parts[part], other, rtol=1e-5, atol=1e-6, err_msg=part)
  for scores, other in expected_gradients.items():
    np.testing.assert_allclose(gradients[scores], other, rtol=1e-5, atol=1e-6, err_msg=scores)
  assert all(np.abs(expected_gradients[name]).max() > 1e-4 for name in (*MATRICES, 'curve'))


@pytest.mark.parametrize(('name', 'shape'), [('recipe', (8, 1)), ('random', (8, 1))])
def test_padding_between_the_shares_and_their_order_do_not_matter(name, shape):
  world, options = make_world(), OPTIONS[name]
  bare, rows, columns = world.without_padding()
  assert 0 < len(rows) < Q and 0 < len(columns) < B and (np.diff(world.video_ordinals[world.videos]) < 0).any()
  for seed, hard in ((0, True), (1, True), (2, False)):
    (value, _), gradients = run(world, shape, options, seed, hard_negatives=jnp.asarray(hard))
    (expected, _), expected_gradients = run(bare, None, options, seed, hard_negatives=jnp.asarray(hard))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for scores in MATRICES:
      gradient, real = np.asarray(gradients[scores]), np.ix_(rows, columns)
      np.testing.assert_allclose(gradient[real], expected_gradients[scores], atol=1e-6, err_msg=scores)
      gradient = gradient.copy()
      gradient[real] = 0.0
      assert not gradient.any()


def test_large_matrices_taken_in_blocks_are_spread_alike(monkeypatch):
  world, options = make_world(), OPTIONS['recipe']
  (expected, _), expected_gradients = run(world, None, options)
  monkeypatch.setattr(pairs_lib, '_SMALL', 0)
  monkeypatch.setattr(pairs_lib, '_LANES', 3)
  parts = []
  cut = jax.lax.map
  monkeypatch.setattr(jax.lax, 'map', lambda *arguments: parts.append(None) or cut(*arguments))
  function = compiled.__wrapped__((2, 1), options, B)
  arguments = world.scores, world.masks, COEFFICIENTS, jax.random.key(0)
  (value, _), gradients = function(*arguments)
  assert len(parts) >= 12  # Two directions of draws, gaps and contrastive terms, in both branches.
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for scores, other in expected_gradients.items():
    np.testing.assert_allclose(gradients[scores], other, rtol=1e-5, atol=1e-6, err_msg=scores)


def test_draws_change_with_the_key_on_every_mesh_alike():
  world, options = make_world(1), OPTIONS['random']
  values = [[float(run(world, shape, options, seed)[0][0]) for seed in range(4)] for shape in ((8, 1), None)]
  np.testing.assert_allclose(*values, rtol=1e-5)
  assert len(set(values[1])) == 4
