"""Several processes as one: starting them, what only the first one does, and leaving together.

A lone process needs none of this: every function is then free of cost and of effect.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from dlkd_jax.errors import UserError

_HEARTBEAT_SECONDS = 60  # A process that was silent for so long is taken for dead, and the others end.
_Result = TypeVar('_Result')


class OtherProcessError(UserError):
  """Another process of the run failed; its own message says why."""


def evident(environment: Mapping[str, str]) -> bool:
  """Whether the environment names a cluster of several processes that JAX finds its way in.

  That is a step of SLURM or a call of mpirun with several tasks, several workers of a TPU slice, several slices, or
  JAX's own `JAX_COORDINATOR_ADDRESS`. Where a TPU pod does not tell its workers through the environment, ask for it
  with --distributed.
  """

  def number(name: str) -> int:
    text = environment.get(name, '')
    return int(text) if text.isdigit() else 0

  counts = ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE', 'MEGASCALE_NUM_SLICES')
  hosts = (environment.get(name, '').split(',') for name in ('TPU_WORKER_HOSTNAMES', 'TPU_PROCESS_ADDRESSES'))
  return (
    any(number(name) > 1 for name in counts)
    or any(len(names) > 1 for names in hosts)
    or 'JAX_COORDINATOR_ADDRESS' in environment
  )


def initialize(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  distributed: bool = False,
) -> None:
  """Joins the processes of a run, where several are asked for or evident; must come before any other use of JAX.

  Args:
    coordinator_address: host and port of process 0, as `10.0.0.1:1234`; None to have it found out.
    num_processes: of the run; None to have it found out.
    process_id: of this process, from 0; None to have it found out.
    distributed: find out what is not given, even where no cluster is evident.

  Raises:
    UserError: only some of the three were given and JAX could not find the others, the cluster was not found, or the
      processes were not to be joined and are several all the same.
  """
  given = [x for x in (coordinator_address, num_processes, process_id) if x is not None]
  if not (given or distributed or evident(os.environ)):
    if jax.process_count() > 1:
      raise UserError(
        f'this is one of {jax.process_count()} processes that nothing has joined; start each of them with --distributed'
      )
    return
  # JAX's own watch for SIGTERM would take the place of ours, and knows neither SIGINT nor evaluation.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      coordinator_address, num_processes, process_id, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
    )
  except Exception as error:
    raise UserError(
      f'the processes of the run could not be joined: {error}\nGive all of --coordinator_address=HOST:PORT, '
      '--num_processes=N and --process_id=0…N-1, or --distributed alone on a TPU pod, in SLURM or under mpirun.'
    ) from error


def alone() -> bool:
  """Whether this is the only process."""
  return jax.process_count() == 1


def is_main() -> bool:
  """Whether this is the process that prints and writes."""
  return jax.process_index() == 0


def from_main(function: Callable[[], int]) -> int:
  """Calls a function in process 0 alone and returns its result, a whole number, in all; they wait for each other.

  Raises:
    OtherProcessError: in the other processes, where it raised in process 0, which raises its own error.
  """
  if alone():
    return function()
  result, failure = 0, None
  if is_main():
    try:
      result = function()
    except Exception as error:  # Told to the others before it is raised, or they would wait forever.
      failure = error
  answer = np.asarray([result, failure is not None], np.int64 if jax.config.jax_enable_x64 else np.int32)
  result, failed = (int(x) for x in multihost_utils.broadcast_one_to_all(answer))
  if failure is not None:
    raise failure
  if failed:
    raise OtherProcessError('process 0 failed; its message says why.')
  return result


def on_main(function: Callable[[], object]) -> None:
  """Calls a function in process 0 alone; all wait until it is done.

  Raises:
    OtherProcessError: in the other processes, where it raised in process 0, which raises its own error.
  """

  def call() -> int:
    function()
    return 0

  from_main(call)


def leave(message: str, code: int) -> NoReturn:
  """Ends this process with a message on the standard error and an exit code, wherever the other processes are.

  One of several goes at once, without the farewell that JAX would wait for: the others may be waiting for this one
  in the middle of a step, and are ended when it was silent for a minute.
  """
  if alone():
    print(message, file=sys.stderr, flush=True)
    sys.exit(code)
  print(f'[process {jax.process_index()}] {message}', file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(code)


def leave_together(message: str, code: int) -> NoReturn:
  """Ends this process with an exit code where all do so; the first one says why."""
  if is_main():
    print(message, file=sys.stderr, flush=True)
  sys.exit(code)
