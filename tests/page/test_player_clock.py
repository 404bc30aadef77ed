"""The frame that a browser shows at a moment is the one indexed there, to the frame, wherever the picture begins."""

import functools
from fractions import Fraction

import numpy as np
import pytest

from dlkd_jax.page.app import make_app
from dlkd_jax.page.server import PageSettings, serving
from dlkd_jax.video import decoding
from dlkd_jax.video.picture_at import picture_at
from tests.page.browser import chromium, until
from tests.page.memory_gallery import MemoryGallery
from tests.video import films as numbered

RATE, FRAMES = 2.5, 80

# So that a film stays at the frame that the page goes to.
STILL = 'HTMLMediaElement.prototype.play = () => Promise.resolve();'
OPEN = """
const still = document.querySelector(`.result[data-id="${arguments[0]}"] .still`);
if (still) still.click();
return Boolean(still && document.querySelector('video'));
"""
# The number that is drawn in the frame that is shown; null while the player is on its way.
SHOWN = """
const video = document.querySelector('video');
if (!video || video.seeking || video.readyState < 2) return null;
const canvas = document.createElement('canvas');
[canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
const context = canvas.getContext('2d');
context.drawImage(video, 0, 0);
const row = context.getImageData(0, Math.floor(canvas.height / 2), canvas.width, 1).data;
let number = 0;
for (let bit = 0; bit < 8; bit++) if (row[4 * Math.floor((bit + 0.5) / 8 * canvas.width) + 1] > 128) number |= 1 << bit;
return [video.currentTime, number];
"""


def film(folder, name, begins, sound=0.0, shift=0):
  """Frames from `begins` on, ten a second, beside sound from 0 on if there is any; all of it `shift` later."""
  times = [shift + Fraction(begins) + time for time in numbered.steady(FRAMES, 10)]
  return numbered.render(folder / name, times, sound=sound, sound_from=shift)


@pytest.fixture(scope='module')
def films(tmp_path_factory):
  folder = tmp_path_factory.mktemp('late')
  return [
    film(folder, 'plain.mp4', 0),
    *(film(folder, f'late{suffix}', 3, 12) for suffix in ('.mp4', '.webm', '.mkv')),
    *(film(folder, f'silent{suffix}', 3) for suffix in ('.mp4', '.webm', '.mkv')),
    *(film(folder, f'odd{suffix}', Fraction(2717, 1000), 12) for suffix in ('.mp4', '.webm')),
    *(film(folder, f'hundred{suffix}', 1, 9, shift=100) for suffix in ('.mp4', '.webm', '.mkv')),
  ]


@pytest.fixture(scope='module')
def browser():
  with chromium() as browser:
    browser.execute_cdp_cmd('Page.addScriptToEvaluateOnNewDocument', {'source': STILL})
    yield browser


def shows(browser, name, second, number, first=0.0):
  """Waits until the player is at a second and shows a frame; it stays, so that no other one is shown by chance."""

  def arrived():
    at, found = browser.execute_script(SHOWN)
    return min(abs(at - second), abs(at - max(first, second))) < 0.01 and found == number

  until(arrived, f'frame {number} at second {second} of {name}', 20)


@pytest.mark.slow
def test_the_frame_shown_is_the_frame_indexed(browser, films):
  gallery, indexed = MemoryGallery(), {}
  for path in films:
    samples = list(decoding.sample_frames(path, RATE))
    indexed[path.name] = [(sample.time, numbered.read(sample.image)) for sample in samples]
    words = [f'{path.stem}{path.suffix[1:]} number{n}' for n in range(len(samples))]
    gallery.add(path.name, words, path, decoding.probe(path).duration, noise=0.0)
    gallery.frames[path.name] = np.array([sample.time for sample in samples]), gallery.frames[path.name][1]
  with serving(make_app(gallery, PageSettings(query_burst=1000, media_burst=10_000, top=1))) as url:
    for path in films:
      for number in (1, 10, 18):
        query = f'{path.stem}{path.suffix[1:]} number{number}'
        (result,) = gallery.search([query], top=1)
        moment = result.hits[0].moments[0]
        browser.get(f'{url}?q={query}')
        until(functools.partial(browser.execute_script, OPEN, path.name), 'the result')
        expected = numbered.read(picture_at(str(path), moment.start + 0.0005, 200))
        assert result.hits[0].video_id == path.name
        # Where nothing is shown or heard before, a browser may go to the first frame.
        first = indexed[path.name][0][0] if path.stem == 'silent' else 0
        shows(browser, path.name, moment.start + 0.0005, expected, first)
      for second, number in indexed[path.name]:
        browser.execute_script('document.querySelector("video").currentTime = arguments[0]', second + 0.0005)
        shows(browser, path.name, second + 0.0005, number)
