"""The door of the page: help, and errors in one line."""

import os
import socket
import subprocess
import sys

import pytest

from tests.paths import repository


def serve(*arguments):
  environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
  return subprocess.run(
    [sys.executable, '-m', 'dlkd_jax.serve', *arguments],
    cwd=repository(),
    env=environment,
    capture_output=True,
    text=True,
    timeout=120,
  )


def test_help_teaches():
  done = serve('--help')
  assert 'python -m dlkd_jax.serve --index=other' in done.stdout and '--threshold' in done.stdout
  assert 'jax' not in done.stderr.lower()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('--index=absent', '--port=0'), 'absent is no index'),
    (('--index=absent', '--port=0', '--host=no.such.host.invalid'), 'is no address of this machine'),
    (('--index=absent', '--port=0', '--host=192.0.2.1'), 'does not have that address'),
  ],
)
def test_errors_are_one_line(arguments, message):
  done = serve(*arguments)
  assert done.returncode == 1 and done.stderr.startswith('error: ') and message in done.stderr
  assert 'Traceback' not in done.stderr and done.stderr.count('\n') == 1


def test_a_port_in_use():
  with socket.create_server(('127.0.0.1', 0)) as other:
    done = serve('--index=absent', f'--port={other.getsockname()[1]}')
  assert done.returncode == 1 and 'another program listens there' in done.stderr and 'Traceback' not in done.stderr
