"""The teacher inside the step does what its features in the batch would, wherever pictures lie, whatever pads them."""

import dataclasses
import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import config_dict

from configs import tvr
from dlkd_jax import config as config_lib
from dlkd_jax import sharding
from dlkd_jax.data import sources
from dlkd_jax.layout import padded_layout
from dlkd_jax.models import clip_files
from dlkd_jax.models.students import init_parameters
from dlkd_jax.training import metrics as metrics_lib
from dlkd_jax.training import recipe, train
from dlkd_jax.training.online_teacher import OnlineTeacher, check_record, load_teacher
from dlkd_jax.training.state import create_state
from dlkd_jax.video import backbones
from tests.data import pixel_sets
from tests.models import clips
from tests.training import worlds

SIZE, MEAN, STD = 4, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PARAMS = {'kernel': np.random.default_rng(1).standard_normal((SIZE * SIZE * 3, worlds.DT)).astype(np.float32) / 7}
LATE = 2 * worlds.STEPS_PER_EPOCH


def encode(params, pictures):
  return jnp.tanh(pictures.reshape(len(pictures), -1) @ params['kernel'])


def make_teacher(micro_batch, mesh=None):
  params = PARAMS if mesh is None else jax.device_put(PARAMS, sharding.replicated(mesh))
  return OnlineTeacher('made', encode, params, SIZE, worlds.DT, MEAN, STD, micro_batch)


def spec(folder, micro_batch=64):
  return config_dict.ConfigDict({'name': 'clip', 'clip': str(folder), 'micro_batch': micro_batch})


@functools.cache
def pictures():
  rng = np.random.default_rng(2)
  return [rng.integers(0, 256, (frames, SIZE, SIZE, 3), np.uint8) for frames in worlds.FRAMES]


def features(images):
  """The tower by hand."""
  rows = (images.astype(np.float64) / 255 - MEAN) / STD
  return np.tanh(rows.reshape(len(images), -1) @ PARAMS['kernel'].astype(np.float64)).astype(np.float32)


def both_batches(batch):
  """Returns the batch with the tower's features, and with pictures; what lies at padding must not matter."""
  rows = (*batch.frame_layout.slot.shape,)
  frozen = np.full((*rows, worlds.DT), 9.0, np.float32)
  pixels = np.full((*rows, SIZE * SIZE * 3), 255, np.uint8)
  for row, at in np.argwhere(batch.frame_layout.mask):
    video, position = (
      batch.frame_layout.ordinals[row, batch.frame_layout.slot[row, at]],
      batch.frame_layout.position[row, at],
    )
    image = pictures()[video][position]
    frozen[row, at], pixels[row, at] = features(image[None])[0], image.reshape(-1)
  return batch.replace(teacher_frames=frozen), batch.replace(teacher_frames=None, teacher_pixels=pixels).check()


@functools.cache
def expected(dropout):
  return worlds.world(1, dropout, worlds.EXACT).run(both_batches(worlds.make_batch())[0], LATE)


def assert_same(found, other):
  for name, value in other[1].items():
    np.testing.assert_allclose(found[1][name], value, rtol=1e-5, atol=1e-7, err_msg=name)
  flat = flax.traverse_util.flatten_dict(found[0], sep='/')
  for name, gradient in flax.traverse_util.flatten_dict(other[0], sep='/').items():
    scale = max(np.linalg.norm(gradient), 1e-4)  # The key bias has no true gradient, only rounding.
    assert np.linalg.norm(flat[name] - gradient) < 1e-5 * scale, name


@pytest.mark.parametrize(('name', 'micro_batch'), [('padded', 4), ('packed', 64), ('eight devices', 2), ('split', 4)])
def test_the_features_are_the_towers_wherever_the_pictures_lie(name, micro_batch):
  devices, model = {'eight devices': (8, 1), 'split': (8, 2)}.get(name, (1, 1))
  mesh = sharding.make_mesh(jax.devices()[:devices], model)
  batch = worlds.make_batch(frames=9) if name == 'padded' else worlds.packed_batch(shards=devices)
  frozen, online = both_batches(batch)
  teacher = make_teacher(micro_batch, mesh)
  filled = jax.jit(functools.partial(teacher.fill, mesh=mesh))(teacher.params, sharding.shard_batch(online, mesh))
  mask = batch.frame_layout.mask[..., None]
  np.testing.assert_allclose(filled.teacher_frames, np.where(mask, frozen.teacher_frames, 0), atol=2e-6)
  assert filled.teacher_pixels is None and filled.teacher_frames.is_fully_replicated == (devices == 1)


def test_online_is_frozen():
  """Losses and gradients: pictures in a step, packed, are what the same tower's features in a padded batch are."""
  world = worlds.World(1, 0.0, worlds.EXACT, teacher=make_teacher(4))
  batch = sharding.shard_batch(both_batches(worlds.packed_batch())[1], world.mesh)
  assert_same(world.run(batch, LATE), expected(0.0))
  # Compiled once, and the tower is an argument of what is compiled, not a part of it.
  compiled = world.step.compiled
  metrics = compiled(jax.tree.map(np.zeros_like, PARAMS), world.state(LATE + 1), batch, jax.random.key(5))[1]
  assert compiled._cache_size() == 1
  assert (
    abs(
      float(
        metrics_lib.fetch(metrics)['loss/inheritance/distillation'] - expected(0.0)[1]['loss/inheritance/distillation']
      )
    )
    > 1e-3
  )


@pytest.mark.slow
def test_online_is_frozen_on_eight_devices():
  """Dropout on, uneven shares, one of them nothing but padding, and parameters of the student that are split."""
  mesh = sharding.make_mesh(jax.devices()[:8], 2)
  world = worlds.World(8, 0.3, worlds.EXACT, 2, teacher=make_teacher(4, mesh))
  batch = sharding.shard_batch(both_batches(worlds.packed_batch(shards=8))[1], mesh)
  assert_same(world.run(batch, LATE), expected(0.3))


def test_only_real_pictures_are_encoded():
  """As many calls of the tower as the real pictures fill, not the positions; the rest is 0."""
  calls = []

  def counting(params, images):
    jax.debug.callback(lambda: calls.append(len(images)))
    return encode(params, images)

  batch = both_batches(worlds.make_batch(videos=16, frames=12))[1]
  teacher = OnlineTeacher('made', counting, PARAMS, SIZE, worlds.DT, MEAN, STD, 5)
  filled = jax.jit(teacher.fill)(PARAMS, batch)
  jax.effects_barrier()
  assert calls == [5] * -(-sum(worlds.FRAMES) // 5)
  assert filled.teacher_pixels is None and not np.asarray(filled.teacher_frames)[~batch.frame_layout.mask].any()
  found = np.asarray(filled.teacher_frames)[batch.frame_layout.mask]
  images = batch.teacher_pixels[batch.frame_layout.mask].reshape(-1, SIZE, SIZE, 3)
  np.testing.assert_allclose(found, features(images), atol=2e-6)


def test_a_batch_of_padding_encodes_nothing():
  batch = both_batches(worlds.make_batch())[1]
  empty = batch.replace(frame_layout=batch.frame_layout.replace(slot=np.full_like(batch.frame_layout.slot, -1)))
  assert not np.asarray(make_teacher(4).fill(PARAMS, empty).teacher_frames).any()


def test_memory_does_not_grow_with_the_pictures():
  """What the tower computes is held for one micro-batch, not for the batch."""

  def wide(params, images):
    hidden = jnp.tanh(images.reshape(len(images), -1) @ params['in'])
    return hidden @ params['out']

  params = {'in': np.zeros((SIZE * SIZE * 3, 4096), np.float32), 'out': np.zeros((4096, worlds.DT), np.float32)}
  batch = both_batches(worlds.make_batch(videos=64, frames=32))[1]

  def temporary(micro_batch):
    teacher = OnlineTeacher('made', wide, params, SIZE, worlds.DT, MEAN, STD, micro_batch)
    return jax.jit(teacher.fill).lower(params, batch).compile().memory_analysis().temp_size_in_bytes

  few, all_at_once = temporary(8), temporary(64 * 32)
  assert all_at_once > 64 * 32 * 4096 * 4 and few < all_at_once / 20


def test_other_pictures_are_refused():
  frozen, online = both_batches(worlds.make_batch())
  teacher = make_teacher(4)
  with pytest.raises(ValueError, match='no pictures for the teacher; expected 4x4x3 numbers each'):
    teacher.fill(PARAMS, frozen)
  small = online.replace(teacher_pixels=online.teacher_pixels[..., :27])
  with pytest.raises(ValueError, match='pictures of 27 numbers for the teacher; expected 4x4x3'):
    teacher.fill(PARAMS, small)


def test_records_of_another_model_are_refused():
  record = {'teacher_pixels': np.zeros((2, 4, 4, 3), np.uint8), 'teacher_text': np.zeros((1, 6))}
  check_record(record, 4, 6, 'clip')
  with pytest.raises(ValueError, match=r'hold no teacher_pixels; build a set that keeps them, or set config\.teacher'):
    check_record({}, 4, 6, 'clip')
  with pytest.raises(ValueError, match=r'pictures of 4x4x3, and models/clip takes 8x8x3; build the set with this'):
    check_record(record, 8, 6, 'models/clip')
  with pytest.raises(ValueError, match='teacher_text of 6 features and clip gives 5: they are of another model'):
    check_record(record, 4, 5, 'clip')


@pytest.fixture(scope='module')
def model_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('clip') / 'tiny'
  clip_files.save_clip(clips.tiny_model(), folder)
  return folder


@pytest.fixture(scope='module')
def world_folder(tmp_path_factory, model_folder):
  """A data set whose frozen features are those of the tiny CLIP."""
  frames = backbones.open_frame_backbone(f'clip:{model_folder}')
  folder = tmp_path_factory.mktemp('sets')
  pixel_sets.write(folder, 16, frames.encode, frames.features)
  return folder


def clip_config(folder, model, **fields):
  config = tvr.get_config('debug')
  with config.unlocked():
    config.data.update(dataset=pixel_sets.NAME, data_dir=str(folder), batch_videos=8, max_frames=12, max_words=5)
    config.data.update(frame_sizes=(12,), word_sizes=(5,), row_words=10)
    config.model.update(hidden=8, heads=2)
    config.teacher.update(online=True, clip=str(model), micro_batch=8, **fields)
  config_lib.validate(config)
  return config


def set_up(config):
  """Mesh, teacher and first batch of a run, put together as `train` does."""
  mesh, source = sharding.make_mesh(), recipe.open_split(config, 'train')
  teacher, pipeline = train.open_teacher(config, mesh, source), train.open_pipeline(config, mesh, source)
  batch = next(iter(pipeline)).check()
  if pipeline.resident is not None:
    pipeline.resident.place(lambda tables: jax.tree.map(jnp.asarray, tables))
    batch = jax.device_get(pipeline.resident.fill(pipeline.resident.params, batch)).check()
  return mesh, teacher, batch


def two_runs(folder, model):
  """Step, teacher, batch, mesh and configuration of a run from pixels, and of one from frozen features."""
  for online in (True, False):
    config = clip_config(folder, model)
    config.teacher.online = online
    mesh, teacher, batch = set_up(config)
    _, step = train.make_step(config, recipe.make_student(config), mesh, 1, teacher)
    yield step, teacher, batch, mesh, config


def one_step(step, teacher, batch, mesh, config):
  """The state behind the first step, and its metrics."""
  sizes, student = recipe.feature_sizes(recipe.open_split(config, 'train')), recipe.make_student(config)
  init_key, key = train.keys_of_run(config.seed, mesh)
  optimizer, _ = recipe.make_optimizer(config, 1)
  state = create_state(lambda key: init_parameters(student, key, *sizes), optimizer, mesh, init_key)
  state, metrics = step(state, sharding.shard_batch(batch, mesh), key)
  return state, metrics_lib.fetch(metrics)


def test_a_run_from_pixels_sees_the_frozen_features(world_folder, model_folder):
  (_, own, pixels, mesh, _), (_, _, frozen, _, _) = two_runs(world_folder, model_folder)
  assert pixels.teacher_frames is None and frozen.teacher_pixels is None
  record = sources.open_source(world_folder, pixel_sets.NAME, 'train')[0]
  teacher = load_teacher(spec(model_folder, 8), record, mesh)
  jax.tree.map(np.testing.assert_array_equal, own.params, teacher.params)
  assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(own.params))
  filled = jax.jit(functools.partial(teacher.fill, mesh=mesh))(teacher.params, sharding.shard_batch(pixels, mesh))
  np.testing.assert_allclose(filled.teacher_frames, frozen.teacher_frames, atol=1e-5)
  assert np.abs(frozen.teacher_frames).max() > 0.5


@pytest.mark.slow
def test_a_step_from_pixels_is_one_from_frozen_features(world_folder, model_folder):
  """On all devices: the same losses, and the same parameters after it."""
  (online_state, online), (frozen_state, frozen) = (one_step(*run) for run in two_runs(world_folder, model_folder))
  assert frozen['loss/inheritance/distillation'] > 0
  for name, value in frozen.items():
    np.testing.assert_allclose(online[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
  for one, other in zip(*(jax.tree.leaves(s.params) for s in (online_state, frozen_state)), strict=True):
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_bad_models_and_sets_are_refused(world_folder, model_folder, tmp_path):
  with pytest.raises(FileNotFoundError, match=r'there is no CLIP model .*absent'):
    set_up(clip_config(world_folder, tmp_path / 'absent'))
  model = clips.tiny_model()
  clip_files.save_clip(dataclasses.replace(model, preprocess=None), tmp_path / 'bare')
  with pytest.raises(ValueError, match='bare: does not say how pictures are prepared; add its preprocessor_config'):
    set_up(clip_config(world_folder, tmp_path / 'bare'))
  other = pixel_sets.write(tmp_path / 'small', 4, lambda images: images[:, 0, 0], 3)
  config = clip_config(tmp_path / 'small', model_folder)
  with pytest.raises(ValueError, match=r'pictures of 4x4x3, and .*tiny takes 16x16x3'):
    set_up(config)
  assert other == pixel_sets.NAME


def test_bfloat16_is_near(model_folder):
  record = {'teacher_pixels': np.zeros((1, 16, 16, 3), np.uint8), 'teacher_text': np.zeros((1, 10))}
  images = np.random.default_rng(0).integers(0, 256, (1, 5, 16 * 16 * 3), np.uint8)
  batch = worlds.make_batch().replace(teacher_frames=None, teacher_pixels=images)
  batch = batch.replace(frame_layout=padded_layout(np.arange(5)[None] < 4))
  mesh = sharding.make_mesh(jax.devices()[:1])
  full, half = (
    np.asarray(teacher.fill(teacher.params, batch).teacher_frames)
    for teacher in (load_teacher(spec(model_folder), record, mesh, dtype) for dtype in (jnp.float32, jnp.bfloat16))
  )
  assert full.dtype == half.dtype == np.float32 and not full[0, 4].any()
  cosine = (full * half).sum(-1)[0, :4] / np.linalg.norm(full, axis=-1)[0, :4] / np.linalg.norm(half, axis=-1)[0, :4]
  assert cosine.min() > 0.99 and not np.array_equal(full, half)
