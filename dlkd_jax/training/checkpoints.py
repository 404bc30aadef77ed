"""Checkpoints behind one small module: the newest two and the best, each with the place in the data.

A checkpoint is a folder `checkpoints/<step>` of the training state, written by Orbax, a JSON record of the run's
progress, and a list of check sums. It is written under another name and renamed when whole, and checked before it is
used: one that is damaged is put aside as `<step>.damaged`, and the one before it is taken. That of an epoch's end is
written before the evaluation, and gets a second record of the progress behind it.

In several processes all of them call every method; the folder must be one that all of them see.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import pathlib
import re
import shutil
import sys
import tempfile
import time
import weakref
import zlib
from collections.abc import Callable
from typing import Any

import jax
from absl import logging
from orbax.checkpoint import v1 as ocp

from dlkd_jax import files, multihost
from dlkd_jax.errors import UserError
from dlkd_jax.training import integrity

_STATE, _PROGRESS, _EVALUATED = 'state', 'progress.json', 'evaluated.json'
_PARTIAL, _REPLACED, _DAMAGED = '.partial', '.replaced', '.damaged'
_PLAIN = re.compile(r'(/[\w.,+=@~ -]+)+', re.ASCII)
_MERGED = 'manifest.ocdbt'  # Of the arrays of all processes together.
_KEPT_NEWEST = 2
_LINES = 8  # of arrays that do not fit, in a message


# The threads of Orbax log pages of traces of what `save` raises anyway, some of them when it has returned.
_NOISE = 'orbax/checkpoint/_src/futures/future.py'
logging.get_absl_logger().addFilter(lambda record: not record.pathname.endswith(_NOISE))


class CheckpointError(UserError):
  """A checkpoint could not be written, or none of those that are there can be read; the message says what to do."""


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
  """The checkpoints of one work directory."""

  def __init__(self, workdir: pathlib.Path, read_only: bool = False):
    """Opens `workdir/checkpoints`, and finishes or undoes what a killed run left half done there.

    Args:
      workdir: of the run; its folder of checkpoints is made where absent.
      read_only: change nothing: a training that still runs may be writing.

    Raises:
      FileNotFoundError: `read_only`, and there is no folder of checkpoints.
      OSError: the folder cannot be made or written to.
    """
    self._directory = (workdir / 'checkpoints').absolute()
    self._alias = _Alias(self._directory)
    self._read_only = read_only
    self._checked: dict[int, bool] = {}
    if not read_only:
      multihost.on_main(self._tidy)
    elif not self._directory.is_dir():
      raise FileNotFoundError(f'{workdir} holds no checkpoint; expected the --workdir of a training.')

  @property
  def latest_step(self) -> int | None:
    """Step of the newest checkpoint that is whole, or None where there never was one.

    Raises:
      CheckpointError: there are checkpoints, and every one is damaged.
    """
    return self._first(lambda: sorted(self._steps(), reverse=True), required=True)

  @property
  def best_step(self) -> int | None:
    """Step of the checkpoint with the best SumR on validation, of those that are whole, or None."""
    return self._first(lambda: sorted(self._ratings(), key=self._ratings().get, reverse=True))

  def save(self, step: int, state: Any, progress: Progress) -> None:
    """Saves a checkpoint and waits until it is whole. Where progress says that this step is the best, it is rated.

    Raises:
      CheckpointError: it could not be written; nothing of it is left, and the checkpoints before it are.
    """
    final = self._folder(step)
    partial = final.with_name(final.name + _PARTIAL)
    try:
      multihost.on_main(lambda: _remove(partial))
      ocp.save(self._alias.path / partial.name / _STATE, state)
      multihost.on_main(lambda: self._commit(partial, final, progress))
    except multihost.OtherProcessError:
      raise
    except Exception as error:  # Of the system or of Orbax, which has no type of its own for a full disk.
      if multihost.is_main():
        _remove_while_written(partial)
      newest = max(self._steps(), default=None)
      there = 'none was saved before' if newest is None else f'the newest whole one is of step {newest}'
      raise CheckpointError(
        f'the checkpoint of step {step} could not be written to {self._directory} ({there}): {_brief(error)}\n'
        'Make room or give access, then run the same command: it goes on from the newest whole checkpoint.'
      ) from error
    self._checked[step] = True
    multihost.on_main(self._prune)

  def mark(self, step: int, progress: Progress) -> None:
    """Notes beside a saved state what its evaluation gave; where progress says that it is the best, it is rated.

    Raises:
      CheckpointError: it could not be written; the checkpoint is what it was.
    """
    text = json.dumps(dataclasses.asdict(progress))
    record = {'progress': text, 'crc32': zlib.crc32(text.encode())}

    def write() -> None:
      try:
        files.write_json(self._folder(step) / _EVALUATED, record)
      except OSError as error:
        raise CheckpointError(
          f'the evaluation of step {step} could not be noted in {self._folder(step)}: {_brief(error)}\n'
          'Make room or give access, then run the same command: it makes the evaluation again.'
        ) from error
      self._prune()

    multihost.on_main(write)

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
    folder = self._alias.path / str(step) / _STATE
    saved, wanted = _arrays(ocp.metadata(folder).metadata), _arrays(like)
    odd = [name for name in sorted(saved.keys() | wanted.keys()) if saved.get(name) != wanted.get(name)]
    if odd:
      lines = [f'{name}: {saved.get(name, "absent")} → {wanted.get(name, "absent")}' for name in odd[:_LINES]]
      more = [f'and {len(odd) - _LINES} more'] if len(odd) > _LINES else []
      raise UserError(
        f'the checkpoint {self._folder(step)} does not fit this configuration and data set (saved → now):\n  '
        + '\n  '.join(lines + more)
      )
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    state = ocp.load(folder, abstract)
    return state, self.progress(step)

  def restore_params(self, step: int) -> Any:
    """Loads the parameters alone, onto the first local device, whatever devices wrote them."""
    folder = self._alias.path / str(step) / _STATE
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    state = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), ocp.metadata(folder).metadata
    )
    return ocp.load(folder, state)['params']

  def progress(self, step: int) -> Progress:
    """Reads the progress that a checkpoint holds: that behind the evaluation of its epoch where that was marked."""
    try:
      record = json.loads((self._folder(step) / _EVALUATED).read_text(encoding='utf-8'))
      if zlib.crc32(record['progress'].encode()) == record['crc32']:
        return Progress(**json.loads(record['progress']))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
      pass  # It was not evaluated yet; or that is damaged, and the evaluation is made again.
    return Progress(**json.loads((self._folder(step) / _PROGRESS).read_text(encoding='utf-8')))

  def _folder(self, step: int) -> pathlib.Path:
    return self._directory / str(step)

  def _steps(self) -> list[int]:
    """Steps of all checkpoints, whole or not, but for those put aside."""
    return [int(path.name) for path in self._directory.iterdir() if path.name.isdigit()]

  def _ratings(self) -> dict[int, tuple[float, int]]:
    """Returns {step: (SumR, step)} of the checkpoints that were a new best, by their own record or a later one."""
    ratings, steps = {}, self._steps()
    for step in steps:
      try:
        progress = self.progress(step)
      except (OSError, ValueError, TypeError):
        continue  # It is damaged, and will be found so when it is used.
      if progress.best_step in steps:
        ratings[progress.best_step] = progress.best_sum_r, progress.best_step
    return ratings

  def _first(self, candidates: Callable[[], list[int]], required: bool = False) -> int | None:
    """Returns the first of the candidates that is whole, as process 0 finds it, and puts those before it aside."""

    def find() -> int:
      steps, damaged = candidates(), {}
      for step in steps:
        if step not in self._checked:
          problem = integrity.problem(self._folder(step))
          self._checked[step] = problem is None
          if problem is not None:
            damaged[step] = problem
        if self._checked[step]:
          self._put_aside(damaged)
          return step
      if required and steps:
        raise CheckpointError(
          f'no checkpoint in {self._directory} is whole: '
          + '; '.join(f'{step}: {problem}' for step, problem in damaged.items())
          + '. Restore the folder from a copy, or remove it to start anew.'
        )
      self._put_aside(damaged)
      return -1

    step = multihost.on_main(find)
    return None if step < 0 else step

  def _put_aside(self, damaged: dict[int, str]) -> None:
    for step, problem in damaged.items():
      text = f'the checkpoint of step {step} in {self._directory} is damaged ({problem}) and is not used'
      if not self._read_only:
        aside = self._folder(step).with_name(f'{step}{_DAMAGED}')
        _remove(aside)
        self._folder(step).rename(aside)
        text += f'; it lies aside as {aside.name}'
      print(f'warning: {text}', file=sys.stderr, flush=True)

  def _tidy(self) -> None:
    self._directory.mkdir(parents=True, exist_ok=True)
    for path in list(self._directory.iterdir()):
      if path.suffix == _REPLACED and not (final := path.with_suffix('')).exists():
        path.rename(final)  # Killed between the two renames of a replacement.
      elif path.suffix in (_PARTIAL, _REPLACED):
        _remove(path)

  def _commit(self, partial: pathlib.Path, final: pathlib.Path, progress: Progress) -> None:
    files.write_json(partial / _PROGRESS, dataclasses.asdict(progress))
    if all(path.parent.name.startswith('ocdbt.process') for path in (partial / _STATE).rglob(_MERGED)):
      raise OSError(errno.EIO, 'the arrays that were written cannot be read back', str(partial))
    integrity.seal(partial)
    replaced = final.with_name(final.name + _REPLACED)
    if final.exists():
      final.rename(replaced)
    partial.rename(final)
    files.sync(self._directory)
    _remove(replaced)

  def _prune(self) -> None:
    """Removes all but the newest and the best."""
    steps, ratings = sorted(self._steps()), self._ratings()
    kept = {*steps[-_KEPT_NEWEST:], *sorted(ratings, key=ratings.get)[-1:]}
    for step in set(steps) - kept:
      # Renamed first: a checkpoint that is only half removed must not look like one.
      doomed = self._folder(step).with_name(f'{step}{_PARTIAL}')
      self._folder(step).rename(doomed)
      _remove(doomed)


class _Alias:
  """A name for a folder that Orbax can write below: it takes brackets in a path for a pattern, and `gs:/` for a cloud.

  Attributes:
    path: the folder itself where its name is plain, else a link to it, which is removed with this object.
  """

  def __init__(self, folder: pathlib.Path):
    self.path = folder
    if _PLAIN.fullmatch(str(folder)):
      return
    home = pathlib.Path(tempfile.mkdtemp(prefix='dlkd_'))
    weakref.finalize(self, shutil.rmtree, home, ignore_errors=True)
    if not _PLAIN.fullmatch(str(home)):
      raise UserError(
        f'{folder} has characters in its name that checkpoints cannot be written below, and so has the folder of '
        f'temporary files; choose another --workdir, or set TMPDIR to a folder with a plain name'
      )
    self.path = home / folder.name
    self.path.symlink_to(folder)


def read_best(workdir: pathlib.Path) -> tuple[Any, int]:
  """Reads the parameters of a run's best checkpoint, or of its newest where none is rated yet, and their step.

  Needs neither the configuration nor the data set, and leaves a training that still runs alone.

  Raises:
    FileNotFoundError: there is no checkpoint.
    CheckpointError: every checkpoint is damaged.
  """
  checkpoints = Checkpoints(workdir, read_only=True)
  step = checkpoints.best_step
  step = checkpoints.latest_step if step is None else step
  if step is None:
    raise FileNotFoundError(f'{workdir} holds no checkpoint; expected the --workdir of a training.')
  return checkpoints.restore_params(step), step


def _arrays(tree: Any) -> dict[str, str]:
  """Describes the arrays of a tree: name → type and shape."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): f'{x.dtype}{list(x.shape)}' for path, x in leaves}


def _remove(folder: pathlib.Path) -> None:
  if folder.exists():
    shutil.rmtree(folder)


def _remove_while_written(folder: pathlib.Path, seconds: float = 5.0) -> None:
  """Removes a folder that threads of a failed save may still be writing to; what is left goes at the next start."""
  until = time.monotonic() + seconds
  while folder.exists() and time.monotonic() < until:
    shutil.rmtree(folder, ignore_errors=True)
    time.sleep(0.05)


def _brief(error: BaseException) -> str:
  """The first line of an error, which Orbax follows by pages; the system's own words where they are the cause."""
  cause: BaseException | None = error
  while cause is not None and not isinstance(cause, OSError):
    cause = cause.__cause__ or cause.__context__
  return str(cause or error).strip().splitlines()[0][:300]
