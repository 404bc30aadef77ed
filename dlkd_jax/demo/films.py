"""Writes films as mp4 files, and the sentences about them as captions.jsonl."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import pathlib
from collections.abc import Sequence

from dlkd_jax import files
from dlkd_jax.demo import render, world
from dlkd_jax.demo.settings import DemoSettings
from dlkd_jax.demo.world import Film
from dlkd_jax.progress import Progress
from dlkd_jax.video import writing


def films_of(settings: DemoSettings) -> list[Film]:
  """Returns all films, split after split."""
  return [
    world.film(settings.seed, split, number)
    for split, count in zip(world.SPLITS, settings.films, strict=True)
    for number in range(count)
  ]


def render_corpus(settings: DemoSettings, folder: pathlib.Path) -> None:
  """Writes the films into `<folder>/videos` and `<folder>/captions.jsonl`; films that are there are left alone.

  Raises:
    OSError: a file cannot be written.
  """
  films, videos = films_of(settings), folder / 'videos'
  write_captions(films, folder / 'captions.jsonl')
  todo = [film for film in films if not (videos / f'{film.name}.mp4').exists()]
  if not todo:
    return
  parts = [todo[start : start + 8] for start in range(0, len(todo), 8)]
  # New processes, since a fork of one in which JAX runs threads may hang.
  context = multiprocessing.get_context('spawn')
  with (
    concurrent.futures.ProcessPoolExecutor(settings.processes, mp_context=context) as pool,
    Progress(len(todo), 'films', every=10.0) as bar,
  ):
    made = [pool.submit(_write_films, part, videos, settings.rate, settings.side) for part in parts]
    for part, done in zip(parts, made, strict=True):
      done.result()
      for film in part:
        bar.step(film.split)


def _write_films(films: Sequence[Film], folder: pathlib.Path, rate: int, side: int) -> None:
  for film in films:
    write_film(film, folder / f'{film.name}.mp4', rate, side)


def write_film(film: Film, path: pathlib.Path, rate: int, side: int) -> None:
  """Writes a film as H.264 in mp4, whole or not at all.

  Args:
    film: what happens.
    path: where to, ending in .mp4.
    rate: pictures a second.
    side: pixels, an even number.
  """
  images = render.film_pictures(film, rate, side)
  writing.write_video(path, images, rate, (side, side), None, {'preset': 'ultrafast', 'crf': '22', 'threads': '1'})


def caption_lines(film: Film) -> list[str]:
  """Returns the lines of captions.jsonl that a film gives: video, text, start, end (seconds) and split."""
  lines = []
  for caption in film.captions:
    segment = film.segments[caption.segment]
    line = {'video': f'{film.name}.mp4', 'text': caption.text, 'start': segment.start, 'end': segment.end}
    lines.append(json.dumps(line | {'split': film.split}))
  return lines


def write_captions(films: Sequence[Film], path: pathlib.Path) -> None:
  """Writes captions.jsonl of films."""
  files.write_text(path, '\n'.join(line for film in films for line in caption_lines(film)) + '\n')
