"""What happens in the rendered world: scenes, films of several moments, and sentences about single moments.

A film is a row of segments. In each, things of a shape, a colour and a size move before a background. Some segments are
moments: sentences describe their first thing. The others are there to distract, and so is the second thing that most
segments show. Nothing here draws; the same seed gives the same films, in whatever order they are asked for.

Films and pretraining show other scenes: a quarter of the pairs of shape and colour are held out from pretraining, and
each has backgrounds that the other lacks.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dlkd_jax.demo import words

SPLITS = ('train', 'val', 'test')
VARIANTS = 40  # Of each background.
ALIKE = 4  # Scenes of pretraining in a row that only the shape tells apart.
_PRETRAINING = 3  # Behind the splits, in the seeds.


@dataclasses.dataclass(frozen=True)
class Thing:
  """A thing and how it moves: concept numbers of `words`, and what no sentence speaks of.

  Attributes:
    x, y: where the middle of its way is, in sides of the picture.
    phase: where in its rhythm it starts, 0 to 1.
    shade: by how much its colour is off, -1 to 1 for red, green and blue.
  """

  shape: int
  colour: int
  size: int
  motion: int
  x: float
  y: float
  phase: float
  shade: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Segment:
  """From `start` to `end`, seconds, `things` move before a background; the first is what sentences speak of."""

  start: float
  end: float
  background: int
  variant: int
  things: tuple[Thing, ...]

  def concepts(self) -> dict[str, int]:
    """Returns factor → concept of its first thing and its background."""
    thing = self.things[0]
    return {
      'shape': thing.shape,
      'colour': thing.colour,
      'size': thing.size,
      'motion': thing.motion,
      'background': self.background,
    }


@dataclasses.dataclass(frozen=True)
class Caption:
  """A sentence about segment number `segment` of a film."""

  text: str
  segment: int


@dataclasses.dataclass(frozen=True)
class Film:
  """A film: `light` is the factor of its brightness."""

  name: str
  split: str
  seconds: float
  light: float
  segments: tuple[Segment, ...]
  captions: tuple[Caption, ...]


def film(seed: int, split: str, number: int, moments: tuple[int, int] = (2, 3), paraphrases: int = 3) -> Film:
  """Returns one film.

  Args:
    seed: of the world.
    split: train, val or test.
    number: of the film within its split.
    moments: fewest and most segments that sentences describe; one or two more are not described.
    paraphrases: sentences for each of them.
  """
  rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), number]))
  described = int(rng.integers(moments[0], moments[1] + 1))
  count = described + int(rng.integers(1, 3))
  chosen = np.sort(rng.permutation(count)[:described])
  segments, start = [], 0.0
  for _ in range(count):
    before = segments[-1] if segments else None
    segments.append(_segment(rng, start, before))
    start = segments[-1].end
  captions = [
    Caption(sentence(segments[place].concepts(), rng), int(place)) for place in chosen for _ in range(paraphrases)
  ]
  light = float(rng.uniform(0.8, 1.15))
  return Film(f'{split}_{number:04d}', split, start, light, tuple(segments), tuple(captions))


def scene(seed: int, number: int) -> tuple[Segment, float, float, str]:
  """Returns a scene for pretraining: a segment, the time of the picture, its light, and a sentence about it.

  Scenes come in rows of `ALIKE` that share background, colour and size, so that only the shape tells them apart: a
  model learns colours and backgrounds first and would leave shapes for long, where nothing else depends on them.
  """
  alike = np.random.default_rng(np.random.SeedSequence([seed, _PRETRAINING, 0, number // ALIKE]))
  rng = np.random.default_rng(np.random.SeedSequence([seed, _PRETRAINING, 1, number]))
  seen = [*range(words.SHARED), *range(words.BACKGROUNDS_OF_FILMS, len(words.BACKGROUNDS) - 1)]
  background = len(words.BACKGROUNDS) - 1 if alike.random() < 0.3 else int(alike.choice(seen))
  variant, colour, size = int(alike.integers(VARIANTS)), int(alike.integers(8)), int(alike.integers(2))
  shapes = alike.permutation([shape for shape in range(len(words.SHAPES)) if not held_out(shape, colour)])
  things = _things(rng, pretraining=True, alone=0.9)
  first = dataclasses.replace(things[0], colour=colour, size=size, shape=int(shapes[number % ALIKE % len(shapes)]))
  if len(things) > 1 and (things[1].colour == colour or things[1].shape == first.shape):
    things = things[:1]
  segment = Segment(0.0, 4.0, background, variant, (first, *things[1:]))
  return segment, float(rng.uniform(0, 4)), float(rng.uniform(0.8, 1.15)), sentence(segment.concepts(), rng)


def held_out(shape: int, colour: int) -> bool:
  """Whether pretraining never shows a pair of shape and colour; films show all pairs."""
  return (shape + colour) % 4 == 0


def sentence(concepts: dict[str, int], rng: np.random.Generator, place_rate: float = 0.85) -> str:
  """Returns a sentence about a moment, in varied words and order.

  Args:
    concepts: factor → concept. The shape is always mentioned, colour and motion mostly, the size half the time.
    rng: chooses words and order.
    place_rate: share of sentences that mention the background. It is low in pretraining: a background is so much
      easier to see than things that a model which is told of it learns nothing else for long.
  """
  said = {factor: str(rng.choice(words.FACTORS[factor][concept])) for factor, concept in concepts.items()}
  size = f'{said["size"]} ' if rng.random() < 0.7 else ''
  colour = f'{said["colour"]} ' if rng.random() < 0.95 else ''
  thing = f'{size}{colour}{said["shape"]}'
  article = str(rng.choice(('an' if thing[0] in 'aeiou' else 'a', 'the', 'one', 'some')))
  what = f'{article} {thing}'
  place = f'{rng.choice(("over", "on", "with"))} the {said["background"]}'
  has_place, has_motion = rng.random() < place_rate, rng.random() < 0.85
  if not has_motion:
    what = f'{rng.choice(("there is", "we see"))} {what}'
    return f'{what} {place}' if has_place else what
  form = rng.random()
  if form < 0.5:
    text = f'{what} {said["motion"]}'
  elif form < 0.75:
    text = f'we see {what} that {said["motion"]}'
  else:
    text = f'it is {what} and it {said["motion"]}'
  if not has_place:
    return text
  return f'{text} {place}' if rng.random() < 0.6 else f'{place} {text}'


def _segment(rng: np.random.Generator, start: float, before: Segment | None) -> Segment:
  """Draws the segment behind another one, which may stay before its background."""
  if before is not None and rng.random() < 0.3:
    background, variant = before.background, before.variant
  else:
    background, variant = int(rng.integers(words.BACKGROUNDS_OF_FILMS)), int(rng.integers(VARIANTS))
  length = float(rng.integers(6, 11)) / 2  # Seconds.
  return Segment(start, start + length, background, variant, _things(rng))


def _things(rng: np.random.Generator, pretraining: bool = False, alone: float = 0.5) -> tuple[Thing, ...]:
  """Draws one thing, or two of other shapes and colours that do not cover each other halfway."""
  first = _thing(rng, pretraining)
  if rng.random() < alone:
    return (first,)
  while True:
    first, second = _thing(rng, pretraining), _thing(rng, pretraining)
    if second.shape == first.shape or second.colour == first.colour:
      continue
    if abs(first.x - second.x) > 0.27 or abs(first.y - second.y) > 0.27:
      return (first, second)


def _thing(rng: np.random.Generator, pretraining: bool) -> Thing:
  """Draws a thing; of a pair that is not held out, for pretraining."""
  while True:
    shape, colour = int(rng.integers(len(words.SHAPES))), int(rng.integers(len(words.COLOURS)))
    if not pretraining or not held_out(shape, colour):
      break
  size, motion = int(rng.integers(len(words.SIZES))), int(rng.integers(len(words.MOTIONS)))
  x, y = (float(place) for place in rng.uniform(0.25, 0.75, 2))
  shade = tuple(float(value) for value in rng.uniform(-1, 1, 3))
  return Thing(shape, colour, size, motion, x, y, float(rng.random()), shade)
