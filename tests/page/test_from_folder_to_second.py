"""From a folder of films to the right second in two steps, `dlkd add` and the page, while films go on coming.

The model is a small CLIP of random parameters: it tells pictures and words apart, and knows nothing of how they belong
together. So what is found by a sentence is what is said, and what is found by a picture is where that picture is.
"""

import pathlib
import re
import shutil

import pytest
from PIL import Image

from dlkd_jax.gallery import synchronising
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.page import app
from dlkd_jax.page.server import PageSettings, serving
from dlkd_jax.video.picture_at import picture_at
from tests.page.browser import complaints, find, playing, press, rows, text, until
from tests.page.test_browser_pieces import render, shows, starts
from tests.page.test_whole_path import small_clip

SAID = 'the ferry leaves without us'
LATER = 'nobody has seen the lighthouse'


def srt(path: pathlib.Path, sentence: str, start: int, end: int) -> None:
  path.write_text(
    f'1\n00:00:00,500 --> 00:00:02,000\nhello\n\n2\n00:00:{start:02d},000 --> 00:00:{end:02d},000\n{sentence}\n'
  )


@pytest.fixture
def folder(films_folder, films, tmp_path):
  """Films of the demonstration, one of them with subtitles; one in HEVC with sound; a model."""
  folder = tmp_path / 'films'
  folder.mkdir()
  for film in films[:3]:
    shutil.copy(films_folder / f'{film.name}.mp4', folder)
  srt(folder / f'{films[0].name}.srt', SAID, 8, 11)
  render(folder / 'phone.mp4', 'libx265')
  small_clip(tmp_path / 'clip', [SAID, LATER, 'hello'])
  return folder


def found_first(browser, name):
  until(
    lambda: find(browser, '.result:not(.skeleton)')[0].get_attribute('data-id') == name, f'{name} in the first place'
  )


@pytest.mark.slow
def test_folder_to_second(browser, wide, folder, films_folder, films, tmp_path):
  index = tmp_path / 'index'
  request = synchronising.Request(folders=[folder], clip=str(tmp_path / 'clip'), settle_seconds=0)
  assert synchronising.synchronise(index, request).total == 4
  application = app.prepare(Gallery.open(index), PageSettings(look=0.2, cache=tmp_path / 'cache', query_burst=100))
  with serving(application) as url:
    # What is said, and its second.
    browser.get(url)
    until(lambda: '4 videos' in text(browser, '#foot'), 'the number of films')
    press(browser, SAID, '\ue007')
    found_first(browser, f'{films[0].name}.mp4')
    assert SAID in text(browser, '.said')
    find(browser, '.still')[0].click()
    assert 7 <= playing(browser) < 11.5
    press(browser, '\ue00c')
    until(lambda: not find(browser, 'dialog[open]'), 'the end of the dialog')
    # What a picture shows, in a film that browsers do not play.
    Image.fromarray(picture_at(str(folder / 'phone.mp4'), 6.0, 128)).save(tmp_path / 'frame.png')
    browser.execute_script('document.querySelector("#query").value = ""')
    find(browser, '#file')[0].send_keys(str(tmp_path / 'frame.png'))
    found_first(browser, 'phone.mp4')
    find(browser, '.still')[0].click()
    until(lambda: starts(tmp_path / 'cache'), 'a piece of it')
    second = float(re.search(r'[?&]t=([\d.]+)', browser.current_url)[1])
    assert second <= 6.5
    shows(browser, starts(tmp_path / 'cache')[0], 25 * second - 2, 250)
    press(browser, '\ue00c')
    until(lambda: not find(browser, 'dialog[open]'), 'the end of the dialog')
    # A film that comes meanwhile.
    browser.get(f'{url}?q={LATER}')
    rows(browser, 4)
    assert not find(browser, '.said')
    shutil.copy(films_folder / f'{films[3].name}.mp4', folder)
    srt(folder / f'{films[3].name}.srt', LATER, 5, 7)
    assert synchronising.synchronise(index, synchronising.Request(settle_seconds=0)).total == 5
    browser.execute_script('document.dispatchEvent(new Event("visibilitychange"))')
    until(lambda: '1 new film in the index' in text(browser, '#live'), 'the news')
    find(browser, '#live button')[0].click()
    found_first(browser, f'{films[3].name}.mp4')
    find(browser, '.said-play')[0].click()
    assert 4.9 <= playing(browser) < 7.5
    assert not complaints(browser)
