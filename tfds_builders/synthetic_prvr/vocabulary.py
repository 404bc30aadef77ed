"""The words of the synthetic world: each concept has two, and sentences are made of them."""

from __future__ import annotations

import numpy as np

SUBJECTS = (
  'man/guy woman/lady boy/lad girl/lass child/kid baby/infant chef/cook student/pupil '
  'dog/hound cat/kitten nurse/medic farmer/grower officer/guard dancer/performer robot/android '
  'monkey/ape'
)
ACTIONS = (
  'opens/unlocks closes/shuts lifts/raises drops/releases throws/tosses catches/grabs '
  'washes/cleans paints/colours breaks/smashes fixes/repairs carries/hauls hides/conceals '
  'kicks/boots pushes/shoves pulls/drags turns/spins shakes/rattles folds/creases wraps/packs '
  'inspects/examines'
)
OBJECTS = (
  'cup/mug book/novel box/crate door/gate ball/sphere phone/mobile laptop/computer chair/seat '
  'pillow/cushion broom/brush towel/cloth bag/sack lamp/light picture/photo bottle/flask '
  'plate/dish jacket/coat shoe/slipper blanket/quilt guitar/banjo'
)
ATTRIBUTES = 'red/crimson blue/azure green/emerald small/tiny large/huge old/ancient wet/soaked shiny/glossy'
FILLERS = 'then now meanwhile suddenly finally quickly slowly calmly again twice'
ARTICLES = 'a the this some'

# Order of the factors in every latent vector of an event.
FACTORS = ('subject', 'action', 'object', 'attribute')
_LISTS = dict(zip(FACTORS, (SUBJECTS, ACTIONS, OBJECTS, ATTRIBUTES), strict=True))

# concepts[factor][concept] is the pair of words for it.
CONCEPTS: dict[str, list[tuple[str, ...]]] = {
  factor: [tuple(pair.split('/')) for pair in words.split()] for factor, words in _LISTS.items()
}
PLAIN_WORDS = (*FILLERS.split(), *ARTICLES.split(), 'that')


def num_concepts() -> tuple[int, ...]:
  """Returns how many concepts each factor has, in the order of FACTORS."""
  return tuple(len(CONCEPTS[factor]) for factor in FACTORS)


def sentence(event: np.ndarray, rng: np.random.Generator, attribute_rate: float, filler_rate: float) -> list[str]:
  """Returns the words of one description of an event.

  Args:
    event: concept numbers in the order of FACTORS.
    rng: picks synonyms, word order, articles and fillers.
    attribute_rate: how often the attribute is mentioned.
    filler_rate: how often a filler word is put in front, and at the end.
  """
  subject, action, thing, attribute = (
    str(rng.choice(CONCEPTS[factor][concept])) for factor, concept in zip(FACTORS, event, strict=True)
  )
  articles, fillers = ARTICLES.split(), FILLERS.split()
  who = [str(rng.choice(articles)), subject]
  what = [str(rng.choice(articles)), thing]
  if rng.random() < attribute_rate:
    what.insert(1, attribute)
  words = [*who, action, *what] if rng.random() < 0.7 else [*what, 'that', *who, action]
  if rng.random() < filler_rate:
    words.insert(0, str(rng.choice(fillers)))
  if rng.random() < filler_rate:
    words.append(str(rng.choice(fillers)))
  return words
