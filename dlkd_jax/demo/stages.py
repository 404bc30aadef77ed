"""Stages that are done once: each leaves a note of how it was made behind it, and is not made again."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

from dlkd_jax import begun, files
from dlkd_jax.demo.settings import DemoSettings


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage: `make` writes what it makes into the work directory, and goes on where it was stopped.

  Attributes:
    name: one word.
    about: what it does, for the console.
    make: makes it.
    seeds: of students, where it depends on how many there are; it is done again where that was asked for with others.
  """

  name: str
  about: str
  make: Callable[[], None]
  seeds: int | None = None


def claim(workdir: pathlib.Path, settings: DemoSettings) -> None:
  """Notes the settings in a work directory, or compares them with those that are there.

  Raises:
    UserError: the work directory was begun with other settings; the message lists the differences.
    OSError: it cannot be written.
  """
  # More seeds can be added to a demonstration.
  begun.note(workdir / 'settings.json', dataclasses.asdict(settings), grows='students')


def run(stages: list[Stage], workdir: pathlib.Path, say: Callable[[str], None]) -> dict[str, float]:
  """Runs the stages that are not done, in their order.

  Args:
    stages: in their order.
    workdir: where they write, and where `done/<name>.json` is noted of each.
    say: prints a line.

  Returns:
    Name → seconds of each, as noted when it was made; a stage that was stopped counts from its last start.
  """
  seconds: dict[str, float] = {}
  for number, stage in enumerate(stages, 1):
    note = workdir / 'done' / f'{stage.name}.json'
    heading = f'\n[{number}/{len(stages)}] {stage.about}'
    known = _read(note, stage.seeds)
    if known is not None:
      seconds[stage.name] = known
      say(f'{heading}: there already')
      continue
    say(heading)
    start = time.monotonic()
    stage.make()
    seconds[stage.name] = round(time.monotonic() - start, 1)
    files.write_json(note, {'seconds': seconds[stage.name], 'seeds': stage.seeds})
    say(f'{stage.name}: {seconds[stage.name]:.0f} s')
  return seconds


def _read(note: pathlib.Path, seeds: int | None) -> float | None:
  try:
    content: Any = json.loads(note.read_text(encoding='utf-8'))
    return float(content['seconds']) if content.get('seeds') == seeds else None
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return None
