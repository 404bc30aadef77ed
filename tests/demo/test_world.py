"""The rendered world: the same seed, the same films; sentences are true; splits and pretraining share no scene."""

import numpy as np
import pytest

from dlkd_jax.demo import words, world

FILMS = [world.film(0, split, number) for split in world.SPLITS for number in range(20)]


def test_words_belong_to_one_concept():
  phrases = [phrase for concepts in words.FACTORS.values() for concept in concepts for phrase in concept]
  assert len(phrases) == len(set(phrases))
  assert not set(words.PLAIN) & set(phrases)


def test_the_same_seed_gives_the_same_films_in_any_order():
  again = [world.film(0, film.split, int(film.name[-4:])) for film in reversed(FILMS)]
  assert again[::-1] == FILMS
  assert world.film(1, 'train', 0) != FILMS[0]


def test_captions_are_true_of_their_moment():
  told = set()
  for film in FILMS:
    for caption in film.captions:
      said = words.mentioned(caption.text)
      concepts = film.segments[caption.segment].concepts()
      assert said and said.items() <= concepts.items(), (caption.text, concepts)
      told |= said.keys()
  assert told == set(words.FACTORS)


def test_every_word_is_in_the_vocabulary():
  texts = [caption.text for film in FILMS for caption in film.captions]
  texts += [world.scene(0, number)[3] for number in range(200)]
  assert {word for text in texts for word in text.split()} <= set(words.vocabulary())


def test_films_are_untrimmed_and_moments_have_paraphrases():
  for film in FILMS:
    described = {caption.segment for caption in film.captions}
    assert 2 <= len(described) <= 3 and len(film.captions) == 3 * len(described)
    assert len(described) < len(film.segments) <= len(described) + 2
    assert [segment.start for segment in film.segments] == [0, *(segment.end for segment in film.segments[:-1])]
    assert film.seconds == film.segments[-1].end
  assert any(len(segment.things) == 2 for film in FILMS for segment in film.segments)


def test_splits_are_disjoint():
  everything = [film.segments for film in FILMS]
  assert len(set(everything)) == len(FILMS)
  assert len({film.name for film in FILMS}) == len(FILMS)


def test_pretraining_shows_other_scenes_than_films():
  scenes = [world.scene(0, number)[0] for number in range(600)]
  own = {(thing.shape, thing.colour) for scene in scenes for thing in scene.things}
  theirs = {(thing.shape, thing.colour) for film in FILMS for segment in film.segments for thing in segment.things}
  every = {(shape, colour) for shape in range(len(words.SHAPES)) for colour in range(len(words.COLOURS))}
  held_out = {pair for pair in every if world.held_out(*pair)}
  assert len(held_out) == len(every) // 4
  assert own == every - held_out and theirs & held_out
  backgrounds = {scene.background for scene in scenes}
  assert backgrounds - {segment.background for film in FILMS for segment in film.segments}
  assert not backgrounds >= {segment.background for film in FILMS for segment in film.segments}


@pytest.mark.parametrize('number', range(40))
def test_second_things_differ_in_shape_and_colour(number):
  for segment in world.film(3, 'test', number).segments:
    if len(segment.things) == 2:
      first, second = segment.things
      assert first.shape != second.shape and first.colour != second.colour
      assert np.hypot(first.x - second.x, first.y - second.y) > 0.2


def test_neighbours_in_pretraining_differ_in_shape_alone():
  for start in range(0, 200, world.ALIKE):
    scenes = [world.scene(0, number)[0] for number in range(start, start + world.ALIKE)]
    shared = {(s.background, s.variant, s.things[0].colour, s.things[0].size) for s in scenes}
    assert len(shared) == 1 and len({s.things[0].shape for s in scenes}) == world.ALIKE
