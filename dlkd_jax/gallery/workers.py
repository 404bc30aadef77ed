"""Films decoded and encoded by several machines: Ray hands them out, and to another worker where one dies.

A worker opens the same index and the same films, on a disk that all machines have under the same path, writes what it
makes of some films into a whole segment in the index's `staging`, and says so. The machine that runs the command holds
the lock, moves the segment to the others and commits it. A segment that nobody takes over, because its worker was
killed, is cleared away with what killed writers leave.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import os
import pathlib
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dlkd_jax import allocation
from dlkd_jax.errors import UserError
from dlkd_jax.gallery import adding
from dlkd_jax.gallery.catalog import Catalog
from dlkd_jax.gallery.collection import Knowledge
from dlkd_jax.gallery.encoding import StudentEncoder, open_student
from dlkd_jax.gallery.films import Films
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.segments import Entry
from dlkd_jax.progress import Progress
from dlkd_jax.video.outcomes import Outcome

# Films are handed out in parts, so many a worker, of so many at most: what is lost where one dies.
_PARTS, _MOST = 4, 32
# Times that Ray gives a part to another worker.
_RETRIES = 3
_REACHED_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Part:
  """What a worker made of some films.

  Attributes:
    staged: name of its segment in `staging`; None where no film could be read.
    about: what the manifest is to say of it.
    entries: its videos.
    films: what became of the films, to be taken over by `Films.merge`.
  """

  staged: str | None
  about: Mapping[str, Any] | None
  entries: Sequence[Entry]
  films: Films


class Workers:
  """A cluster of Ray."""

  def __init__(self, where: str):
    """Takes a number of workers on this machine, or the address of a cluster, as `ray.init` has it ('auto').

    Raises:
      UserError: it is neither, or Ray is not installed.
    """
    self._own = int(where) if where.isdecimal() else None
    if self._own == 0 or not where:
      raise UserError(f'--workers is {where!r}; expected a number from 1, or the address of a cluster of Ray, as auto')
    self._where = where
    try:
      os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')  # Nothing is sent anywhere.
      self._ray = importlib.import_module('ray')
    except ModuleNotFoundError as error:
      raise UserError("--workers needs Ray: pip install 'dlkd_jax[ray]'") from error

  @contextlib.contextmanager
  def _running(self) -> Iterator[Any]:
    """Starts or joins a cluster, unless this process has; it is left at the end."""
    if self._ray.is_initialized():
      yield self._ray
      return
    host, _, port = self._where.rpartition(':')
    if host and port.isdecimal() and '/' not in host:  # Ray tries for minutes, and then ends the process.
      try:
        socket.create_connection((host, int(port)), _REACHED_SECONDS).close()
      except (OSError, OverflowError) as error:
        raise UserError(f'--workers={self._where}: there is no cluster of Ray ({error})') from error
    mine = {'num_cpus': self._own, 'include_dashboard': False} if self._own else {'address': self._where}
    try:
      with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message=r'os\.fork\(\) was called')  # Another program is run at once.
        self._ray.init(log_to_driver=False, configure_logging=False, **mine)
    except (ConnectionError, ValueError) as error:
      raise UserError(f'--workers={self._where}: there is no cluster of Ray ({error})') from error
    try:
      yield self._ray
    finally:
      self._ray.shutdown()

  def run(self, folder: IndexFolder, films: Films, knowledge: Knowledge, wanted: Sequence[str]) -> Iterator[Part]:
    """Lets workers encode films, and yields what they made as it is done.

    Args:
      folder: the index, whose lock the caller holds.
      films: of it.
      knowledge: of its videos.
      wanted: ids of films.

    Raises:
      UserError: there is no cluster, or a worker cannot open a model.
    """
    if not wanted:
      return
    with self._running() as ray, Progress(len(wanted), 'films') as bar:
      resources = ray.cluster_resources()
      cards = {'num_gpus': 1} if resources.get('GPU') else {}
      task = ray.remote(num_cpus=1, max_retries=_RETRIES, **cards)(_encode_part)
      parts = _parts(wanted, int(max(resources.get('GPU', 0), resources.get('CPU', 1))))
      waiting = {self._ask(task, folder, films, knowledge, part): part for part in parts}
      while waiting:
        (done, *_), _ = ray.wait(list(waiting))
        part = waiting.pop(done)
        try:
          found = ray.get(done)
        except ray.exceptions.RayTaskError as error:
          if isinstance(error.cause, UserError):
            raise error.cause from None
          raise
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
          if len(part) > 1:  # One of them is to blame.
            waiting |= {self._ask(task, folder, films, knowledge, [video]): [video] for video in part}
            continue
          films.outcomes.add(Outcome(part[0], 'failed', f'the workers that read it died ({type(error).__name__})'))
          found = None
        for video in part:
          bar.step(video)
        if found is not None:
          yield found

  @staticmethod
  def _ask(task: Any, folder: IndexFolder, films: Films, knowledge: Knowledge, part: Sequence[str]) -> Any:
    return task.remote(os.path.abspath(folder.path), films.part(part), knowledge)


def _parts(videos: Sequence[str], workers: int) -> list[list[str]]:
  """Cuts films into parts, of neighbours."""
  size = min(_MOST, max(1, len(videos) // (_PARTS * workers)))
  return [list(videos[first : first + size]) for first in range(0, len(videos), size)]


def _encode_part(path: str, films: Films, knowledge: Knowledge) -> Part:
  """Encodes films into a segment; runs in a worker."""
  allocation.give_back_large_blocks()
  folder = IndexFolder.open(pathlib.Path(path))
  catalog, student = Catalog.open(folder), _student(path, str(folder.manifest['student']))
  films.reuse_models(_opened)
  writer, entries = folder.staged_segment(), []
  for stored in adding.encoded(folder, catalog, student, films, knowledge, films.find(films.digests()).values()):
    writer.add(*stored)
    entries.append(stored.entry)
  if not entries:
    writer.abandon()
    return Part(None, None, [], films.without_models())
  about = writer.finish()
  return Part(about['name'], about, entries, films.without_models())


# What a worker has opened, for the next part: films' encoding → its models.
_opened: dict[str, Any] = {}


@functools.lru_cache(1)
def _student(path: str, about: str) -> StudentEncoder | None:
  """Returns the student of an index; `about` tells it from one that was there before."""
  return open_student(IndexFolder.open(pathlib.Path(path)))
