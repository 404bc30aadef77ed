"""The checkpoints of a run: the newest two and the best, each with the place in the data, written beside the training.

A checkpoint is a folder `checkpoints/<step>`: the training state as Orbax writes it, a record of the progress, and a
list of check sums, written last. While `<step>.partial` lies beside it, it is none: it is being written or removed.
That holds wherever a kill comes, and in buckets. Before a checkpoint is used its check sums are compared: a damaged one
is put aside as `<step>.damaged`, and the one before it is taken. That of the end of an epoch is written before its
evaluation, and gets a second record behind it.

Orbax's own `Checkpointer` cannot promise this: it rates a checkpoint when it is saved, not behind its evaluation;
commits it with no place for check sums, and does not notice a flipped bit; and removes old ones file by file, so that a
kill leaves half of one under its name. So Orbax writes and reads the arrays, and these few lines keep the folders.

In several processes all of them call every method; the folder must be one that all of them see.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import json
import pathlib
import re
import shutil
import sys
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import logging
from orbax.checkpoint import v1 as ocp

from dlkd_jax import files, multihost
from dlkd_jax.errors import UserError
from dlkd_jax.models.parameter_files import check_shapes

_STATE, _PROGRESS, _EVALUATED = 'state', 'progress.json', 'evaluated.json'
_PARTIAL, _DAMAGED = '.partial', '.damaged'
_MERGED = 'manifest.ocdbt'  # Of the arrays of all processes together.
# Brackets in a path are a pattern to Orbax, and `gs:/` or `/gs/` in a local one is a cloud.
_PLAIN = re.compile(r'(?!/(gs|s3|az|hf)/)(\w+:/)?(/[\w.,+=@~ -]+)+', re.ASCII)
_KEPT_NEWEST = 2

# The threads of Orbax log pages of traces of what `save` raises anyway, some of them when it has returned.
_NOISE = 'orbax/checkpoint/_src/futures/future.py'
logging.get_absl_logger().addFilter(lambda record: not record.pathname.endswith(_NOISE))


class CheckpointError(UserError):
  """A checkpoint could not be written, or none of those that are there can be read; the message says what to do."""


@dataclasses.dataclass
class Progress:
  """How far a run has come, apart from its parameters."""

  iterator: dict[str, Any]  # State of the data iterator.
  evaluated_epochs: int = 0
  best_sum_r: float = -1.0  # On validation so far; below 0 before the first.
  best_epoch: int = 0  # From 1.
  best_step: int = 0
  best_averaged: bool = False  # Whether it was the averaged parameters' of that step.

  def as_json(self) -> str:
    return json.dumps(dataclasses.asdict(self), indent=2) + '\n'


class Checkpoints:
  """The checkpoints of one work directory."""

  def __init__(self, workdir: files.Path, read_only: bool = False):
    """Opens `workdir/checkpoints`, which is made where absent, and undoes what a killed run left half done there.

    With `read_only` nothing is changed: a training that still runs may be writing.

    Raises:
      FileNotFoundError: `read_only`, and there is no folder of checkpoints.
      OSError: the folder cannot be made or written to.
    """
    self._directory, self._read_only = files.absolute(workdir / 'checkpoints'), read_only
    self._plain_directory = self._directory if _PLAIN.fullmatch(str(self._directory)) else self._link()
    self._problems: dict[int, str | None] = {}  # By step, of those that were looked at.
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
    self._writing: tuple[int, concurrent.futures.Future] | None = None
    if not read_only:
      multihost.on_main(self._tidy)
    elif not self._directory.is_dir():
      raise FileNotFoundError(f'{workdir} holds no checkpoint; expected the --workdir of a training.')

  def newest_whole(self) -> int | None:
    """Finds the newest checkpoint that is whole, by reading all of it; puts damaged ones aside, and says so.

    None where there never was one.

    Raises:
      CheckpointError: there are checkpoints, and every one is damaged.
    """
    return self._first_whole(lambda: sorted(self._steps(), reverse=True), required=True)

  def best_whole(self) -> int | None:
    """Finds the best on validation of those that are whole, as `newest_whole` does; None: none is rated.

    That is what the newest record says, which may be another than the one of the best SumR, or else the record before.
    """
    return self._first_whole(lambda: sorted(self._ratings(), key=self._ratings().get, reverse=True))

  def save(self, step: int, state: Any, progress: Progress) -> None:
    """Begins to save a checkpoint, once the one before it is written; it is rated where progress names it as the best.

    The state is copied when this returns; `wait`, and every method that needs to, waits until it is on the disk.

    Raises:
      CheckpointError: this one or the one before it could not be written; those before it are what they were.
    """
    self.wait()
    record = progress.as_json()  # Before the training goes on and changes it.
    with self._explaining(step):
      multihost.on_main(lambda: self._begin(step))
      response = ocp.save_async(self._plain_directory / str(step) / _STATE, state)
    self._writing = step, self._thread.submit(self._finish, step, response, record)

  def wait(self) -> None:
    """Waits until what was saved is whole; errors are those of `save`."""
    if self._writing is None:
      return
    (step, writing), self._writing = self._writing, None
    with self._explaining(step):
      if not multihost.is_main():
        writing.result()
      multihost.on_main(writing.result)
    self._problems[step] = None

  def close(self) -> None:
    """Lets a lone process finish what it writes, however its run ended; of several, others may have failed."""
    if self._writing is not None and multihost.alone():
      concurrent.futures.wait([self._writing[1]])
    self._thread.shutdown(wait=False)

  def mark(self, step: int, progress: Progress) -> None:
    """Notes beside a saved state what its evaluation gave; where progress says that it is the best, it is rated.

    Raises:
      CheckpointError: it could not be written; the checkpoint is what it was.
    """
    self.wait()
    text = progress.as_json()
    record = {'progress': text, 'crc32': zlib.crc32(text.encode())}

    def write() -> None:
      files.write_json(self._folder(step) / _EVALUATED, record)
      self._prune()

    with self._explaining(step):
      multihost.on_main(write)

  def restore(self, step: int, like: Any) -> tuple[Any, Progress]:
    """Loads a state with the shapes, types and shardings of the tree `like`, and the progress.

    Raises:
      UserError: the checkpoint does not fit the model; the message names the folder.
    """
    self.wait()
    folder = self._plain_directory / str(step) / _STATE
    check_shapes(ocp.metadata(folder).metadata['params'], like.params, f'the checkpoint {self._folder(step)}')
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    return ocp.load(folder, abstract), self.progress(step)

  def restore_params(self, step: int, averaged: bool = False) -> Any:
    """Loads the parameters alone, or their mean, onto the first local device, whatever devices wrote them."""
    folder = self._plain_directory / str(step) / _STATE
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)  # noqa: E731
    state = ocp.load(folder, jax.tree.map(like, ocp.metadata(folder).metadata))
    if not averaged:
      return state['params']
    mean = state['opt_state'][-1]  # As `optimizer.AverageState` is saved.
    return jax.tree.map(lambda x: x / mean['weight'], mean['total'])

  def progress(self, step: int) -> Progress:
    """Reads the progress that a checkpoint holds: that behind the evaluation of its epoch where that was marked."""
    try:
      record = json.loads((self._folder(step) / _EVALUATED).read_text(encoding='utf-8'))
      if zlib.crc32(record['progress'].encode()) == record['crc32']:
        return Progress(**json.loads(record['progress']))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
      pass  # It was not evaluated yet; or that is damaged, and the evaluation is made again.
    return Progress(**json.loads((self._folder(step) / _PROGRESS).read_text(encoding='utf-8')))

  def _folder(self, step: int, suffix: str = '') -> files.Path:
    return self._directory / f'{step}{suffix}'

  def _link(self) -> pathlib.Path:
    """Returns a name for the folder that Orbax can write below: a link, which is removed with this object."""
    home = pathlib.Path(tempfile.mkdtemp(prefix='dlkd_'))
    weakref.finalize(self, shutil.rmtree, home, ignore_errors=True)
    if files.is_remote(self._directory) or not _PLAIN.fullmatch(str(home)):
      raise UserError(
        f'{self._directory} has characters in its name that checkpoints cannot be written below, and so has the folder '
        'of temporary files; choose another --workdir, or set TMPDIR to a folder with a plain name'
      )
    (home / 'checkpoints').symlink_to(self._directory)
    return home / 'checkpoints'

  def _steps(self) -> list[int]:
    """Steps of all checkpoints, whole or damaged."""
    names = {path.name for path in files.listing(self._directory)}
    return sorted(int(name) for name in names if name.isdigit() and name + _PARTIAL not in names)

  def _ratings(self) -> dict[int, int]:
    """Returns of the checkpoints that were the best {step: that of the last record that says so}."""
    ratings, steps = {}, self._steps()
    for step in steps:
      # One that is damaged will be found so when it is used.
      with contextlib.suppress(OSError, ValueError, TypeError):
        progress = self.progress(step)
        if progress.best_sum_r >= 0 and progress.best_step in steps:
          ratings[progress.best_step] = step
    return ratings

  def _first_whole(self, candidates: Callable[[], list[int]], required: bool = False) -> int | None:
    """Returns the first of the candidates that is whole, as process 0 finds it, and puts those before it aside."""

    def find() -> int:
      damaged, whole = [], -1
      for step in candidates():
        if step not in self._problems:
          self._problems[step] = files.problem(self._folder(step))
          damaged += [step] if self._problems[step] else []
        if self._problems[step] is None:
          whole = step
          break
      if required and whole < 0 and damaged:
        found = '; '.join(f'{step}: {self._problems[step]}' for step in damaged)
        remedy = 'Restore the folder from a copy, or remove it to start anew.'
        raise CheckpointError(f'no checkpoint in {self._directory} is whole: {found}. {remedy}')
      for step in damaged:
        self._put_aside(step)
      return whole

    self.wait()
    step = multihost.on_main(find)
    return None if step < 0 else step

  def _put_aside(self, step: int) -> None:
    text = f'the checkpoint of step {step} in {self._directory} is damaged ({self._problems[step]}) and is not used'
    if not self._read_only:
      files.remove(aside := self._folder(step, _DAMAGED))
      self._folder(step).rename(aside)
      text += f'; it lies aside as {aside.name}'
    print(f'warning: {text}', file=sys.stderr, flush=True)

  def _tidy(self) -> None:
    self._directory.mkdir(parents=True, exist_ok=True)
    for path in files.listing(self._directory):
      if path.suffix == _PARTIAL:
        if path.is_file():  # Former versions wrote to a folder of that name.
          files.remove(path.with_suffix(''))
        files.remove(path)

  def _begin(self, step: int) -> None:
    files.write_text(self._folder(step, _PARTIAL), '')
    files.remove(self._folder(step))

  def _finish(self, step: int, response: Any, record: str) -> None:
    """Makes a checkpoint of what Orbax writes, in the thread."""
    response.result()
    if not multihost.is_main():
      return
    folder = self._folder(step)
    files.write_text(folder / _PROGRESS, record)
    written = [path.parent.name for path in files.below(folder) if path.name == _MERGED]
    if all(name.startswith('ocdbt.process') for name in written):
      raise OSError(errno.EIO, 'the arrays that were written cannot be read back', str(folder))
    files.seal(folder)
    files.remove(self._folder(step, _PARTIAL))
    files.sync(self._directory)
    self._prune()

  def _prune(self) -> None:
    """Removes all but the newest, the best, and what the training began with where that was saved."""
    steps, ratings = self._steps(), self._ratings()
    for step in set(steps) - {0, *steps[-_KEPT_NEWEST:], *sorted(ratings, key=ratings.get)[-1:]}:
      self._begin(step)
      files.remove(self._folder(step, _PARTIAL))

  @contextlib.contextmanager
  def _explaining(self, step: int) -> Iterator[None]:
    """Makes a `CheckpointError` of what the system or Orbax says of a save, and makes room."""
    try:
      yield
    except multihost.OtherProcessError:
      raise
    except Exception as error:  # Orbax has no type of its own for a full disk.
      # Its mark stays: threads of Orbax may still be writing, and what they leave goes at the next start.
      if multihost.is_main() and self._folder(step, _PARTIAL).exists():
        with contextlib.suppress(OSError):
          files.remove(self._folder(step))
      newest = max(self._steps(), default=None)
      there = 'none was saved before' if newest is None else f'the newest whole one is of step {newest}'
      raise CheckpointError(
        f'the checkpoint of step {step} could not be written to {self._directory} ({there}): {_brief(error)}\n'
        'Make room or give access, then run the same command: it goes on from the newest whole checkpoint.'
      ) from error


def read_best(workdir: files.Path) -> tuple[Any, int]:
  """Reads the best parameters of a run, or its newest where none are rated yet, and their step.

  Leaves a training that still runs alone.

  Raises:
    FileNotFoundError: there is no checkpoint.
    CheckpointError: every checkpoint is damaged.
  """
  checkpoints = Checkpoints(workdir, read_only=True)
  step = checkpoints.best_whole()
  step = checkpoints.newest_whole() if step is None else step
  if step is None:
    raise FileNotFoundError(f'{workdir} holds no checkpoint; expected the --workdir of a training.')
  progress = checkpoints.progress(step)
  return checkpoints.restore_params(step, progress.best_averaged and progress.best_step == step), step


def _brief(error: BaseException) -> str:
  """The first line of an error, which Orbax follows by pages; the system's own words where they are the cause."""
  cause: BaseException | None = error
  while cause is not None and not isinstance(cause, OSError):
    cause = cause.__cause__ or cause.__context__
  return str(cause or error).strip().splitlines()[0][:300]
