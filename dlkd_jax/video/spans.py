"""What a backbone sees of a film around each sample time: one picture, or several at a rate of their own."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.video.frames import rounding, samples_before


class Span(NamedTuple):
  """The pictures that a backbone needs around a time: `pictures` of them, `rate` a second.

  The one in the middle (of an even number the first of the second half) is that of the time itself, so that its
  features belong to the same moment as those of a single picture.
  """

  pictures: int = 1
  rate: float = 25.0

  def offsets(self) -> tuple[Fraction, ...]:
    """Returns seconds from the time to each of the pictures, in order.

    Raises:
      UserError: there are no pictures, or their rate is not above 0.
    """
    if self.pictures < 1 or not (math.isfinite(self.rate) and self.rate >= 1e-6):
      raise UserError(f'a span of {self.pictures} pictures, {self.rate} a second; expected numbers above 0')
    period = 1 / Fraction(self.rate).limit_denominator(10**6)
    return tuple((n - self.pictures // 2) * period for n in range(self.pictures))


SINGLE = Span()


def span_of(backbone: Any) -> Span:
  """Returns the pictures that a backbone of frames needs around a time; one, where it does not say."""
  return getattr(backbone, 'span', SINGLE)


class View(NamedTuple):
  """What one backbone sees: its span, and what each picture, uint8 [H, W, 3], is turned into for it."""

  span: Span
  prepare: Callable[[np.ndarray], Any]


class Shown(NamedTuple):
  """A prepared picture, and when its frame began to be shown, seconds on a player's clock."""

  since: Fraction
  picture: Any


class Window:
  """The pictures of a view that are still needed while a film is read; frames that it does not need are not prepared.

  What it holds is bounded by the span: it is told of frames as they come, and asked for times in their order.
  """

  def __init__(self, view: View, period: Fraction):
    """Takes a view, and the seconds from one sample time to the next."""
    self.offsets = view.span.offsets()
    self._prepare, self._period = view.prepare, period
    self._begins: list[Fraction] = []
    self._shown: list[Shown] = []

  def offer(
    self, start: Fraction, since: Fraction, until: Fraction, tick: Fraction, picture: Callable[[], np.ndarray]
  ) -> None:
    """Takes the frame that is shown between two times if any picture of any sample time is to be taken then.

    Args:
      start: when the stream begins, from where sample times are counted; seconds, as the times.
      since, until: the frame's.
      tick: of the stream's clock, as of `samples_before`.
      picture: gives the frame's picture.
    """
    ends = (since - start, until - start)
    if any(len({samples_before(end - offset, self._period, tick) for end in ends}) > 1 for offset in self.offsets):
      self.take(start, since, tick, picture())

  def take(self, start: Fraction, since: Fraction, tick: Fraction, picture: np.ndarray) -> None:
    """Takes a frame in any case."""
    self._begins.append(since - start - rounding(tick))
    self._shown.append(Shown(since, self._prepare(picture)))

  def around(self, time: Fraction) -> list[Shown]:
    """Returns the pictures around a sample time; before the first frame and after the last that one is held.

    What lies before them is let go of.
    """
    places = [max(0, bisect.bisect_right(self._begins, time + offset) - 1) for offset in self.offsets]
    found = [self._shown[place] for place in places]
    del self._begins[: places[0]], self._shown[: places[0]]
    return found


def all_offsets(views: Sequence[View]) -> tuple[Fraction, ...]:
  """Returns when pictures are taken for any of the views, seconds from a sample time, in order; 0 is among them."""
  return tuple(sorted({Fraction(0), *(offset for view in views for offset in view.span.offsets())}))
