"""How often a client may ask, by a clock that the test turns."""

import pytest

from dlkd_jax.page.limits import RateLimit
from dlkd_jax.page.refusal import RefusalError


class Clock:
  now = 0.0

  def __call__(self):
    return self.now


def test_a_burst_and_then_the_rate():
  clock = Clock()
  limit = RateLimit(2.0, 3, clock=clock)
  assert [limit.wait('a') for _ in range(3)] == [0, 0, 0]
  assert limit.wait('a') == pytest.approx(0.5)
  assert limit.wait('b') == 0  # Another client.
  clock.now = 0.5
  assert limit.wait('a') == 0 and limit.wait('a') == pytest.approx(0.5)
  clock.now = 100.0
  assert [limit.wait('a') for _ in range(4)][:3] == [0, 0, 0] and limit.wait('a') > 0


def test_in_the_long_run():
  clock, allowed = Clock(), 0
  limit = RateLimit(5.0, 10, clock=clock)
  for step in range(10_000):
    clock.now = step / 100
    allowed += limit.wait('a') == 0
  assert abs(allowed - (10 + 5 * 100)) <= 1


def test_memory_is_bounded():
  limit = RateLimit(1.0, 1, clients=10, clock=Clock())
  for number in range(1000):
    limit.wait(str(number))
  assert len(limit._buckets) == 10


def test_refusal_says_how_long():
  limit = RateLimit(0.1, 1, clock=Clock())
  limit.check('a')
  with pytest.raises(RefusalError, match='10 s') as refused:
    limit.check('a')
  assert refused.value.status == 429 and refused.value.wait == pytest.approx(10)
