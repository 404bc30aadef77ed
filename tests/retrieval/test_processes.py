"""Two processes of two devices each evaluate one gallery: the ranks of one process, and they stop and fail as one."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from dlkd_jax.sharding import make_mesh
from tests.paths import repository
from tests.retrieval import one_of_two


def _two(case):
  """Runs the case in two processes and returns what each found."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'} | {'JAX_PLATFORMS': 'cpu'}
  started = [
    subprocess.Popen(
      [sys.executable, '-m', 'tests.retrieval.one_of_two', address, '2', str(index), case],
      cwd=repository(),
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  try:
    printed = [process.communicate(timeout=240) for process in started]
  finally:
    for process in started:
      process.kill()
  found = [[line[6:] for line in out.splitlines() if line.startswith('found:')] for out, _ in printed]
  assert all(found), '\n'.join(error[-3000:] for _, error in printed)
  return [json.loads(lines[0]) for lines in found]


@pytest.mark.slow
@pytest.mark.parametrize('case', ['agree', 'one chip'])
def test_two_processes_find_what_one_finds(case):
  first, second = _two(case)
  assert 'error' not in first, first
  assert first == second
  one = one_of_two.run(make_mesh(jax.devices()[:4], model=2), 0, 1, 'agree') | {'bytes': first['bytes']}
  for name, scores in one.pop('scores').items():
    np.testing.assert_array_equal(first['scores'][name], scores)
  first.pop('scores')
  assert first == one


@pytest.mark.slow
def test_a_process_that_stops_stops_all():
  found = [result['error'] for result in _two('stop')]
  assert all(error.startswith('Stopped: in the evaluation, after') for error in found)


@pytest.mark.slow
def test_a_process_that_fails_is_named_by_the_others():
  found = [result['error'] for result in _two('fail')]
  assert found[1].startswith("UserError: video 'video5' has no student frames")
  assert found[0].startswith("UserError: process 1 failed: UserError: video 'video5' has no student frames")
