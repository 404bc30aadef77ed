"""The tracer: which steps it traces, and that it leaves what TensorBoard and Perfetto open."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from dlkd_jax.training.profiling import StepTracer

double = jax.jit(lambda x: 2 * x)


def run(tracer, steps):
  for step in steps:
    with tracer.step(step):
      out = double(jnp.ones(3))
    tracer.after(step, out)


def traced_steps(workdir):
  (path,) = (workdir / 'profile').rglob('*.trace.json.gz')
  events = json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
  return sorted({int(e['args']['step_num']) for e in events if e.get('name') == 'train'})


def test_traces_the_steps_asked_for(tmp_path):
  with StepTracer(tmp_path, (3, 2)) as tracer:
    run(tracer, range(1, 9))
  assert traced_steps(tmp_path) == [3, 4]
  assert len(list((tmp_path / 'profile').rglob('*.xplane.pb'))) == 1


def test_a_run_that_ends_or_begins_within_the_range(tmp_path):
  with StepTracer(tmp_path / 'ends', (3, 100)) as tracer:
    run(tracer, range(1, 5))
  assert traced_steps(tmp_path / 'ends') == [3, 4]
  with StepTracer(tmp_path / 'begins', (3, 4)) as tracer:
    run(tracer, range(5, 9))
  assert traced_steps(tmp_path / 'begins') == [5, 6]


@pytest.mark.parametrize('steps', [(), (20, 3)])
def test_nothing_is_written_otherwise(tmp_path, steps):
  with StepTracer(tmp_path, steps) as tracer:
    run(tracer, range(1, 5))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('steps', [(1,), (0, 3), (2, 0), (1, 2, 3), (1.5, 2)])
def test_other_values_are_refused(tmp_path, steps):
  with pytest.raises(ValueError, match=r'logging.profile_steps'):
    StepTracer(tmp_path, steps)
