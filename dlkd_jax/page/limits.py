"""How often a client may ask."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable

from dlkd_jax.page.refusal import RefusalError


class RateLimit:
  """A bucket of tokens a client: `burst` at once, and `rate` a second in the long run.

  It remembers `clients` of them; one that was forgotten because others came starts with a full bucket.
  """

  def __init__(self, rate: float, burst: int, clients: int = 4096, clock: Callable[[], float] = time.monotonic):
    """`clock` returns seconds."""
    self._rate, self._burst, self._clients, self._clock = rate, burst, clients, clock
    self._buckets: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

  def wait(self, client: str) -> float:
    """Takes a token and returns 0, or returns the seconds until there is one."""
    now = self._clock()
    tokens, since = self._buckets.pop(client, (float(self._burst), now))
    tokens = min(float(self._burst), tokens + (now - since) * self._rate)
    enough = tokens >= 1
    self._buckets[client] = (tokens - 1 if enough else tokens, now)
    if len(self._buckets) > self._clients:
      self._buckets.popitem(last=False)
    return 0.0 if enough else (1 - tokens) / self._rate

  def check(self, client: str) -> None:
    """Takes a token.

    Raises:
      RefusalError: there is none; it says how long to wait.
    """
    if wait := self.wait(client):
      raise RefusalError(429, 'too_often', f'Too many requests at once. Try again in {max(1, round(wait))} s.', wait)
