"""Small films for the page's tests, and a gallery in memory of what happens in them."""

import pathlib

from dlkd_jax.demo import films, world
from tests.page.memory_gallery import MemoryGallery

RATE, SIDE = 8, 96


def write_films(folder: pathlib.Path, count: int = 4) -> list[world.Film]:
  """Renders films of the demonstration as H.264 in mp4."""
  made = [world.film(5, 'test', number) for number in range(count)]
  for film in made:
    films.write_film(film, folder / f'{film.name}.mp4', RATE, SIDE)
  return made


def add_films(gallery: MemoryGallery, made: list[world.Film], folder: pathlib.Path) -> None:
  """Adds films with one frame a second, which is told what its segment's caption says."""
  for film in made:
    told = {caption.segment: caption.text for caption in reversed(film.captions)}
    times = range(int(film.segments[-1].end))
    number = [next(i for i, s in enumerate(film.segments) if time < s.end) for time in times]
    sentences = [told.get(i, f'a background of {film.name} {i}') for i in number]
    gallery.add(f'{film.name}.mp4', sentences, folder / f'{film.name}.mp4', title=film.name.replace('_', ' '))


def told(films, number=1):
  """A caption, and the segment that it is of."""
  film = films[number]
  caption = film.captions[0]
  return film, caption.text, film.segments[caption.segment]
