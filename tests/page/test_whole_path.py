"""From an index on disk to a film that plays at the right second: the door, a real gallery, a real browser.

The features of these films are not made from their pictures, so that the test is quick: in one moment of each, the
frames' vector is that of a sentence about it, by the same small CLIP that later reads the visitor's sentence; elsewhere
it is noise. The slow test takes the demonstration, where features come from pictures and students are trained.
"""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from dlkd_jax.gallery import building
from dlkd_jax.gallery.collection import Collection, Knowledge
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.models import clip_files
from dlkd_jax.models.clip import Clip, ClipConfig, ImageConfig, TextConfig, TowerConfig
from dlkd_jax.models.clip_inputs import Preprocess, Tokenizer
from dlkd_jax.video import backbones, work_folder
from dlkd_jax.video.corpus import Caption, Job
from tests.models.clips import word_tokenizer
from tests.page.browser import chromium, complaints, until, view
from tests.paths import repository
from tfds_builders import options
from tfds_builders.custom_prvr import custom_prvr_dataset_builder

RATE = 2


def small_clip(folder: pathlib.Path, sentences: list[str]) -> pathlib.Path:
  """Writes a CLIP of random parameters that tells all words of some sentences apart."""
  words = sorted({word for sentence in sentences for word in sentence.split()})
  tower = TowerConfig(32, 2, 2, 64, 'quick_gelu')
  config = ClipConfig(ImageConfig(tower, 16, 8), TextConfig(tower, len(words) + 3, 20, None), 32)
  shapes = jax.eval_shape(Clip(config).init, jax.random.key(0), np.zeros((1, 16, 16, 3)), np.zeros((1, 20), np.int32))
  random = np.random.default_rng(0)
  params = jax.tree.map(lambda x: random.normal(0.0, 0.4, x.shape).astype(np.float32), shapes['params'])
  clip_files.save_clip(
    clip_files.ClipModel(config, params, Preprocess(16), Tokenizer(word_tokenizer(words), 20)), folder
  )
  return folder


def told_records(data_dir: pathlib.Path, clip: pathlib.Path, films: list, videos: pathlib.Path) -> pathlib.Path:
  """Builds `custom_prvr` of films; the frames of the last moment are what its sentences say, all others noise."""
  words, teacher = backbones.open_text_backbone('words:8'), backbones.open_text_backbone(f'clip:{clip}')
  folder = work_folder.WorkFolder(data_dir / 'custom_prvr_extracted')
  made = {'rate': float(RATE), 'max_side': None, 'student': 'fake:1', 'tokens': words.fingerprint}
  sizes = {'Dv': 6, 'Dq': 8, 'Dt': teacher.sentence_features}
  folder.begin(made | {'teacher': teacher.fingerprint}, sizes, None)
  random = np.random.default_rng(0)
  for film in films:
    said = [caption.text for caption in film.captions]
    vectors, tokens = teacher.sentences(said), words.tokens(said)
    times = np.arange(0, film.segments[-1].end, 1 / RATE, dtype=np.float32)
    frames = random.normal(size=(len(times), teacher.sentence_features)).astype(np.float32)
    segment = film.segments[film.captions[-1].segment]
    inside = (segment.start <= times) & (times < segment.end)
    said_last = vectors[-1] / np.linalg.norm(vectors[-1])
    frames -= np.outer(frames @ said_last, said_last)  # Nothing else is like it by chance.
    frames[inside] = said_last + 0.01 * random.normal(size=(inside.sum(), 32))
    spans = [film.segments[caption.segment] for caption in film.captions]
    captions = tuple(Caption(text, span.start, span.end) for text, span in zip(said, spans, strict=True))
    arrays = {
      'student_frames': random.normal(size=(len(times), 6)).astype(np.float32),
      'times': times,
      'student_tokens': np.concatenate(tokens),
      'token_lengths': np.array([len(rows) for rows in tokens], np.int32),
      'teacher_frames': frames,
      'teacher_text': vectors,
    }
    job = Job(f'{film.name}.mp4', videos / f'{film.name}.mp4', 'test', captions)
    arrays['moments'] = np.array([(c.start, c.end) for c in job.captions], np.float32).reshape(-1, 2)
    seen = types.SimpleNamespace(digest=film.name)  # As of a file that was looked at.
    folder.write(job, seen, arrays, {'duration': str(float(film.seconds)), 'damage': ''})
  builder = custom_prvr_dataset_builder.Builder(
    data_dir=str(data_dir), options=options.BuildOptions(dtype='float32'), extracted=folder.path
  )
  builder.download_and_prepare()
  return data_dir


@pytest.fixture(scope='module')
def world(tmp_path_factory, films, films_folder):
  """A folder with a CLIP, records and an index of the films; `said` are sentences that only one moment has."""
  folder = tmp_path_factory.mktemp('told')
  sentences = [caption.text for film in films for caption in film.captions]
  clip = small_clip(folder / 'clip', sentences)
  data = told_records(folder / 'data', clip, films, films_folder)
  collection = Collection.open(str(data), 'custom_prvr')
  building.build(
    folder / 'index', collection, None, building.IndexSettings(clip=str(clip)), Knowledge.read(str(films_folder), None)
  )
  said = [
    (film, caption.text, film.segments[caption.segment])
    for film in films
    for caption in (film.captions[-1],)  # The last sentence of a film that tells its moment.
    if sentences.count(caption.text) == 1
  ]
  return types.SimpleNamespace(folder=folder, index=folder / 'index', said=said)


@contextlib.contextmanager
def door(*arguments: str, stop: int = signal.SIGTERM):
  """Runs `python -m dlkd_jax.serve` and yields the page's address; sees that it ends well when it is told to."""
  command = [sys.executable, '-m', 'dlkd_jax.serve', '--port=0', *arguments]
  environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
  server = subprocess.Popen(
    command, cwd=repository(), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  try:
    line = server.stdout.readline()
    address = re.match(r'(http://127\.0\.0\.1:\d+/)', line)
    assert address, line + server.stderr.read()
    yield address[1]
    begin = time.monotonic()
    server.send_signal(stop)
    out, errors = server.communicate(timeout=60)
    assert server.returncode == 0 and out == 'stopped\n' and 'Traceback' not in errors, (out, errors)
    assert time.monotonic() - begin < 40
  finally:
    if server.poll() is None:
      server.kill()
      server.wait()
    server.stdout.close()
    server.stderr.close()


def plays(browser):
  """Waits until a video plays and returns the second at which it is."""
  script = "const v = document.querySelector('video'); return v && !v.paused && v.readyState > 2 ? v.currentTime : null"
  until(lambda: browser.execute_script(script) is not None, 'a video that plays')
  return browser.execute_script(script)


def ask(browser, sentence, video):
  """Types a sentence, waits until a video is the first result, and clicks it."""
  field = browser.find_element('id', 'query')
  field.clear()
  field.send_keys(sentence + '\ue007')
  first = lambda: browser.find_element('css selector', '.result:not(.skeleton)')  # noqa: E731
  until(lambda: first().get_attribute('data-id') == video, f'{video} in the first place')
  first().find_element('class name', 'still').click()


def test_sentence_to_film_at_the_right_second(world):
  assert len(world.said) >= 2
  with chromium() as browser, door(f'--index={world.index}') as url:
    view(browser, 1280, 860)
    browser.get(url)
    until(lambda: len(browser.find_elements('css selector', '.examples a')) > 1, 'captions as examples')
    for film, sentence, segment in world.said[:2]:
      ask(browser, sentence, f'{film.name}.mp4')
      second = plays(browser)
      assert segment.start - 1 / RATE <= second < segment.end, (film.name, sentence)
      browser.switch_to.active_element.send_keys('\ue00c')
      until(lambda: not browser.find_elements('css selector', 'dialog[open]'), 'the end of the dialog')
    assert not complaints(browser)
    # The server stops although a film is still being sent.
    browser.find_element('class name', 'still').click()
    plays(browser)


@pytest.mark.slow
def test_ctrl_c_ends_well(world):
  with door(f'--index={world.index}', '--top=3', stop=signal.SIGINT):
    pass


def test_several_threads_may_search(world):
  """What the page does is within what the gallery promises: the same answers alone and together."""
  gallery = Gallery.open(world.index)
  sentences = [sentence for _, sentence, _ in world.said]
  together = gallery.search(sentences, top=2, moments=3)
  for sentence, result in zip(sentences, together, strict=True):
    (alone,) = gallery.search([sentence], top=2, moments=3)
    assert [hit.video_id for hit in alone.hits] == [hit.video_id for hit in result.hits]
    assert alone.hits[0].moments[0].peak == result.hits[0].moments[0].peak


@pytest.fixture(scope='module')
def demonstration(tmp_path_factory):
  """An index of the demonstration's test films: of the one that DLKD_DEMO names, or of the tiny one, made here."""
  from dlkd_jax.demo import demonstration, students
  from dlkd_jax.demo.settings import SIZES
  from dlkd_jax.training import train

  folder = tmp_path_factory.mktemp('demonstration')
  there = pathlib.Path(os.environ.get('DLKD_DEMO') or folder)
  if there == folder:
    demonstration.demonstrate(SIZES['tiny'], folder, until='features')
    config = students.config_of('distilled', 0, SIZES['tiny'], folder / 'data')
    train.train(config, folder / 'students' / 'distilled_0')
  made = {'workdir': 'students/distilled_0', 'data_dir': 'data', 'clip': 'clip', 'videos': 'corpus/videos'}
  arguments = [f'--{name}={there / place}' for name, place in made.items()]
  command = [sys.executable, '-m', 'dlkd_jax.index', 'build', f'--index={folder / "index"}', '--splits=test']
  environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
  subprocess.run([*command, *arguments], cwd=repository(), env=environment, check=True)
  return folder / 'index'


@pytest.mark.slow
def test_newcomer_on_the_index_of_the_demonstration(demonstration):
  """From pictures through trained models to a film that plays at the second which they say.

  Whether that second is the annotated one is up to the models, and those of the tiny demonstration have learned next
  to nothing. So sentences whose film and second are right are tried first, and others where there are none.
  """
  gallery = Gallery.open(demonstration)
  captions = list(gallery.captions.values())
  hits = [result.hits[0] for result in gallery.search([caption.text for caption in captions], top=1, moments=3)]
  both = list(zip(captions, hits, strict=True))
  first = [(caption, hit) for caption, hit in both if hit.video_id == caption.video_id]
  right = [(caption, hit) for caption, hit in first if caption.start <= hit.moments[0].peak < caption.end]
  print(f'{len(captions)} sentences, {len(first)} find their film first, {len(right)} of these the right second')
  with chromium() as browser, door(f'--index={demonstration}') as url:
    view(browser, 1280, 860)
    browser.get(url)
    until(lambda: browser.find_elements('css selector', '.examples a'), 'captions as examples')
    for caption, hit in [*right, *both][:3]:
      ask(browser, caption.text, hit.video_id)
      assert hit.moments[0].start - 0.1 <= plays(browser) < hit.moments[0].end + 3, (caption, hit.moments)
      browser.switch_to.active_element.send_keys('\ue00c')
      until(lambda: not browser.find_elements('css selector', 'dialog[open]'), 'the end of the dialog')
    assert not complaints(browser)
