"""Checkpoints behind one small module: the newest two and the best, each with the place in the data.

A checkpoint holds the training state and a JSON record of the run's progress (iterator state, best result so far).
It is written to a temporary folder and renamed when whole.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

_STATE, _PROGRESS, _METRIC = 'state', 'progress', 'sum_r'
_KEPT_NEWEST = 2
_policies = ocp.training.preservation_policies


@dataclasses.dataclass
class Progress:
  """How far a run has come, apart from its parameters.

  Attributes:
    iterator: state of the data iterator.
    evaluated_epochs: epochs after which validation was done.
    best_sum_r: best SumR on validation so far; below 0 before the first.
    best_epoch: number of the epoch, from 1, that gave it.
    best_step: its step.
  """

  iterator: dict[str, Any]
  evaluated_epochs: int = 0
  best_sum_r: float = -1.0
  best_epoch: int = 0
  best_step: int = 0


class Checkpoints:
  """The checkpoints of one work directory; use as a context manager."""

  def __init__(self, workdir: pathlib.Path, read_only: bool = False):
    """Opens `workdir/checkpoints`.

    Args:
      workdir: of the run; its folder of checkpoints is made where absent.
      read_only: leave unfinished checkpoints alone: a training that still runs may be writing one.

    Raises:
      FileNotFoundError: `read_only`, and there is no folder of checkpoints.
    """
    policy = _policies.AnyPreservationPolicy(
      [
        _policies.LatestN(_KEPT_NEWEST),
        # Only a new best is saved with a metric, so the newest of those is the best.
        _policies.BestN(get_metric_fn=lambda m: m[_METRIC], n=1, keep_checkpoints_without_metrics=False),
      ]
    )
    self._directory = (workdir / 'checkpoints').absolute()
    if read_only and not self._directory.is_dir():
      raise FileNotFoundError(f'{workdir} holds no checkpoint; expected the --workdir of a training.')
    self._checkpointer = ocp.training.Checkpointer(
      self._directory, preservation_policy=policy, cleanup_tmp_directories=not read_only
    )

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *exception) -> None:
    self._checkpointer.close()

  @property
  def latest_step(self) -> int | None:
    """Step of the newest checkpoint, or None."""
    latest = self._checkpointer.latest
    return None if latest is None else latest.step

  @property
  def best_step(self) -> int | None:
    """Step of the checkpoint with the best SumR on validation, or None."""
    rated = [c for c in self._checkpointer.checkpoints if c.metrics]
    return max(rated, key=lambda c: (c.metrics[_METRIC], c.step)).step if rated else None

  def save(self, step: int, state: Any, progress: Progress) -> None:
    """Saves a checkpoint and waits until it is whole. Where progress says that this step is the best, it is rated."""
    metrics = {_METRIC: progress.best_sum_r} if progress.best_step == step and step else None
    content = {_STATE: state, _PROGRESS: dataclasses.asdict(progress)}
    self._checkpointer.save_checkpointables(step, content, metrics=metrics, overwrite=True)

  def restore(self, step: int, like: Any) -> tuple[Any, Progress]:
    """Loads a checkpoint.

    Args:
      step: of the checkpoint.
      like: the state's pytree, of arrays or of `jax.ShapeDtypeStruct` with shardings.

    Returns:
      The state with the shapes, types and shardings of `like`, and the progress.

    Raises:
      ValueError: the checkpoint does not fit the model; the message names the folder.
    """
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    try:
      loaded = self._checkpointer.load_checkpointables(step, {_STATE: abstract, _PROGRESS: None})
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f'the checkpoint {self._directory / str(step)} does not fit this configuration and data set: {error}'
      ) from error
    return loaded[_STATE], Progress(**loaded[_PROGRESS])

  def restore_params(self, step: int) -> Any:
    """Loads the parameters alone, onto the first local device, whatever devices wrote them."""
    folder = self._directory / str(step)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    state = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
      ocp.checkpointables_metadata(folder).metadata[_STATE],
    )
    return ocp.load_checkpointables(folder, {_STATE: state})[_STATE]['params']


def read_best(workdir: pathlib.Path) -> tuple[Any, int]:
  """Reads the parameters of a run's best checkpoint, or of its newest where none is rated yet, and their step.

  Needs neither the configuration nor the data set, and leaves a training that still runs alone.

  Raises:
    FileNotFoundError: there is no checkpoint.
  """
  with Checkpoints(workdir, read_only=True) as checkpoints:
    step = checkpoints.best_step
    step = checkpoints.latest_step if step is None else step
    if step is None:
      raise FileNotFoundError(f'{workdir} holds no checkpoint; expected the --workdir of a training.')
    return checkpoints.restore_params(step), step
