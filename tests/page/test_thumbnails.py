"""Pictures are those of the right time, each is made once, and they take bounded memory."""

import asyncio
import io

import numpy as np
import pytest
from PIL import Image

from dlkd_jax.page import thumbnails
from dlkd_jax.page.guards import RefusalError
from dlkd_jax.page.thumbnails import Thumbnails
from dlkd_jax.video.files import VideoError
from tests.video import films


def gather(function, **limits):
  async def main():
    made = Thumbnails(64, **{'most_bytes': 10**6, **limits})
    try:
      return await function(made), made
    finally:
      made.close()

  return asyncio.run(main())


@pytest.fixture
def calls(monkeypatch):
  made = []

  def picture(path, time, side):
    made.append((path, time))
    if time == 13:
      raise VideoError(path, 'has no frame')
    return np.zeros((32, 64, 3), np.uint8)

  monkeypatch.setattr(thumbnails, 'picture_at', picture)
  return made


def test_jpeg_of_the_right_size(tmp_path):
  film = str(films.render(tmp_path / 'film.mp4', films.steady(50)))
  (data,), _ = gather(lambda made: asyncio.gather(made.get(film, 'tag', 1.0)))
  image = Image.open(io.BytesIO(data))
  assert image.format == 'JPEG' and image.size == (64, 48) and films.read(np.asarray(image)) == 25


def test_each_is_made_once(calls):
  async def ask(made):
    await asyncio.gather(*(made.get('a', 'tag', 1.0) for _ in range(10)))
    await made.get('a', 'tag', 1.24)  # The same half second.
    await made.get('a', 'tag', 0.76)
    await made.get('a', 'other', 1.0)  # The file has changed.

  gather(ask)
  assert calls == [('a', 1.0), ('a', 1.0)]


def test_memory_is_bounded(calls):
  async def ask(made):
    for number in range(50):
      await made.get('a', 'tag', 20 + number / 2)
    await made.get('a', 'tag', 44.5)
    return made.kept_bytes

  size = len(thumbnails.jpeg(np.zeros((32, 64, 3), np.uint8)))
  kept, made = gather(ask, most_bytes=5 * size + 1)
  assert kept == 5 * size == sum(map(len, made._kept.values())) and len(calls) == 50


def test_failures_are_told_and_not_kept(calls):
  async def ask(made):
    return await asyncio.gather(*(made.get('a', 'tag', 13.0) for _ in range(3)), return_exceptions=True)

  errors, made = gather(ask)
  assert all(isinstance(error, VideoError) for error in errors) and len(calls) == 1
  assert not made._made and not made._kept


def test_too_many_are_refused(calls):
  async def ask(made):
    return await asyncio.gather(*(made.get('a', 'tag', float(n)) for n in range(5)), return_exceptions=True)

  answers, _ = gather(ask, waiting=3)
  assert [isinstance(answer, RefusalError) for answer in answers] == [False] * 3 + [True] * 2


def test_who_leaves_does_not_take_the_picture_along(calls):
  async def ask(made):
    leaves = asyncio.create_task(made.get('a', 'tag', 1.0))
    stays = asyncio.create_task(made.get('a', 'tag', 1.0))
    await asyncio.sleep(0)
    leaves.cancel()
    return await stays

  data, _ = gather(ask)
  assert data[:2] == b'\xff\xd8'
