"""Blockwise evaluation against plain loops; invariance to blocks, padding, order and devices; its errors."""

import dataclasses
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dlkd_jax import sharding
from dlkd_jax.allocation import KEPT_SHARE
from dlkd_jax.errors import UserError
from dlkd_jax.models.students import init_parameters
from dlkd_jax.multihost import Stopped
from dlkd_jax.retrieval import evaluate, metrics
from dlkd_jax.retrieval.evaluate import Evaluator, encoders_of
from dlkd_jax.sharding import encoding_mesh, make_mesh
from dlkd_jax.training.monitoring import Compilations
from tests import options as made
from tests.retrieval import worlds

ALL = ('inheritance', 'exploration', 'fused', 'teacher')
KEEP = made.evaluation_options(keep_scores=True)


def _run(world, options=KEEP, *, params=None, should_stop=None, **how):
  evaluator = Evaluator(worlds.linear_encoders(), world.split(**how), options)
  return evaluator(params or worlds.linear_parameters(), should_stop)


def test_scores_and_ranks_agree_with_plain_loops():
  world = worlds.make_world()
  result = _run(world)
  expected = worlds.loop_scores(world, worlds.linear_parameters())
  assert list(result.scores) == list(result.metrics) == list(ALL)
  for name in ALL:
    np.testing.assert_allclose(result.scores[name], expected[name], atol=2e-6)
    for q, own in enumerate(world.own_ids):
      row, column = expected[name][q], world.video_ids.index(own)
      wrong = [score for v, score in enumerate(row) if v != column]
      assert result.ranks[name][q] == 1 + sum(score >= row[column] for score in wrong)
  assert result.caption_ids == world.caption_ids and result.video_ids == world.video_ids
  assert [result.video_ids[column] for column in result.own_columns] == world.own_ids
  assert result.primary is result.metrics['fused']
  assert result.as_dict('val/')['val/fused/SumR'] == result.primary.sum_r


@pytest.mark.parametrize(
  'how',
  [
    {'videos': 1},
    {'videos': 13},
    {'videos': 64, 'captions': 64},
    {'captions': 1},
    {'frames': 17, 'words': 11},
    {'options': made.evaluation_options(keep_scores=True, product_bytes=1)},
    {'options': made.evaluation_options(keep_scores=True, product_bytes=400)},
  ],
)
def test_blocks_and_padding_do_not_matter(how):
  world = worlds.make_world()
  expected, found = _run(world), _run(world, **how)
  for name in ALL:
    np.testing.assert_allclose(found.scores[name], expected.scores[name], atol=1e-6)
    np.testing.assert_array_equal(found.ranks[name], expected.ranks[name])


def test_the_order_of_the_gallery_does_not_matter():
  world = worlds.make_world()
  order = np.random.default_rng(3).permutation(len(world.frames))
  expected, found = _run(world), _run(world.permuted(order))
  for name in ALL:
    np.testing.assert_allclose(found.scores[name], expected.scores[name][:, order], atol=1e-6)
    np.testing.assert_array_equal(found.ranks[name], expected.ranks[name])
  assert found.metrics == expected.metrics


def test_a_constant_student_ranks_last():
  params = jax.tree.map(np.zeros_like, worlds.linear_parameters())
  result = _run(worlds.make_world(), params=params)
  assert (result.ranks['fused'] == 13).all() and result.primary.r10 == 0.0


def test_the_gallery_may_hold_videos_without_captions():
  world = worlds.make_world()
  world.own_ids = ['video7'] * len(world.own_ids)
  result = _run(world)
  assert set(result.own_columns) == {7}


def test_without_the_teacher():
  world = worlds.make_world()
  assert 'teacher' not in _run(world, teacher=False).metrics
  without = made.evaluation_options(teacher=False, weights={'inheritance': 0.5, 'exploration': 0.5})
  result = _run(world, without)
  assert set(result.metrics) == {'inheritance', 'exploration', 'fused'} and not result.scores


def test_other_options_for_the_same_split():
  world = worlds.make_world()
  split = world.split()
  first = Evaluator(worlds.linear_encoders(), split, made.evaluation_options(teacher=True))
  again, fresh = first.again(KEEP), Evaluator(worlds.linear_encoders(), split, KEEP)
  found, expected = again(worlds.linear_parameters(), teacher=False), fresh(worlds.linear_parameters(), teacher=False)
  assert list(found.scores) == ['inheritance', 'exploration', 'fused']
  for name, scores in expected.scores.items():
    np.testing.assert_array_equal(found.scores[name], scores)


def test_a_single_branch_is_its_own_primary_result():
  params = {'inheritance': worlds.linear_parameters()['inheritance']}
  result = _run(worlds.make_world(), params=params)
  assert set(result.metrics) == {'inheritance', 'teacher'}
  assert result.primary is result.metrics['inheritance']


def _meshes():
  return {
    'one': None,
    'two': make_mesh(jax.devices()[:2]),
    'eight': make_mesh(),
    'two axes': make_mesh(model=2),
    'other order': make_mesh(jax.devices()[::-1], model=4),
  }


# The others are less of the same: eight devices, and an axis more in another order.
MESHES = ['one', 'eight', 'other order', *(pytest.param(name, marks=pytest.mark.slow) for name in ('two', 'two axes'))]


@pytest.mark.parametrize('devices', MESHES)
def test_devices_do_not_matter(devices):
  world = worlds.make_world(videos=21)
  expected = _run(world, videos=8)
  found = _run(world, dataclasses.replace(KEEP, mesh=_meshes()[devices]), videos=8)
  assert found.video_ids == expected.video_ids
  for name in ALL:
    np.testing.assert_allclose(found.scores[name], expected.scores[name], atol=1e-6)
    np.testing.assert_array_equal(found.ranks[name], expected.ranks[name])


def test_encoding_on_one_device_alone_gives_the_same(monkeypatch):
  # As on large TPU v5e slices, where programs over some of the devices are refused.
  world = worlds.make_world(videos=21)
  expected = _run(world, dataclasses.replace(KEEP, mesh=make_mesh()), videos=8)
  monkeypatch.setattr(sharding, '_all_or_one', lambda mesh: True)
  found = _run(world, dataclasses.replace(KEEP, mesh=make_mesh()), videos=8)
  for name in ALL:
    np.testing.assert_allclose(found.scores[name], expected.scores[name], atol=1e-6)
    np.testing.assert_array_equal(found.ranks[name], expected.ranks[name])


def test_which_slices_run_programs_on_all_devices_or_one():
  def mesh(kind, devices, processes):
    each = devices // processes
    fakes = [types.SimpleNamespace(device_kind=kind, process_index=i // each) for i in range(devices)]
    local = types.SimpleNamespace(size=each)
    return types.SimpleNamespace(devices=np.array(fakes), size=devices), local

  for kind, devices, processes, expected in (
    ('TPU v5 lite', 256, 64, True),
    ('TPU v5 lite', 16, 4, False),
    ('TPU v5e', 32, 8, True),
    ('TPU v5', 256, 64, False),
    ('cpu', 64, 2, False),
  ):
    whole, local = mesh(kind, devices, processes)
    with mock.patch.object(sharding, 'local_mesh', lambda _, local=local: local):
      assert sharding._all_or_one(whole) is expected, (kind, devices)


@pytest.mark.parametrize('keep', [True, False])
@pytest.mark.parametrize('devices', MESHES)
def test_ties_and_an_uneven_gallery_rank_alike_on_all_devices(devices, keep):
  world = worlds.tied_world()
  weights = {'inheritance': 0.7, 'exploration': 0.3}
  split = world.split(videos=8, frames=3)
  result = Evaluator(worlds.sign_encoders(), split, made.evaluation_options(keep_scores=True))({})
  options = made.evaluation_options(weights=weights, keep_scores=keep, mesh=_meshes()[devices])
  found = Evaluator(worlds.sign_encoders(), split, options)({})
  for name in ALL:
    expected = metrics.rank_own_videos(result.scores[name], result.own_columns)
    own = np.take_along_axis(result.scores[name], result.own_columns[:, None], axis=1)
    assert (1 + (result.scores[name] > own).sum(1) < expected).sum() > 10, 'the test is about ties'
    np.testing.assert_array_equal(found.ranks[name], expected)
  np.testing.assert_array_equal(result.ranks['fused'], metrics.rank_fused(result.scores, weights, result.own_columns))


def test_ranks_are_those_of_numpy_on_the_same_scores():
  world = worlds.make_world(videos=40, captions=300, seed=5)
  weights = {'inheritance': 0.6, 'exploration': 0.4}
  options = made.evaluation_options(weights=weights, keep_scores=True, mesh=make_mesh())
  result = _run(world, options, videos=8)
  for name in ALL:
    expected = metrics.rank_own_videos(result.scores[name], result.own_columns)
    np.testing.assert_array_equal(result.ranks[name], expected)
  np.testing.assert_array_equal(result.ranks['fused'], metrics.rank_fused(result.scores, weights, result.own_columns))
  terms = [(weight, result.scores[name]) for name, weight in weights.items()]
  np.testing.assert_array_equal(result.scores['fused'], metrics.sum_in_order(terms))


def test_blocks_of_different_lengths():
  world = worlds.make_world(videos=30)
  lengths = np.array([len(frames) for frames in world.frames])
  teacher_lengths = np.array([len(frames) for frames in world.teacher_frames])
  world = world.permuted(np.argsort(np.maximum(lengths, teacher_lengths), kind='stable'))
  longest = [max(len(a), len(b)) for a, b in zip(world.frames, world.teacher_frames, strict=True)]

  def blocks():
    for start, fitting in zip(range(0, 30, 8), (3, 3, 6, 6), strict=True):
      part = world.permuted(range(start, min(start + 8, 30)))
      yield from part.video_blocks(8, max(fitting, max(longest[start : start + 8])))

  expected = _run(world)
  for devices in ('one', 'eight', 'other order'):
    options = dataclasses.replace(KEEP, mesh=_meshes()[devices])
    split = worlds.Blocks(30, lambda: world.caption_blocks(8), blocks)
    found = Evaluator(worlds.linear_encoders(), split, options)(worlds.linear_parameters())
    assert found.video_ids == expected.video_ids
    for name in ALL:
      np.testing.assert_allclose(found.scores[name], expected.scores[name], atol=1e-6)
      np.testing.assert_array_equal(found.ranks[name], expected.ranks[name])


def test_the_gallery_takes_the_type_of_the_encoders():
  world, encoders = worlds.make_world(), worlds.linear_encoders()
  narrow = jax.jit(lambda *arguments: jax.tree.map(lambda x: x.astype(jnp.bfloat16), encoders.frames(*arguments)))
  exact = _run(world, teacher=False)
  evaluator = Evaluator(encoders._replace(frames=narrow), world.split(teacher=False), KEEP)
  found = evaluator(worlds.linear_parameters())
  assert found.gallery_bytes * 2 == exact.gallery_bytes
  for name, scores in exact.scores.items():
    assert found.scores[name].dtype == np.float32
    np.testing.assert_allclose(found.scores[name], scores, atol=0.02)


def test_parameters_may_be_split_over_the_mesh():
  world, mesh = worlds.make_world(), make_mesh(model=2)
  split = jax.NamedSharding(mesh, jax.P(None, 'model'))
  params = jax.device_put(worlds.linear_parameters(), split)
  found = _run(world, dataclasses.replace(KEEP, mesh=mesh), params=params, videos=8)
  for name, scores in _run(world).scores.items():
    np.testing.assert_allclose(found.scores[name], scores, atol=1e-6)


def test_new_parameters_do_not_compile_anew():
  student = made.student(hidden=16, heads=2, max_frames=8, max_words=worlds.WORDS)
  evaluator = Evaluator(encoders_of(student), worlds.make_world().split(), KEEP)
  shapes = jax.eval_shape(
    lambda: init_parameters(student, jax.random.key(0), worlds.FRAME_FEATURES, worlds.TOKEN_FEATURES)
  )
  scores = []
  for epoch in range(3):
    rng = np.random.default_rng(epoch)
    params = jax.tree.map(lambda x, rng=rng: rng.standard_normal(x.shape).astype(x.dtype), shapes)
    scores.append(evaluator(params).scores)
  assert evaluator.encoders.frames._cache_size() == evaluator.encoders.tokens._cache_size() == 1
  assert not np.allclose(scores[0]['fused'], scores[1]['fused'])
  np.testing.assert_array_equal(scores[0]['teacher'], scores[2]['teacher'])


@pytest.mark.parametrize(('room', 'devices'), [(0, 'one'), (704, 'one'), (1 << 20, 'one'), (1 << 20, 'eight')])
def test_blocks_that_are_kept_travel_to_the_devices_once_where_they_fit(monkeypatch, room, devices):
  world, travelled = worlds.make_world(videos=21), []
  options, captions, videos = dataclasses.replace(KEEP, mesh=_meshes()[devices]), 8, 8
  monkeypatch.setattr(evaluate, '_JOINED', 2)
  expected = _run(world, options, captions=captions, videos=videos)
  kept = [*world.caption_blocks(captions)], [*world.video_blocks(videos, 6)]

  def counting(arrays, mesh):
    travelled[-1] += sum(x.nbytes for x in arrays if isinstance(x, np.ndarray))
    return sharding.shard_batch(arrays, mesh)

  monkeypatch.setattr(evaluate, 'shard_batch', counting)
  monkeypatch.setattr(evaluate, 'free_on_devices', lambda devices: room / KEPT_SHARE / len(list(devices)))
  split = worlds.Blocks(21, *(lambda blocks=blocks: iter(blocks) for blocks in kept))
  evaluator = Evaluator(worlds.linear_encoders(), split, options)
  if room:
    monkeypatch.setattr(jax, 'device_get', None)  # Vectors of captions stay there, too.
  for _ in range(2):
    travelled.append(0)
    found = evaluator(worlds.linear_parameters())
    for name in ALL:
      np.testing.assert_array_equal(found.scores[name], expected.scores[name])
  first, second = travelled
  assert max(0, first - room) <= second <= (first if room == 0 else first - 1 if room < first else 0)


def test_split_parameters_are_gathered_by_one_program():
  mesh, processes = make_mesh(model=2), types.SimpleNamespace(several=True)
  evaluator = types.SimpleNamespace(_mesh=mesh, _local=encoding_mesh(mesh), _processes=processes)
  split = jax.device_put(np.ones((4, 6), np.float32), NamedSharding(mesh, PartitionSpec(None, 'model')))
  counts = []
  with Compilations() as compilations:
    for epoch in range(3):
      found = Evaluator._on_this_process(evaluator, {'x': (1 + epoch) * split})
      np.testing.assert_array_equal(found['x'], np.full((4, 6), 1 + epoch))
      counts.append(compilations.count)
  assert counts[0] == counts[2] > 0


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_encoders_lower_for_cuda_in_the_precision_asked_for(dtype):
  student = made.student(hidden=16, heads=2, dtype=dtype)
  params = jax.eval_shape(lambda: init_parameters(student, jax.random.key(0), 12, 8))
  shape = jax.ShapeDtypeStruct
  encoders, mask = encoders_of(student), shape((4, 16), jnp.bool_)
  for encode, width in ((encoders.frames, 12), (encoders.tokens, 8)):
    traced = encode.trace(params, shape((4, 16, width), jnp.float16), mask)
    text = traced.lower(lowering_platforms=('cuda',)).as_text()
    products = [line for line in text.splitlines() if 'stablehlo.dot_general' in line]
    assert len(products) > 5
    assert all(('HIGHEST' in line) is (dtype == jnp.float32) for line in products)


def test_encoders_of_equal_students_share_their_programs():
  first, second, other = (encoders_of(made.student(hidden=8, heads=heads)) for heads in (2, 2, 4))
  assert first is second is not other


def test_a_stop_is_honoured_between_blocks():
  world = worlds.make_world()
  with pytest.raises(Stopped, match='after 0 captions'):
    _run(world, should_stop=lambda: True)
  polls = iter([False] * 6 + [True])
  with pytest.raises(Stopped, match='after 8 of 13 videos'):
    _run(world, should_stop=lambda: next(polls))
  polls = iter([False] * 8 + [True])  # Four blocks of captions, four of videos.
  with pytest.raises(Stopped, match='after 0 of 29 captions were ranked'):
    _run(world, should_stop=lambda: next(polls))


def test_a_block_that_does_not_divide_is_named():
  options = made.evaluation_options(mesh=make_mesh())
  with pytest.raises(UserError, match='12 rows of a batch do not divide over 8 devices'):
    _run(worlds.make_world(), options, videos=12)


def test_errors_name_the_id():
  world = worlds.make_world()
  missing = dataclasses.replace(world, own_ids=[*world.own_ids[:-1], 'nowhere'])
  with pytest.raises(UserError, match="caption 'caption28' of video 'nowhere'"):
    _run(missing)
  ids = [*world.video_ids[:-1], 'video0']
  with pytest.raises(UserError, match="video ids occur more than once, the first is 'video0'"):
    _run(dataclasses.replace(world, video_ids=ids))
  ids = [*world.caption_ids[:-1], 'caption0']
  with pytest.raises(UserError, match="caption ids occur more than once, the first is 'caption0'"):
    _run(dataclasses.replace(world, caption_ids=ids))


def test_bad_features_are_named():
  world = worlds.make_world()
  frames = list(world.frames)
  frames[9] = np.full_like(frames[9], np.nan)
  with pytest.raises(UserError, match="score of caption 'caption0' and video 'video9'"):
    _run(dataclasses.replace(world, frames=frames))
  with pytest.raises(UserError, match="video 'video9' is not finite"):
    _run(dataclasses.replace(world, frames=frames), made.evaluation_options(mesh=make_mesh()), videos=8)
  frames[9] = frames[9][:0]
  with pytest.raises(UserError, match="'video9' has no student frames"):
    _run(dataclasses.replace(world, frames=frames))
  teacher = list(world.teacher_frames)
  teacher[2] = teacher[2][:0]
  without = dataclasses.replace(world, teacher_frames=teacher)
  with pytest.raises(UserError, match="'video2' has no teacher frames"):
    _run(without)
  assert 'teacher' not in _run(without, made.evaluation_options(teacher=False)).metrics


@pytest.mark.parametrize('said', [12, 14])
def test_the_size_of_the_gallery_is_checked(said):
  with pytest.raises(UserError, match=f'said to hold {said} videos'):
    _run(worlds.make_world(), num_videos=said)


def test_blocks_with_and_without_a_teacher_do_not_mix():
  world = worlds.make_world()
  blocks = [*world.video_blocks(4, 6)][:2] + [*world.video_blocks(4, 6, teacher=False)][2:]
  with pytest.raises(UserError, match="from \\['video8'\\] is"):
    split = worlds.Blocks(13, lambda: world.caption_blocks(8), lambda: blocks)
    Evaluator(worlds.linear_encoders(), split, KEEP)(worlds.linear_parameters())


def test_no_captions_is_an_error():
  with pytest.raises(UserError, match='no caption'):
    _run(worlds.make_world(captions=0))
