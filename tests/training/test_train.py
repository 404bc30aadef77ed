"""The loop on a step that is none, batches on the devices, keys of a run; whole runs are in `test_whole_path`."""

import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tvr
from dlkd_jax import sharding
from dlkd_jax.data.batch import pack
from dlkd_jax.data.train_pipeline import train_pipeline
from dlkd_jax.losses.pairs import random_bits
from dlkd_jax.models.students import init_parameters
from dlkd_jax.multihost import StopRequest
from dlkd_jax.retrieval.evaluate import EvaluationResult
from dlkd_jax.retrieval.metrics import chance_metrics
from dlkd_jax.training import metrics as metrics_lib
from dlkd_jax.training import optimizer, recipe
from dlkd_jax.training.checkpoints import Progress
from dlkd_jax.training.evaluate_run import final_report
from dlkd_jax.training.monitoring import Compilations, Records, StepTracer
from dlkd_jax.training.optimizer import AverageState
from dlkd_jax.training.state import TrainState, create_state, make_train_step
from dlkd_jax.training.train import PlacedBatches, compile_ahead, fit, keys_of_run
from tests import options as made
from tests.data import fakes
from tests.training import worlds

STEPS = 2


class Stream:
  """Batches of ones, as `TrainPipeline` and its iterator give them."""

  resident = None

  def __init__(self, rows):
    self.rows, self.taken = rows, 0

  def __iter__(self):
    return self

  def __next__(self):
    self.taken += 1
    return {'features': np.full((self.rows, 3), self.taken, np.float32), 'labels': np.zeros(self.rows, np.int32)}

  def get_state(self):
    return {'batches': self.taken}

  def close(self):
    pass


class Kept:
  """Checkpoints that keep what they are given."""

  def __init__(self):
    self.saved, self.marked = [], []

  def save(self, step, state, progress):
    self.saved.append((step, int(state.step), progress.iterator['batches']))

  def wait(self):
    pass

  def mark(self, step, progress):
    self.marked.append((step, progress.evaluated_epochs, progress.best_step))
    self.averaged = progress.best_averaged


def rate(params, should_stop):
  """Validation of a student that never changes, whose averaged parameters rate as they are."""
  sum_r = float(params.get('rated', 1.0))
  scorer = types.SimpleNamespace(sum_r=sum_r)
  return types.SimpleNamespace(primary=scorer, metrics={'only': scorer}, video_ids=['v'], as_dict=lambda prefix: {})


def run(tmp_path, devices, step_key, stop=None, epochs=2, opt_state=(), traced=(), writer=None, **training):
  """Trains epochs of two steps on so many devices; returns (state, what was saved, compilations of the steps)."""
  mesh = sharding.make_mesh(jax.devices()[:devices])
  whole, rows = sharding.replicated(mesh), sharding.rows(mesh)

  def step(state, batch, key):
    loss = jnp.sum(batch.features[0]) + jax.random.uniform(key)
    return state.replace(step=state.step + 1), metrics_lib.of_step({'loss/total': loss})

  compiled = jax.jit(step, in_shardings=(None, rows, whole), donate_argnums=0)
  config = tvr.get_config()
  with config.unlocked():
    config.training.update(epochs=epochs, **training)
  state = jax.device_put(TrainState(jnp.zeros((), jnp.int32), {}, opt_state), whole)
  progress, kept, key = Progress({}), Kept(), step_key(mesh)
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), next(Stream(devices)))
  with (
    StepTracer(tmp_path, traced) as tracer,
    Compilations() as compilations,
    PlacedBatches(Stream(devices), mesh) as batches,
  ):
    for program in compile_ahead(compiled, state, [shapes], key, mesh):
      program.result()
    state = fit(
      state,
      compiled,
      key,
      batches,
      config=config,
      per_epoch=STEPS,
      progress=progress,
      validator=rate,
      checkpoints=kept,
      records=Records(
        writer, compilations, progress, tmp_path, every=20, per_epoch=STEPS, epochs=config.training.epochs
      ),
      tracer=tracer,
      stop=stop or StopRequest(),
    )
  return state, kept, compiled


def replicated_key(mesh):
  return jax.device_put(jax.random.key(0), sharding.replicated(mesh))


@pytest.mark.parametrize('devices', [1, 2, 8])
def test_what_is_placed_is_trained_on_and_saved_before_it_is_evaluated(tmp_path, devices):
  state, kept, compiled = run(tmp_path, devices, replicated_key)
  assert int(state.step) == 2 * STEPS
  # A batch is placed ahead, and the place in the stream is that of the one trained on.
  assert kept.saved == [(2, 2, 2), (4, 4, 4)] and kept.marked == [(2, 1, 2), (4, 2, 2)]
  assert compiled._cache_size() == 1


def test_checkpoints_between_epochs(tmp_path):
  _, kept, _ = run(tmp_path, 1, replicated_key, checkpoint_every_steps=1)
  assert kept.saved == [(step, step, step) for step in (1, 2, 3, 4)]


def test_the_writing_of_a_trace_is_no_part_of_a_step(tmp_path, monkeypatch):
  monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder: time.sleep(2.0))
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: time.sleep(3.0))
  records = {}
  writer = types.SimpleNamespace(write=lambda step, scalars: records.setdefault(step, []).append(scalars))
  run(tmp_path, 1, replicated_key, traced=(4, 1), writer=writer)
  steps, evaluation = records[4]
  assert evaluation['time/profile'] >= 3.0 and steps['time/step'] < 1.0
  assert 'time/profile' not in records[2][1]


def test_training_stops_when_validation_does_not_improve(tmp_path):
  state, kept, _ = run(tmp_path, 1, replicated_key, epochs=9, patience=2)
  assert int(state.step) == 3 * STEPS and kept.marked[-1] == (3 * STEPS, 3, STEPS)


def test_training_does_not_stop_before_the_least_number_of_epochs(tmp_path):
  state, _, _ = run(tmp_path, 1, replicated_key, epochs=9, patience=2, min_epochs=5)
  assert int(state.step) == 5 * STEPS


@pytest.mark.parametrize(('mean', 'better'), [(3.0, True), (1.0, False), (0.5, False)])
def test_averaged_parameters_are_rated_too_and_the_better_ones_kept(tmp_path, capsys, mean, better):
  kept_mean = AverageState({'rated': np.float32(mean / 2)}, np.float32(0.5))
  _, kept, _ = run(tmp_path, 1, replicated_key, opt_state=((), kept_mean))
  assert kept.averaged == better
  assert f'validation SumR 1.0, averaged parameters {mean:.1f}, new best' in capsys.readouterr().out


def test_a_branch_at_chance_is_warned_of_once(tmp_path, capsys):
  run(tmp_path, 1, replicated_key, epochs=12, patience=12)  # A SumR of 1 is below chance.
  output = capsys.readouterr().out
  assert output.count('warning: after 8 epochs the branch only alone is at chance on validation') == 1
  assert 'FILE:uniform_negatives' in output and output.count('warning') == 1


def test_the_step_finds_what_was_compiled_ahead():
  mesh = sharding.make_mesh()
  step = jax.jit(lambda s, b, k: (s, jnp.sum(b.features[0])), in_shardings=(None, sharding.rows(mesh), None))
  state, key = jax.device_put(jnp.zeros(3), sharding.replicated(mesh)), replicated_key(mesh)
  shapes = [
    {'features': jax.ShapeDtypeStruct((8 * n, 3), jnp.float32), 'n': jax.ShapeDtypeStruct((8,), jnp.int32)}
    for n in (1, 2)
  ]
  batches = [jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shape) for shape in shapes]
  with Compilations() as compilations:
    for program in compile_ahead(step, state, shapes, key, mesh):
      program.result()
    assert compilations.count == 2
    for batch in batches:
      step(state, sharding.shard_batch(pack(batch, mesh.size), mesh), key)
    assert compilations.count == 2


def test_features_that_stay_on_the_devices_compile_nothing_more():
  mesh, rate = sharding.make_mesh(jax.devices()[:2]), optimizer.warmup_linear(1e-2, 100, 0.01)
  key, branch = replicated_key(mesh), ('inheritance',)
  pipeline = train_pipeline(fakes.source(8), fakes.options(shards=2), 0, room=1e9)  # Of one shape.
  student, adam = worlds.make_student().clone(max_frames=12, branches=branch), optimizer.bert_adam(rate, 0.01, 1.0)
  options = made.objective_options(made.terms(branch, distilled=(), triplet_weight=0.0))
  state = create_state(lambda key: init_parameters(student, key, fakes.STUDENT, fakes.TOKEN), adam, mesh, key)
  step = make_train_step(student, adam, worlds.coefficients, rate, options, mesh, pipeline.resident)
  with Compilations() as compilations, PlacedBatches(pipeline, mesh) as batches:
    for program in compile_ahead(step, state, pipeline.shapes(), key, mesh):
      program.result()
    batches.place_next()
    before = compilations.count
    with jax.transfer_guard('disallow'):
      for _ in range(4):
        batch = next(batches)
        assert not batch.features and batch.numbers.dtype == np.int32  # Numbers of rows, and nothing else.
        state, metrics = step(state, batch, key)
        batches.place_next()
    assert compilations.count == before
  assert np.isfinite(metrics_lib.fetch(metrics)['loss/total'])


def test_what_would_be_moved_in_every_step_is_refused(tmp_path):
  with pytest.raises(Exception, match='Disallowed device-to-device transfer'):
    run(tmp_path, 2, lambda mesh: jax.random.key(0))


@pytest.fixture
def generator():
  """Sets what JAX_DEFAULT_PRNG_IMPL and JAX_THREEFRY_PARTITIONABLE set, as it was before afterwards."""
  names = ('jax_default_prng_impl', 'jax_threefry_partitionable')
  before = [getattr(jax.config, name) for name in names]
  set_both = lambda *values: [jax.config.update(*each) for each in zip(names, values, strict=True)]  # noqa: E731
  yield set_both
  set_both(*before)


def test_draws_are_those_of_one_generator_and_depend_on_no_layout(generator):
  found = []
  for implementation, partitionable in (('threefry2x32', True), ('rbg', False), ('unsafe_rbg', False)):
    generator(implementation, partitionable)
    keys = keys_of_run(7, sharding.make_mesh())
    assert [str(jax.random.key_impl(key)) for key in keys] == ['threefry2x32'] * 2
    bits = [random_bits(keys[1], jnp.arange(first, 5)).tolist()[-2:] for first in (0, 3)]
    assert bits[0] == bits[1]
    found.append(([jax.random.key_data(key).tolist() for key in keys], bits))
  assert found[0] == found[1] == found[2]


def test_seeds_give_different_keys():
  keys = [jax.random.key_data(key) for seed in (0, 1, 2**32 - 1) for key in keys_of_run(seed, sharding.make_mesh())]
  assert len({np.asarray(key).tobytes() for key in keys}) == 6


def test_the_report_reads_validation_no_second_time(tmp_path, monkeypatch, capsys):
  result = EvaluationResult({'fused': chance_metrics(9)}, {}, ['c'], ['v'], np.zeros(1, int), {}, 0)
  made = []

  def make_evaluator(config, student, mesh, split, **asked):
    made.append((split, asked))
    return lambda params, should_stop: result

  monkeypatch.setattr(recipe, 'make_evaluator', make_evaluator)
  monkeypatch.setattr(recipe, 'names', lambda config, wanted: wanted)
  validator = lambda params, should_stop: result  # noqa: E731
  found = final_report(tvr.get_config(), tmp_path, None, {}, None, Progress({}, 3, 1.0, 2), validator)
  assert made == [('test', {'teacher': True})]
  assert found['val/fused/SumR'] == found['test/fused/SumR'] == chance_metrics(9).sum_r
  assert 'Parameters of epoch 2 of 3' in (tmp_path / 'results.md').read_text()
  assert 'tvr_prvr, val: 1 captions, 1 videos' in capsys.readouterr().out
