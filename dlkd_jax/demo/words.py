"""The words of the rendered world: each concept has several, and a word belongs to one concept."""

from __future__ import annotations

SHAPES = (
  ('ball', 'disc', 'circle'),
  ('box', 'square'),
  ('triangle', 'pyramid'),
  ('star', 'asterisk'),
  ('ring', 'hoop'),
  ('cross', 'plus'),
  ('diamond', 'rhombus'),
  ('moon', 'crescent'),
)
COLOURS = (
  ('red', 'crimson'),
  ('orange', 'tangerine'),
  ('yellow', 'golden'),
  ('green', 'emerald'),
  ('cyan', 'turquoise'),
  ('blue', 'azure'),
  ('purple', 'violet'),
  ('white', 'pale'),
)
SIZES = (('small', 'tiny', 'little'), ('big', 'large', 'huge'))
MOTIONS = (
  ('moves left', 'slides leftwards'),
  ('moves right', 'slides rightwards'),
  ('rises', 'goes up', 'climbs'),
  ('falls', 'goes down', 'sinks'),
  ('grows', 'swells'),
  ('shrinks', 'dwindles'),
  ('blinks', 'flashes'),
  ('orbits', 'goes round'),
  ('swings', 'sways'),
  ('rests', 'stays still'),
)
# The first BACKGROUNDS_OF_FILMS are those of the films; pretraining sees SHARED of them, and all the others.
BACKGROUNDS = (
  ('grass', 'meadow'),
  ('sea', 'ocean'),
  ('desert', 'dunes'),
  ('snow', 'ice'),
  ('bricks', 'masonry'),
  ('night', 'darkness'),
  ('tiles', 'chessboard'),
  ('dusk', 'sunset'),
  ('curtain', 'drapes'),
  ('clouds', 'fog'),
  ('planks', 'wood'),
  ('gravel', 'pebbles'),
  ('paper', 'wall'),
)
BACKGROUNDS_OF_FILMS = 12
SHARED = 10

FACTORS = {'shape': SHAPES, 'colour': COLOURS, 'size': SIZES, 'motion': MOTIONS, 'background': BACKGROUNDS}
PLAIN = (
  'a',
  'an',
  'the',
  'some',
  'one',
  'there',
  'is',
  'that',
  'it',
  'on',
  'over',
  'with',
  'behind',
  'and',
  'we',
  'see',
  'now',
)


def vocabulary() -> tuple[str, ...]:
  """Returns every word of every sentence, sorted."""
  phrases = [phrase for concepts in FACTORS.values() for concept in concepts for phrase in concept]
  return tuple(sorted({word for phrase in phrases for word in phrase.split()} | set(PLAIN)))


def mentioned(text: str) -> dict[str, int]:
  """Returns what a sentence says: factor → number of the concept, for the factors that it mentions."""
  padded = f' {text.lower().replace(",", "").rstrip(".")} '
  return {
    factor: number
    for factor, concepts in FACTORS.items()
    for number, concept in enumerate(concepts)
    if any(f' {phrase} ' in padded for phrase in concept)
  }
