"""How large the demonstration is."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class DemoSettings:
  """Sizes of everything; the defaults fit two CPU cores; `dlkd_jax/demo/README.md` says how long it takes.

  Attributes:
    seed: of the world and of pretraining.
    films: of train, val and test.
    rate: pictures a second in the files.
    side: pixels of the films' pictures.
    clip_side: pixels of the pictures that the small CLIP sees.
    steps: of pretraining.
    batch: scenes a step.
    width: of the towers of the small CLIP, and of the space where they meet.
    learning_rate: highest of pretraining.
    save_every: steps of pretraining between two saved states.
    sampled: pictures a second that features are made of.
    epochs: of a student; 0: as many as the recipe says.
    students: trainings that share a row of the table, with seeds from 0.
    processes: that render.
  """

  seed: int = 0
  films: tuple[int, int, int] = (192, 40, 80)
  rate: int = 4
  side: int = 96
  clip_side: int = 48
  steps: int = 700
  batch: int = 64
  width: int = 128
  learning_rate: float = 1.5e-3
  save_every: int = 200
  sampled: float = 2.0
  epochs: int = 0
  students: int = 1
  processes: int = 2


SIZES = {
  'whole': DemoSettings(),
  'tiny': DemoSettings(
    films=(8, 4, 4), steps=4, batch=8, width=16, save_every=2, sampled=1.0, epochs=1, students=2, processes=1
  ),
}
