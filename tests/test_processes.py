"""Two processes train as one: the same numbers, stopped together by a signal to either, resumed by one alone.

Most runs have one branch and no teacher, whose step compiles sooner: each of two processes compiles it anew.
"""

import json
import signal

import jax
import numpy as np
import pytest

from dlkd_jax.training.checkpoints import Checkpoints
from tests.runs import SINGLE, Commands, logged_steps, records, shared_folder, wait_until

MEASURED = ('time/', 'memory/', 'compile/')  # Names of scalars that differ from run to run.


@pytest.fixture(scope='module')
def commands(tmp_path_factory):
  return Commands(shared_folder(tmp_path_factory), *SINGLE)


@pytest.fixture(scope='module')
def alone(commands, tmp_path_factory):
  """An undisturbed run of one process."""
  workdir = tmp_path_factory.mktemp('alone')
  commands.run(*commands.training(workdir))
  return workdir


def ends(processes, timeout=300):
  """Waits for processes; returns (exit code, standard output, standard error) of each."""
  outputs = [process.communicate(timeout=timeout) for process in processes]
  return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def params(workdir, step):
  return Checkpoints(workdir, read_only=True).restore_params(step)


def assert_close(one, other):
  """Asserts that two finished runs agree to 1e-5: parameters, everything that was logged of the steps, results."""
  last = max(logged_steps(other))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), params(one, last), params(other, last)
  )
  assert logged_steps(one) == logged_steps(other)
  for a, b in zip(records(one), records(other), strict=True):
    a, b = ({k: v for k, v in record.items() if not k.startswith(MEASURED)} for record in (a, b))
    assert a == pytest.approx(b, rel=1e-5, abs=1e-5)
  results = [json.loads((workdir / 'results.json').read_text()) for workdir in (one, other)]
  assert results[0]['metrics'] == pytest.approx(results[1]['metrics'], rel=1e-5)
  assert results[0]['best_epoch'] == results[1]['best_epoch']


def assert_nothing_is_compiled_after_the_first_epoch(workdir):
  counts = {record['step']: record['compile/programs'] for record in records(workdir) if 'compile/programs' in record}
  assert counts[1] > 0 and len({count for step, count in counts.items() if step > 4}) == 1


@pytest.mark.slow
def test_two_processes_give_what_one_gives(commands, tmp_path):
  """Both branches, and the teacher."""
  commands = Commands(commands.folder)
  alone, together = tmp_path / 'alone', tmp_path / 'together'
  commands.run(*commands.training(alone))
  (code, output, error), (other_code, other_output, other_error) = ends(commands.start_two(together))
  assert (code, other_code) == (0, 0), error + other_error
  assert '4 cpu device(s) of 2 processes' in output and 'Final results' in output
  # Gloo's own lines are written in parts, so that those of two threads may lie in one another.
  assert not [line for line in other_output.splitlines() if not ('[Gloo]' in line or 'peer ranks' in line)]
  assert_close(together, alone)


def test_eight_devices_give_what_two_give(commands, alone, tmp_path):
  assert '8 cpu device(s)' in commands.run(*commands.training(tmp_path), devices=8)
  assert_close(tmp_path, alone)
  assert_nothing_is_compiled_after_the_first_epoch(tmp_path)


@pytest.mark.parametrize('signalled', [pytest.param(0, marks=pytest.mark.slow), 1])
def test_two_processes_stop_together_and_one_goes_on(commands, alone, tmp_path, signalled):
  processes = commands.start_two(tmp_path)
  wait_until(lambda: 7 in logged_steps(tmp_path), processes[0], 300)
  processes[signalled].send_signal(signal.SIGTERM)
  (code, _, error), (other_code, _, other_error) = ends(processes)
  assert (code, other_code) == (75, 75), error + other_error
  assert 'stopped on request' in error
  step = max(logged_steps(tmp_path))
  assert step < 12
  assert_nothing_is_compiled_after_the_first_epoch(tmp_path)
  output = commands.run(*commands.training(tmp_path))
  assert f'resumed from the checkpoint of step {step}' in output and '2 cpu device(s)' in output
  assert_close(tmp_path, alone)


@pytest.mark.slow
def test_what_one_began_two_finish_and_evaluate(commands, alone, tmp_path):
  process = commands.start(tmp_path)
  wait_until(lambda: 5 in logged_steps(tmp_path), process)
  process.send_signal(signal.SIGTERM)
  assert ends([process])[0][0] == 75
  (code, output, error), (other_code, _, other_error) = ends(commands.start_two(tmp_path))
  assert (code, other_code) == (0, 0), error + other_error
  assert 'resumed from the checkpoint of step' in output
  assert_close(tmp_path, alone)
  found = ends(commands.start_two(tmp_path, '--mode=eval'))
  assert [code for code, _, _ in found] == [0, 0], found
  alone_metrics = json.loads((alone / 'results.json').read_text())['metrics']
  metrics = json.loads((tmp_path / 'eval_test.json').read_text())
  assert metrics == pytest.approx({name: alone_metrics[name] for name in metrics}, rel=1e-5)


@pytest.mark.slow
def test_one_process_that_dies_ends_the_other(commands, tmp_path):
  processes = commands.start_two(tmp_path)
  wait_until(lambda: 2 in logged_steps(tmp_path), processes[0], 300)
  processes[1].kill()
  (code, _, error), _ = ends(processes, timeout=150)
  assert code not in (0, 75), error


def test_an_error_of_one_process_is_an_error_of_both(commands, tmp_path):
  """The work directory cannot be written: process 0 says so, both end."""
  (tmp_path / 'file').touch()
  (code, _, error), (other_code, _, other_error) = ends(commands.start_two(tmp_path / 'file' / 'run'))
  assert code == 1 and '[process 0] error: ' in error and 'Not a directory' in error
  assert other_code != 0 and 'Traceback' not in other_error


@pytest.mark.slow
def test_parameters_split_over_devices_give_the_same(commands, alone, tmp_path):
  """Two processes share the parameters (`mesh.model`); one that holds them whole goes on."""
  processes = commands.start_two(tmp_path, '--config.mesh.model=4')
  wait_until(lambda: 5 in logged_steps(tmp_path), processes[0], 300)
  processes[0].send_signal(signal.SIGTERM)
  assert [code for code, _, _ in ends(processes)] == [75, 75]
  commands.run(*commands.training(tmp_path))
  assert_close(tmp_path, alone)
