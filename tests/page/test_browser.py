"""The page in a real browser: found and played at the right second, by mouse and by keys; what it says of errors."""

import dataclasses
import shutil

import pytest

from dlkd_jax.page.app import make_app
from dlkd_jax.page.server import PageSettings, serving
from tests.page.browser import RELAXED, active, complaints, find, playing, press, rows, text, until, view
from tests.page.films import add_films, told
from tests.page.memory_gallery import MemoryGallery

pytestmark = pytest.mark.usefixtures('wide')


def test_sentence_to_video_at_the_right_second(browser, gallery, films):
  film, sentence, segment = told(films)
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(url)
    until(lambda: 'videos' in text(browser, '#foot'), 'the number of videos')
    assert [link.text for link in find(browser, '.examples a')] == list(RELAXED.examples)
    press(browser, sentence, '\ue007')
    rows(browser, 2)
    assert f'The best 2 of {len(films)} videos' in text(browser, '#status')
    best = find(browser, '.result')[0]
    assert best.get_attribute('data-id') == f'{film.name}.mp4'
    until(lambda: 'still-loaded' in best.find_element('class name', 'still').get_attribute('class'), 'its picture')
    assert best.find_elements('css selector', '.plot-moment.plot-chosen')
    assert [name.text for name in best.find_elements('css selector', '.branch dt')] == ['inheritance', 'exploration']
    best.find_element('class name', 'still').click()
    assert segment.start - 1 <= playing(browser) < segment.end
    until(lambda: 'in-moment' in find(browser, 'dialog')[0].get_attribute('class'), 'the mark of the moment')
    assert f'v={film.name}.mp4' in browser.current_url and 'q=' in browser.current_url
    browser.execute_script('document.querySelector("video").pause()')
    line = browser.execute_script('return document.querySelector("dialog .plot-playhead").getAttribute("x1")')
    wide = browser.execute_script('return document.querySelector("dialog .plot").clientWidth')
    assert segment.start - 1 <= float(line) / wide * film.segments[-1].end <= segment.end + 1
    assert not complaints(browser)


def test_every_kind_of_click_plays(browser, gallery, films):
  sentences = [caption.text for film in films for caption in film.captions]
  found = {sentence: gallery.search([sentence], moments=3)[0].hits[0].moments for sentence in sentences}
  sentence, gallery_moments = next((sentence, moments) for sentence, moments in found.items() if len(moments) > 1)
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(url)
    press(browser, sentence, '\ue007')
    rows(browser, 2)
    chips = find(browser, '.result:first-child .moment')
    assert len(chips) == len(gallery_moments) > 1
    assert [float(chip.get_attribute('data-moment')) for chip in chips] == sorted(
      range(len(chips)), key=lambda number: gallery_moments[number].start
    )
    find(browser, '.result:first-child .moment[data-moment="1"]')[0].click()
    assert gallery_moments[1].start - 0.1 <= playing(browser) <= gallery_moments[1].end + 2
    find(browser, 'dialog .moment[data-moment="0"]')[0].click()
    start, end = gallery_moments[0].start, gallery_moments[0].end
    until(lambda: abs(playing(browser) - start) < 2, 'the other moment')
    find(browser, 'dialog .quiet')[0].click()
    browser.execute_script('document.querySelector("video").currentTime = arguments[0]', end - 0.3)
    until(lambda: start <= playing(browser) < end - 0.5, 'the moment again')
    find(browser, 'dialog .quiet')[0].click()
    browser.execute_script("""
      const plot = document.querySelector('dialog .plot'), box = plot.getBoundingClientRect();
      plot.dispatchEvent(new MouseEvent('click', { clientX: box.left + box.width * .5, clientY: box.top + 9 }));""")
    half = browser.execute_script('return document.querySelector("video").duration / 2')
    until(lambda: abs(playing(browser) - half) < 2, 'the middle of the film')


def test_keys_alone(browser, gallery, films):
  _, sentence, _ = told(films)
  up, down, right, enter, escape = '\ue013', '\ue015', '\ue014', '\ue007', '\ue00c'
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(f'{url}?q=something')
    rows(browser, 2)
    browser.execute_script('document.activeElement.blur()')
    press(browser, '/')
    assert active(browser).get_attribute('id') == 'query'
    press(browser, sentence, enter)
    until(lambda: find(browser, '.result')[0].get_attribute('data-id') == f'{films[1].name}.mp4', 'the film')
    press(browser, down)
    assert 'still' in active(browser).get_attribute('class')
    outline = browser.execute_script('return getComputedStyle(document.activeElement).outlineStyle')
    assert outline == 'solid'
    press(browser, right)
    assert active(browser).get_attribute('class').split()[0] in ('moment', 'like')
    press(browser, down, up)
    first = active(browser)
    press(browser, enter)
    playing(browser)
    press(browser, ' ')
    until(lambda: browser.execute_script('return document.querySelector("video").paused'), 'a pause')
    title = text(browser, '#player-title')
    press(browser, down)
    until(lambda: text(browser, '#player-title') not in ('', title), 'the next result')
    press(browser, up)
    until(lambda: text(browser, '#player-title') == title, 'the result before')
    press(browser, escape)
    until(lambda: not find(browser, 'dialog[open]'), 'the end of the dialog')
    until(lambda: 'v=' not in browser.current_url, 'the address of the results')
    assert active(browser) == first
    press(browser, down, down)
    assert active(browser).get_attribute('id') == 'more'
    press(browser, enter)
    rows(browser, 4)
    assert not find(browser, '#more')[0].is_displayed()
    until(lambda: active(browser) == find(browser, '.result .still')[2], 'the first of the new ones')
    press(browser, escape)
    assert active(browser).get_attribute('id') == 'query'


def test_an_address_can_be_shared(browser, gallery, films):
  film, sentence, segment = told(films)
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(f'{url}?q={sentence}')
    rows(browser, 2)
    find(browser, '.still')[0].click()
    playing(browser)
    shared = browser.current_url
    browser.back()
    until(lambda: not find(browser, 'dialog[open]'), 'the end of the dialog')
    browser.get('about:blank')
    browser.get(shared)
    until(lambda: find(browser, 'dialog[open]'), 'the player')
    until(lambda: browser.execute_script('return document.querySelector("video").currentTime') > 0, 'the second')
    assert segment.start - 1 <= browser.execute_script('return document.querySelector("video").currentTime')
    assert film.name.replace('_', ' ') == text(browser, '#player-title')


def test_narrow_screens(browser, gallery, films):
  for name, video in gallery.videos.items():
    metadata = {'place': 'a long description of the place ' * 5}
    gallery.videos[name] = dataclasses.replace(video, title='a title without end ' * 9 + 'x' * 300, metadata=metadata)
  with serving(make_app(gallery, RELAXED)) as url:
    for width in (320, 390, 768):
      view(browser, width, 800, touch=width < 700)
      browser.get(f'{url}?q={told(films)[1]}')
      rows(browser, 2)
      fits = (
        'return document.documentElement.scrollWidth <= innerWidth && [...document.querySelectorAll(".result *")]'
        '.every((e) => e.matches(".still *") || e.getBoundingClientRect().right <= innerWidth)'
      )
      assert browser.execute_script(fits), width
      find(browser, '.still')[0].click()
      playing(browser)
      inside = (
        'const b = document.querySelector("dialog").getBoundingClientRect(); '
        'return b.left >= 0 && b.right <= innerWidth && b.bottom <= innerHeight + 1 && '
        '[...document.querySelectorAll("dialog *")].every((e) => e.getBoundingClientRect().right <= innerWidth)'
      )
      until(lambda inside=inside: browser.execute_script(inside), f'a player {width} wide')


def test_markup_in_titles_and_sentences_is_text(browser, gallery, films):
  markup = '<img src=x onerror="document.title=1"><b>bold</b>'
  for name, video in gallery.videos.items():
    gallery.videos[name] = dataclasses.replace(video, title=markup, metadata={'<i>place</i>': markup})
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(url)
    press(browser, markup, '\ue007')
    rows(browser, 2)
    assert text(browser, '.result .title') == markup
    find(browser, '.still')[0].click()
    playing(browser)
    assert text(browser, '#player-title') == markup and text(browser, '.facts dd') == markup
    assert not find(browser, 'main b, dialog b, dialog i') and browser.title.startswith(markup)


def test_times_in_words(browser, gallery):
  script = """
    const done = arguments[arguments.length - 1];
    import('/static/text.js').then(({ clock, span, lasting, score, count }) => done([
      clock(0), clock(59.99), clock(60), clock(3599), clock(3600), clock(36_125.4), clock(-1), clock(61.25, true),
      clock(0.3, true), span(8.75, 12.25), span(61.5, 62.3), lasting(44.6), lasting(90), lasting(3600), lasting(39_327),
      score(-0.25), score(0.12345), count(1, 'video'), count(1334, 'video'),
    ]))"""
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(url)
    found = browser.execute_async_script(script)
  times = ['0:00', '0:59', '1:00', '59:59', '1:00:00', '10:02:05', '0:00', '1:01.2', '0:00.3']
  spans = ['0:08\u2009\u2013\u20090:12', '1:01.5\u2009\u2013\u20091:02.3', '45 s', '2 min', '1 h', '10 h 55 min']
  assert found == [*times, *spans, '\u22120.250', '0.123', '1 video', '1,334 videos']


def test_the_axis_of_a_clock_that_counts_from_1970(browser, gallery):
  """As few times as have room, however late a film ends."""
  script = """
    const done = arguments[arguments.length - 1];
    import('/static/plot.js').then(({ plot }) => {
      const hit = (end) => ({ times: [end - 1, end], curve: [0, 1], duration: end, moments: [
        { start: end - 1, end, peak: end, score: 1 }] });
      const all = [3, 40, 86_400, 200_000, 1_700_000_000].map((end) => plot(hit(end), { low: 0, high: 1 }).element);
      document.body.append(...all);
      setTimeout(() => done(all.map((one) => one.querySelectorAll('.plot-label').length)), 500);
    })"""
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(url)
    found = browser.execute_async_script(script)
  assert all(2 <= labels <= 30 for labels in found), found


def test_loading_then_results(browser, gallery):
  gallery.delay = 1.0
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(f'{url}?q=slow')
    until(lambda: len(find(browser, '.skeleton')) == 4, 'the shape of results to come')
    assert text(browser, '#status') == 'Searching…' and find(browser, '#results')[0].get_attribute('aria-busy')
    rows(browser, 2)
    assert not find(browser, '#results')[0].get_attribute('aria-busy')


def test_no_match_and_an_empty_index(browser, gallery):
  with serving(make_app(gallery, PageSettings(threshold=1.5))) as url:
    browser.get(f'{url}?q=unheard')
    until(lambda: 'Nothing fits' in text(browser, '#notice'), 'that nothing fits')
    assert 'unheard' in text(browser, '#notice') and not find(browser, '.result')
  with serving(make_app(MemoryGallery(), RELAXED)) as url:
    for address in (url, f'{url}?q=x'):
      browser.get(address)
      until(lambda: 'no videos yet' in text(browser, '#notice'), 'that it is empty')


def test_too_long_and_too_fast(browser, gallery, films):
  with serving(make_app(gallery, PageSettings(query_rate=0.25, query_burst=1))) as url:
    browser.get(f'{url}?q={"x" * 301}')
    until(lambda: 'too long' in text(browser, '#notice'), 'that it is too long')
    assert text(browser, '#query-note') == '301 of 300 characters'
    browser.get(f'{url}?q=one')
    rows(browser, len(films))
    find(browser, '#query')[0].send_keys(' two\ue007')
    until(lambda: 'too fast' in text(browser, '#notice'), 'that it was too fast')
    rows(browser, len(films))  # By itself, after the wait.


def test_failures_are_told_and_can_be_tried_again(browser, gallery):
  with serving(make_app(gallery, RELAXED)) as url:
    gallery.error = KeyError('broken')
    browser.get(f'{url}?q=three')
    until(lambda: 'The search failed' in text(browser, '#notice'), 'that it failed')
    assert 'broken' not in text(browser, 'body')
    assert find(browser, '#notice')[0].get_attribute('role') == 'alert'
    gallery.error = None
    find(browser, '.again')[0].click()
    rows(browser, 2)
  find(browser, '#query')[0].send_keys(' more\ue007')
  until(lambda: 'No answer' in text(browser, '#notice'), 'that the server is gone')


def test_videos_that_do_not_play(browser, films, films_folder, tmp_path):
  """One whose file is gone, one in another format that cannot be converted, one without a file, one that is damaged."""
  import av

  gallery = MemoryGallery()
  add_films(gallery, films[:1], films_folder)
  (name,) = gallery.videos
  times, vectors = gallery.frames[name]
  with av.open(str(tmp_path / 'old.avi'), 'w') as container, av.open(str(films_folder / name)) as source:
    stream = container.add_stream('mpeg4', rate=8)
    stream.width = stream.height = 96
    for frame in source.decode(video=0):
      again = av.VideoFrame.from_ndarray(frame.to_ndarray(format='rgb24'), format='rgb24')
      container.mux(stream.encode(again))
    container.mux(stream.encode())
  shutil.copy(films_folder / name, tmp_path / 'gone.mp4')
  (tmp_path / 'damaged.mp4').write_bytes((films_folder / name).read_bytes()[:2000])
  for file in ('gone.mp4', 'old.avi', 'damaged.mp4', None):
    gallery.add(file or 'features', ['x'], file and tmp_path / file, duration=float(len(times)))
    gallery.frames[file or 'features'] = times, vectors
  (tmp_path / 'gone.mp4').unlink()
  (tmp_path / 'file').write_text('')
  expected = {
    'gone.mp4': ('The file is gone', 'not where the index says'),
    'old.avi': ('Browsers do not play this format', 'mpeg4 (yuv420p) in a .avi file'),
    'damaged.mp4': ('The file is damaged', 'truncated'),
    'features': ('This video cannot be played', 'no file of this video'),
  }
  with serving(make_app(gallery, PageSettings(cache=tmp_path / 'file' / 'no folder'))) as url:
    browser.get(f'{url}?q={told(films, 0)[1]}')
    rows(browser, 5)
    for row in find(browser, '.result'):
      name = row.get_attribute('data-id')
      if name not in expected:
        continue
      row.find_element('class name', 'still').click()
      heading, reason = expected[name]
      until(lambda heading=heading: heading == text(browser, '.stage-message h3'), heading)
      assert reason in text(browser, '.stage-message p')
      if name == 'old.avi':
        script = 'return [...document.querySelectorAll(".strip img")].filter((i) => i.naturalWidth > 0).length'
        until(lambda script=script: browser.execute_script(script) == 6, 'pictures of the moment')
      press(browser, '\ue00c')
      until(lambda: not find(browser, 'dialog[open]'), 'the end of the dialog')
