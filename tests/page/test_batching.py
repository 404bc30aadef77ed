"""Queries that come together are searched together, and each gets its own answer."""

import asyncio
import threading
import time

import pytest

from dlkd_jax.page.batching import Batcher, Part
from dlkd_jax.page.guards import RefusalError

FIRST = Part(10, 0, 1)


class Search:
  """Answers a query with itself, slowly, and keeps account."""

  def __init__(self, seconds=0.05, bad=()):
    self.seconds, self.bad, self.calls, self.running = seconds, bad, [], 0

  def __call__(self, queries, part):
    self.running += 1
    assert self.running == 1, 'two searches at once'
    self.calls.append((list(queries), part))
    time.sleep(self.seconds)
    self.running -= 1
    for query in queries:
      if query in self.bad:
        raise ValueError(f'bad {query}')
    return [(query, part, threading.current_thread().name) for query in queries]


def run(scenario, search, **limits):
  async def main():
    batcher = Batcher(search, **limits)
    try:
      return await scenario(batcher)
    finally:
      await batcher.close()

  return asyncio.run(main())


def test_queries_wait_for_the_running_search_and_go_together():
  search = Search()

  async def scenario(batcher):
    first = asyncio.create_task(batcher('first', FIRST))
    await asyncio.sleep(0.02)
    others = [asyncio.create_task(batcher(f'q{n}', FIRST)) for n in range(9)]
    return await asyncio.gather(first, *others)

  answers = run(scenario, search)
  assert [query for query, *_ in answers] == ['first', *(f'q{n}' for n in range(9))]
  assert [len(queries) for queries, _ in search.calls] == [1, 9]


def test_a_batch_has_an_end_and_equal_queries_are_one():
  search = Search()

  async def scenario(batcher):
    return await asyncio.gather(*(batcher(f'q{n % 5}', FIRST) for n in range(20)))

  answers = run(scenario, search, batch=4)
  assert [query for query, *_ in answers] == [f'q{n % 5}' for n in range(20)]
  assert [len(queries) for queries, _ in search.calls] == [4, 1]


def test_other_windows_are_other_calls():
  search = Search()

  async def scenario(batcher):
    return await asyncio.gather(*(batcher(f'q{n}', Part(10, n % 2 * 10, 1)) for n in range(6)))

  answers = run(scenario, search)
  assert [part.offset for _, part, _ in answers] == [0, 10] * 3
  assert [(len(queries), part.offset) for queries, part in search.calls] == [(3, 0), (3, 10)]


def test_one_that_fails_fails_alone():
  search = Search(0.0, bad={'q2'})

  async def scenario(batcher):
    return await asyncio.gather(*(batcher(f'q{n}', FIRST) for n in range(4)), return_exceptions=True)

  answers = run(scenario, search)
  assert isinstance(answers[2], ValueError) and [a[0] for a in answers[:2] + answers[3:]] == ['q0', 'q1', 'q3']


def test_who_left_is_not_searched_for():
  search = Search()

  async def scenario(batcher):
    first = asyncio.create_task(batcher('first', FIRST))
    await asyncio.sleep(0.02)
    left = asyncio.create_task(batcher('left', FIRST))
    stays = asyncio.create_task(batcher('stays', FIRST))
    await asyncio.sleep(0)
    left.cancel()
    return await asyncio.gather(first, stays)

  run(scenario, search)
  assert [queries for queries, _ in search.calls] == [['first'], ['stays']]


def test_too_many_are_refused():
  async def scenario(batcher):
    return await asyncio.gather(*(batcher(f'q{n}', FIRST) for n in range(5)), return_exceptions=True)

  answers = run(scenario, Search(), waiting=3)
  assert [isinstance(answer, RefusalError) for answer in answers] == [False] * 3 + [True] * 2
  assert answers[3].status == 503


def test_closing_ends_who_waits():
  async def scenario(batcher):
    waiting = [asyncio.create_task(batcher(f'q{n}', FIRST)) for n in range(2)]
    await asyncio.sleep(0.01)
    late = asyncio.create_task(batcher('late', FIRST))
    await asyncio.sleep(0.01)
    await batcher.close()
    return await asyncio.wait_for(asyncio.gather(*waiting, late, return_exceptions=True), 5)

  answers = run(scenario, Search(0.2))
  assert [answer.code for answer in answers] == ['stopping'] * 3, answers
  with pytest.raises(RefusalError, match='stopping'):
    run(lambda batcher: _after(batcher), Search())


async def _after(batcher):
  await batcher.close()
  await batcher('late', FIRST)
