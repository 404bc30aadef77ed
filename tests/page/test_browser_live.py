"""The page in a real browser while its index changes: what is said of it, and that new films are found."""

import json
import os
import socket
import time

from dlkd_jax.gallery import progress_file
from dlkd_jax.page.app import make_app
from dlkd_jax.page.server import PageSettings, serving
from tests.page.browser import find, press, rows, text, until
from tests.page.test_live import DiskGallery


def test_films_that_come_are_found_without_a_restart(browser, wide, tmp_path):
  one, two, three = DiskGallery(tmp_path), DiskGallery(tmp_path), DiskGallery(tmp_path)
  for gallery, names in ((two, 'ab'), (three, 'bcd')):
    for name in names:
      gallery.add(name, ['a dog'])
  one.write()
  with serving(make_app(one, PageSettings(look=0.05))) as url:
    browser.get(url)
    until(lambda: 'no videos yet' in text(browser, '#notice'), 'the empty index')
    assert 'dlkd add' in text(browser, '#notice')
    said = {'done': 3, 'total': 12, 'frames': 9, 'share': 0.25, 'film': 'x', 'pid': os.getpid()}
    said |= {'started': time.time() - 30, 'updated': time.time(), 'host': socket.gethostname()}
    (tmp_path / progress_file.NAME).write_text(json.dumps(said))
    browser.refresh()
    until(lambda: '3 of 12, about 2 min left' in text(browser, '#live'), 'the addition')
    one.changes_to(two)
    until(lambda: '2 videos' in text(browser, '#foot'), 'the number of videos')
    assert not text(browser, '#notice')
    press(browser, 'a dog', '\ue007')
    rows(browser, 2)
    assert 'new' not in text(browser, '#live')
    (tmp_path / progress_file.NAME).unlink()
    two.changes_to(three)
    until(lambda: '2 new films in the index' in text(browser, '#live'), 'the news')
    assert 'added' not in text(browser, '#live')
    find(browser, '#live button')[0].click()
    rows(browser, 3)
    until(lambda: not text(browser, '#live'), 'the end of the news')
