"""The account of the demonstration: its stages in their order."""

from __future__ import annotations

import functools
import pathlib

from dlkd_jax.demo import films, pretraining, stages
from dlkd_jax.demo.settings import Settings


def all_stages(settings: Settings, workdir: pathlib.Path) -> list[stages.Stage]:
  """Returns the stages, each of which reads what those before it wrote below `workdir`."""
  count = sum(settings.films)
  render = functools.partial(films.render_corpus, settings, workdir / 'corpus')
  pretrain = functools.partial(pretraining.pretrain, settings, workdir / 'clip')
  return [
    stages.Stage('films', f'rendering {count} untrimmed films', render),
    stages.Stage('clip', 'pretraining a small CLIP on single moments of other scenes', pretrain),
  ]


def demonstrate(settings: Settings, workdir: pathlib.Path, until: str | None = None) -> dict[str, float]:
  """Runs the stages that are not done.

  Args:
    settings: sizes.
    workdir: where everything goes.
    until: name of the last stage to run; None: all.

  Returns:
    Name → seconds of each stage.

  Raises:
    ValueError: there is no such stage, or the work directory was begun with other settings.
    OSError: something cannot be written.
  """
  planned = all_stages(settings, workdir)
  names = [stage.name for stage in planned]
  if until is not None and until not in names:
    raise ValueError(f'there is no stage {until!r}; expected one of {", ".join(names)}')
  stages.claim(workdir, settings)
  last = len(names) if until is None else names.index(until) + 1
  return stages.run(planned[:last], workdir, functools.partial(print, flush=True))
