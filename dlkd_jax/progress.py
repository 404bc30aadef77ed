"""How far a long piece of work is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys

import tqdm

from dlkd_jax.files import printable


class Progress(tqdm.tqdm):
  """A bar of tqdm on stderr that says what it is at, and counts parts of a step as well."""

  monitor_interval = 0  # No thread of its own, which a process that forks would lose.

  def __init__(self, total: int, what: str, every: float = 30.0, disable: bool = False):
    """Starts the clock.

    Args:
      total: how many steps there are.
      what: what one step is, in the plural.
      every: seconds between two lines where stderr is not a terminal.
      disable: whether nothing is shown.
    """
    self._made = 0
    seconds = 0.1 if sys.stderr.isatty() else every
    super().__init__(
      total=total,
      unit=f' {what}',
      miniters=0,
      mininterval=seconds,
      delay=seconds,  # What ends before shows nothing, an error least of all.
      dynamic_ncols=True,
      disable=disable,
      bar_format='{desc}{percentage:3.0f}%|{bar}| '
      '{n:,.0f}/{total:,}{unit}, {rate_fmt}, {elapsed} gone, {remaining} left',
    )

  def step(self, label: str, size: float = 1) -> None:
    """Counts one step of the part called `label`, or one as long as `size`, and shows it if it is time to."""
    self._made += size
    self.part(label, 0.0)

  def part(self, label: str, share: float, size: float = 1) -> None:
    """Shows, if it is time to, that a share of the step that is being made is done, from 0 to 1."""
    self.set_description_str(f'{printable(label):<6} ', refresh=False)
    self.update(self._made + size * min(max(share, 0.0), 1.0) - self.n)
