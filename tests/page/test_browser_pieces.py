"""Films that browsers do not play, in a real browser: a piece is made of the moment, and shows the right frame."""

import re

import av
import numpy as np
import pytest

from dlkd_jax.page import pieces
from dlkd_jax.page.app import make_app
from dlkd_jax.page.server import PageSettings, serving
from dlkd_jax.video import decoding
from tests.page.browser import find, press, rows, text, until
from tests.page.memory_gallery import MemoryGallery
from tests.page.test_player_clock import SHOWN
from tests.video import films


def render(path, codec='mpeg4'):
  """A film of ten seconds that counts its frames, 25 a second."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(codec, rate=25, options={'x265-params': 'log-level=none'})
    stream.width, stream.height, stream.pix_fmt = films.WIDTH, films.HEIGHT, 'yuv420p'
    stream.codec_context.gop_size = 12
    films.silence(container, 10.0)
    for number in range(250):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(films.draw(number), 'rgb24')))
    container.mux(stream.encode())
  return path


def gallery_of(*paths):
  """One frame a second, of which the one at second 7 is told."""
  gallery = MemoryGallery()
  for path in paths:
    words = [f'second {n} of {path.name}' for n in range(10)]
    words[7] = f'{path.stem}{path.suffix[1:]} jumps'
    gallery.add(path.name, words, path, decoding.probe(path).duration, noise=0.0)
    gallery.frames[path.name] = np.arange(10.0), gallery.frames[path.name][1]
  return gallery


def starts(folder):
  """The seconds at which the pieces of a folder begin."""
  return sorted(int(match[2]) / 1000 for file in folder.iterdir() if (match := pieces._NAME.fullmatch(file.name)))


def shows(browser, offset, low, high):
  """Waits until the player shows a frame of some; it is the one of its second."""

  def arrived():
    at, number = browser.execute_script(SHOWN)
    return low <= number <= high and abs((at + offset) * 25 - number) <= 2

  until(arrived, f'a frame from {low} to {high}')


@pytest.mark.parametrize(
  'name',
  ['old.avi', pytest.param('cast.ts', marks=pytest.mark.slow), pytest.param('phone.mp4', marks=pytest.mark.slow)],
)
def test_a_film_in_another_format_plays_at_its_second(browser, wide, tmp_path, name):
  path = render(tmp_path / name, {'old.avi': 'mpeg4', 'cast.ts': 'mpeg2video', 'phone.mp4': 'libx265'}[name])
  application = make_app(gallery_of(path), PageSettings(cache=tmp_path / 'cache', piece=4.0))
  with serving(application) as url:
    browser.get(f'{url}?q={path.stem}{path.suffix[1:]} jumps')
    rows(browser, 1)
    find(browser, '.still')[0].click()
    until(lambda: 'playable' in text(browser, '.stage-message h3'), 'that it is being made')
    until(lambda: find(browser, 'video')[0].is_displayed() and not find(browser, '.stage-message'), 'the video')
    (start,) = starts(tmp_path / 'cache')
    second = float(re.search(r'[?&]t=([\d.]+)', browser.current_url)[1])
    assert 4 < second < 7.5 and second - 2 < start <= second
    shows(browser, start, 25 * second - 2, 200)
    # To a second before the piece: another one is made, and goes on into the next.
    browser.execute_script("""
      const plot = document.querySelector('dialog .plot'), box = plot.getBoundingClientRect();
      plot.dispatchEvent(new MouseEvent('click', { clientX: box.left + box.width * .2, clientY: box.top + 9 }));""")
    until(lambda: len(starts(tmp_path / 'cache')) > 1, 'another piece')
    shows(browser, starts(tmp_path / 'cache')[0], 45, 120)
    press(browser, '\ue00c')
    until(lambda: not find(browser, 'dialog[open]'), 'the end of the dialog')
