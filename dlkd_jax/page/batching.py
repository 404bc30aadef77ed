"""Queries that come while a search runs are searched together in the next one."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dlkd_jax.gallery.queries import Query
from dlkd_jax.page.guards import RefusalError


class Part(NamedTuple):
  """The part of a ranking that is asked for; queries with the same one can be searched together.

  `where` are filters that all have to hold.
  """

  top: int
  offset: int
  moments: int
  where: tuple[str, ...] = ()

  @property
  def options(self) -> dict[str, Any]:
    """What a search of the gallery is told of it."""
    options = self._asdict()
    return options if self.where else {name: value for name, value in options.items() if name != 'where'}


class _Waiting(NamedTuple):
  query: str | Query
  part: Part
  answer: asyncio.Future


class Batcher:
  """Runs one search at a time in a thread, with all queries that have come by then.

  A lone query waits for nothing. One that fails together with others is searched again alone, so that it fails alone.
  """

  def __init__(
    self, search: Callable[[Sequence[str | Query], Part], Sequence[Any]], batch: int = 32, waiting: int = 256
  ):
    """`search` answers several queries; `batch` of them at most. More than `waiting` are refused."""
    self._search, self._batch, self._most = search, batch, waiting
    self._queue: collections.deque[_Waiting] = collections.deque()
    self._worker: asyncio.Task[None] | None = None
    self._taken: list[_Waiting] = []
    self._closed = False
    self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='search')

  async def __call__(self, query: str | Query, part: Part) -> Any:
    """Returns what the search answers to the query.

    Raises:
      RefusalError: too many are waiting.
      Exception: whatever the search raises.
    """
    if self._closed:
      raise _stopping()
    if len(self._queue) >= self._most:
      raise RefusalError(503, 'busy', 'Too many searches are waiting. Try again in a moment.', 2.0)
    answer = asyncio.get_running_loop().create_future()
    self._queue.append(_Waiting(query, part, answer))
    if self._worker is None or self._worker.done():
      self._worker = asyncio.create_task(self._work())
    return await answer

  async def close(self) -> None:
    """Refuses whoever waits; the search at hand, if there is one, is left to its end, which nobody hears of."""
    self._closed = True
    if self._worker is not None:
      self._worker.cancel()
      await asyncio.gather(self._worker, return_exceptions=True)
    for waiting in (*self._taken, *self._queue):
      if not waiting.answer.done():
        waiting.answer.set_exception(_stopping())
    self._queue.clear()
    self._thread.shutdown(wait=False, cancel_futures=True)

  async def _work(self) -> None:
    while self._queue:
      await asyncio.sleep(0)  # Requests that are already here join.
      self._taken = self._take()
      queries = list(dict.fromkeys(one.query for one in self._taken))
      if queries:
        _hand_out(self._taken, await self._answers(queries, self._taken[0].part))
      self._taken = []

  def _take(self) -> list[_Waiting]:
    """Takes from the queue what goes with the first one that is still waited for."""
    taken: list[_Waiting] = []
    kept: list[_Waiting] = []
    queries: set[str | Query] = set()
    while self._queue:
      one = self._queue.popleft()
      if one.answer.done():  # Nobody waits any more.
        continue
      fits = not taken or one.part == taken[0].part
      if fits and (one.query in queries or len(queries) < self._batch):
        taken.append(one)
        queries.add(one.query)
      else:
        kept.append(one)
    self._queue.extend(kept)
    return taken

  async def _answers(self, queries: list[str | Query], part: Part) -> dict[str | Query, Any]:
    loop = asyncio.get_running_loop()
    try:
      return dict(zip(queries, await loop.run_in_executor(self._thread, self._search, queries, part), strict=True))
    except Exception as error:
      if len(queries) == 1:
        return {queries[0]: error}
    answers: dict[str | Query, Any] = {}
    for query in queries:
      answers |= await self._answers([query], part)
    return answers


def _hand_out(together: list[_Waiting], answers: dict[str | Query, Any]) -> None:
  for one in together:
    answer = answers[one.query]
    if one.answer.done():
      continue
    if isinstance(answer, Exception):
      one.answer.set_exception(answer)
    else:
      one.answer.set_result(answer)


def _stopping() -> RefusalError:
  return RefusalError(503, 'stopping', 'The server is stopping.')
