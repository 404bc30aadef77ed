"""Measures what each kind of query is worth, on the films of a demonstration.

  python -m dlkd_jax.tools.measure_queries --workdir=runs/demo

Shares and weights are compared on its validation films, of which an index is made in a temporary folder; the test films
are searched once, with what the program uses. What is asked for is drawn from the rendered world, which says of every
second what is to be seen:

  picture    a picture of the same thing before the same kind of background, drawn anew: find the film it is like
  like       a moment: of the best five of other films, how many show the same thing or background
  composed   a picture of a background without the thing, and a sentence about the thing: find the film with both
  negative   a thing, but not before a background: of the best five films, how many show the thing without it
  spoken     subtitles, of which a part is about the moment and a part about another film's: find the film by a sentence
  nothing    see `measure_nothing`
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlkd_jax import doors, files, tables
from dlkd_jax.demo import films as demo_films
from dlkd_jax.demo import render, words, world
from dlkd_jax.demo.settings import DemoSettings
from dlkd_jax.errors import UserError
from dlkd_jax.gallery import building, queries, ranking
from dlkd_jax.gallery.collection import Collection, Knowledge
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder, writing
from dlkd_jax.gallery.queries import Picture, Query
from dlkd_jax.gallery.results import SearchResult
from dlkd_jax.gallery.segments import Cue
from dlkd_jax.tools import measure_nothing
from dlkd_jax.tools.measure_nothing import TEACHER, World

_SIDE = 96
_BEST = 5


def found_at(results: Sequence[SearchResult], right: Sequence[str]) -> dict[str, float]:
  """Returns R@1 and R@10: how often, of 100, the right film is the first, and among the first ten."""
  ranks = [
    next((rank for rank, hit in enumerate(result.hits, 1) if hit.video_id == video), 10**9)
    for result, video in zip(results, right, strict=True)
  ]
  return {f'R@{k}': 100 * float(np.mean([rank <= k for rank in ranks])) for k in (1, 10)}


def of_thing(segment: world.Segment, rng: np.random.Generator, place: bool = False) -> str:
  """Returns a sentence about the thing of a segment; with `place`, where it is, too."""
  said = {factor: str(rng.choice(words.FACTORS[factor][number])) for factor, number in segment.concepts().items()}
  text = f'a {said["size"]} {said["colour"]} {said["shape"]}'
  return f'{text} over the {said["background"]}' if place else text


def drawn_anew(segment: world.Segment, rng: np.random.Generator, things: bool = True) -> np.ndarray:
  """Returns a picture with the thing and the background of a segment, elsewhere and otherwise; or the latter alone."""
  thing = dataclasses.replace(segment.things[0], x=float(rng.uniform(0.3, 0.7)), y=float(rng.uniform(0.3, 0.7)))
  thing = dataclasses.replace(thing, motion=len(words.MOTIONS) - 1, shade=tuple(rng.uniform(-1, 1, 3)))
  made = world.Segment(0.0, 4.0, segment.background, int(rng.integers(world.VARIANTS)), (thing,) if things else ())
  return render.picture(made, float(rng.uniform(0, 4)), _SIDE)


def measure_pictures(of: World) -> dict[str, Any]:
  """By a picture, against a sentence about the same."""
  rng = np.random.default_rng(0)
  chosen = of.moments()
  right = [name for name, _, _ in chosen]
  pictures = [Query(picture=Picture(drawn_anew(segment, rng))) for _, segment, _ in chosen]
  sentences = [of_thing(segment, rng, place=True) for _, segment, _ in chosen]
  return {
    'picture': found_at(of.gallery.search(pictures), right),
    'sentence about the same': found_at(of.gallery.search(sentences, weights=TEACHER), right),
  }


def measure_like(of: World) -> dict[str, Any]:
  """More like a moment: the share of the best five of other films that show the same; by chance, any order does."""
  chosen = of.moments()
  asked = [Query(like=(name, (segment.start + segment.end) / 2)) for name, segment, _ in chosen]
  found = {}
  for name, weights in (('weights of the index', None), ('teacher', TEACHER)):
    found[name] = _alike(of, chosen, of.gallery.search(asked, top=_BEST, weights=weights))
  rng = np.random.default_rng(0)
  everything = [segment for film in of.films.values() for segment in film.segments]
  drawn = [[everything[n] for n in rng.integers(len(everything), size=_BEST)] for _ in chosen]
  found['chance'] = _same([segment for _, segment, _ in chosen], drawn)
  return found


def _alike(of: World, chosen: Sequence[tuple[str, world.Segment, str]], results: Sequence[SearchResult]):
  return _same([segment for _, segment, _ in chosen], [[of.shown(hit) for hit in result.hits] for result in results])


def _same(wanted: Sequence[world.Segment], shown: Sequence[Sequence[world.Segment]]) -> dict[str, float]:
  """Returns by factor how many of 100 segments agree with the wanted one."""
  found = {}
  for factor in ('shape', 'colour', 'background'):
    equal = [
      each.concepts()[factor] == segment.concepts()[factor]
      for segment, several in zip(wanted, shown, strict=True)
      for each in several
    ]
    found[factor] = 100 * float(np.mean(equal))
  return found


def measure_composed(of: World) -> dict[str, Any]:
  """A background as a picture and a thing in words: each alone, and both."""
  rng = np.random.default_rng(1)
  chosen = of.moments()
  right = [name for name, _, _ in chosen]
  pictures = [Picture(drawn_anew(segment, rng, things=False)) for _, segment, _ in chosen]
  sentences = [of_thing(segment, rng) for _, segment, _ in chosen]
  both = [Query(text, picture=picture) for text, picture in zip(sentences, pictures, strict=True)]
  return {
    'sentence alone': found_at(of.gallery.search(sentences, weights=TEACHER), right),
    'picture alone': found_at(of.gallery.search([Query(picture=picture) for picture in pictures]), right),
    'both': found_at(of.gallery.search(both), right),
  }


def measure_negative(of: World) -> dict[str, Any]:
  """A thing, but not before a background, of colours and backgrounds that films have together and apart.

  Of the best five films: how many show the colour at their best moment before another background, and how many the
  background.
  """
  rng = np.random.default_rng(2)
  pairs = sorted({(s.things[0].colour, s.background) for film in of.films.values() for s in film.segments})
  asked, plain = [], []
  for colour, ground in pairs:
    said = str(rng.choice(words.COLOURS[colour])), str(rng.choice(words.BACKGROUNDS[ground]))
    text = f'a {said[0]} {rng.choice(words.SHAPES[int(rng.integers(len(words.SHAPES)))])}'
    plain.append(text)
    asked.append(Query(text, without=(f'over the {said[1]}',)))
  found = {}
  for weights in (None, TEACHER):
    for name, some in (('sentence alone', plain), ('without', asked)):
      results = of.gallery.search(some, top=_BEST, weights=weights)
      shown = [[of.shown(hit) for hit in result.hits] for result in results]
      right = [
        s.things[0].colour == c and s.background != g for (c, g), own in zip(pairs, shown, strict=True) for s in own
      ]
      wrong = [s.background == g for (_, g), own in zip(pairs, shown, strict=True) for s in own]
      label = f'{name}, {"teacher" if weights else "weights of the index"}'
      found[label] = {'right': 100 * float(np.mean(right)), 'unwanted': 100 * float(np.mean(wrong))}
  return found


def say(film: world.Film, others: Sequence[world.Film], about: float, rng: np.random.Generator) -> list[tuple]:
  """Returns cues of a film: of each moment that sentences describe one, about it or about another film's.

  Args:
    film: of which they are.
    others: films that cues may be about.
    about: share of the cues that are about the moment.
    rng: draws.
  """
  said = []
  for number in sorted({caption.segment for caption in film.captions}):
    segment, speaks_of = film.segments[number], film.segments[number]
    if rng.random() >= about:
      other = others[int(rng.integers(len(others)))]
      speaks_of = other.segments[int(rng.integers(len(other.segments)))]
    said.append((segment.start, segment.end, world.sentence(speaks_of.concepts(), rng)))
  return said


def with_cues(index: pathlib.Path, path: pathlib.Path, said: dict[str, list[tuple]]) -> None:
  """Writes an index anew, with what is said in its films."""
  shutil.copytree(index, path)
  with writing(path):
    folder = IndexFolder.open(path)
    writer = folder.new_segment()
    for segment in folder.segments():
      for number, entry in enumerate(segment.entries):
        own = [n for n, caption in enumerate(segment.captions) if caption.video_id == entry.video_id]
        vectors = {name: array[own] for name, array in segment.caption_vectors.items()}
        cues = [Cue(entry.video_id, *cue) for cue in said.get(entry.video_id, ())]
        times = segment.times[segment.slice_of(number)]
        writer.add(entry, times, segment.rows_of(number), [segment.captions[n] for n in own], vectors, cues)
    folder.commit([writer.finish()], replace=True)


def measure_spoken(of: World, folder: pathlib.Path, weights: Sequence[float]) -> dict[str, Any]:
  """Sentences that came with the films, where a part of what is said is about the moment; and the words of one cue."""
  found: dict[str, Any] = {}
  captions = [(name, caption.text) for name, film in of.films.items() for caption in film.captions]
  right, texts = [name for name, _ in captions], [text for _, text in captions]
  for about in (1.0, 0.5, 0.0):
    rng = np.random.default_rng(3)
    said = {name: say(film, list(of.films.values()), about, rng) for name, film in of.films.items()}
    path = folder / f'spoken {about}'
    with_cues(of.gallery.path, path, said)
    gallery = Gallery.open(path)
    spoken = [(name, cue[2]) for name, cues in said.items() for cue in cues[:1]]
    for weight in weights:
      one = found_at(gallery.search(texts, text_weight=weight), right)
      own = [name for name, _ in spoken]
      heard = found_at(gallery.search([text for _, text in spoken], text_weight=weight), own)
      found[f'{about:.0%} of what is said is about the moment, weight {weight:g}'] = {
        **one,
        **{f'words of a cue {name}': value for name, value in heard.items()},
      }
  return found


def choose(of: World, folder: pathlib.Path) -> dict[str, Any]:
  """Returns what is measured with several shares and weights, by which those of the program were chosen."""
  found: dict[str, Any] = {}
  for name, measure, values in (
    ('PICTURE_SHARE', lambda: measure_composed(of)['both'], (0.2, 0.3, 0.4, 0.5, 0.6)),
    ('WITHOUT', lambda: measure_negative(of), (0.1, 0.2, 0.35, 0.5, 1.0)),
  ):
    found[name] = _varied(queries, name, values, measure)
  found['TEXT_WEIGHT'] = measure_spoken(of, folder, (0.0, 0.5, 1.0, 2.0))
  steps = (0.1, 0.2, 0.3, 0.4)
  found['LEAST'] = {
    'weights of the index': measure_nothing.measure(of, of.gallery.weights, steps),
    'teacher': measure_nothing.measure(of, TEACHER, steps),
  }
  return found


def _varied(module: Any, name: str, values: Sequence[float], measure: Callable[[], Any]) -> dict[str, Any]:
  kept, found = getattr(module, name), {}
  try:
    for value in values:
      setattr(module, name, value)
      found[f'{value:g}'] = measure()
  finally:
    setattr(module, name, kept)
  return found


def report(of: World, folder: pathlib.Path) -> dict[str, Any]:
  """Returns what each kind of query is worth, with what the program uses."""
  return {
    'picture': measure_pictures(of),
    'like a moment': measure_like(of),
    'composed': measure_composed(of),
    'negative': measure_negative(of),
    'spoken': measure_spoken(of, folder, (0.0, ranking.TEXT_WEIGHT)),
    'nothing, weights of the index': measure_nothing.measure(of, of.gallery.weights),
    'nothing, teacher': measure_nothing.measure(of, TEACHER),
  }


def as_text(found: dict[str, Any], prefix: str = '') -> str:
  """Returns what was measured as lines: where it is, and its numbers."""
  lines = []
  for name, value in found.items():
    if all(isinstance(each, float) for each in value.values()):
      lines.append([f'{prefix}{name}', ', '.join(f'{key} {_number(key, each)}' for key, each in value.items())])
    else:
      lines += [line.split('\t') for line in as_text(value, f'{prefix}{name} | ').split('\n')]
  return '\n'.join('\t'.join(line) for line in lines)


def _number(key: str, value: float) -> str:
  return f'{value:.3f}' if key in ('AUC', 'confidence') else f'{value:.1f}'


def open_world(workdir: pathlib.Path, split: str, folder: pathlib.Path) -> World:
  """Opens the index of a split's films, which is made of the data set where the demonstration made none.

  Raises:
    UserError: there is no demonstration.
  """
  note = workdir / 'settings.json'
  if not note.is_file():
    raise UserError(f'{workdir} holds no demonstration; make one with ./run.sh')
  settings = DemoSettings(
    **{k: v for k, v in json.loads(note.read_text(encoding='utf-8')).items() if k in ('seed', 'films')}
  )
  index = workdir / 'index'
  if split != 'test' or not index.is_dir():
    index = folder / split
    collection = Collection.open(str(workdir / 'data'), 'custom_prvr', [split])
    made = building.IndexSettings(clip=str((workdir / 'clip').absolute()))
    knowledge = Knowledge.read(str(workdir / 'corpus' / 'videos'), None)
    building.build(index, collection, workdir / 'students' / 'distilled_0', made, knowledge)
  films = {f'{film.name}.mp4': film for film in demo_films.films_of(settings) if film.split == split}
  return World(Gallery.open(index, clip=str(workdir / 'clip')), films)


def main() -> int:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--workdir', type=files.expand, default=files.expand('runs/demo'), help='of a demonstration')
  parser.add_argument('--choose', action='store_true', help='also compare shares and weights, on the validation films')
  flags = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    if flags.choose:
      rows = as_text({'validation': choose(open_world(flags.workdir, 'val', folder), folder / 'val')})
      print(tables.as_text([line.split('\t') for line in rows.split('\n')], left=(0, 1), rule=False), flush=True)
    rows = as_text({'test': report(open_world(flags.workdir, 'test', folder), folder / 'test')})
    print(tables.as_text([line.split('\t') for line in rows.split('\n')], left=(0, 1), rule=False))
  return 0


if __name__ == '__main__':
  sys.exit(doors.guarded(main))
