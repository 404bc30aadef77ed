"""Any sequence of changes and runs, stopped or not, ends with the data set that a simple model of it says."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dlkd_jax.data import sources
from dlkd_jax.video import extraction, work_folder
from tests.paths import repository
from tests.video import films
from tfds_builders import earlier, errors, options
from tfds_builders.custom_prvr import custom_prvr_dataset_builder as custom

NAMES = ('a.mp4', 'b.mp4', 'deep/a.mp4', 'é [1] *.MP4', '-c.mkv.mp4')
SPLITS = ('train', 'val', 'test', 'gallery')
TEXTS = ('a dog', 'a dog', 'two cats', 'ein Fluß, 狗', 'x')
LENGTHS = {'short': 10, 'long': 40, 'other': 25}
BROKEN = 'broken'
RATE = 2


# Extracts once for each line that it is given, in a process of its own, which writes its id.
_WORKER = """
import json, os, pathlib, sys
from dlkd_jax.video import extraction
print('ready', flush=True)
for line in sys.stdin:
  if os.fork() == 0:
    os.write(1, f'{os.getpid()}\\n'.encode())
    options = json.loads(line)
    paths = {name: options[name] and pathlib.Path(options[name]) for name in ('videos', 'data_dir', 'captions')}
    extraction.extract(extraction.Request(**options | paths))
    os._exit(0)
  os.wait()
  os.write(1, b'over\\n')
"""


class Stopped(BaseException):
  """The run ends here, as by Ctrl-C."""


@dataclasses.dataclass(frozen=True)
class Film:
  """What the model knows of a film, or of a record: content, split, and captions with their moments."""

  content: str
  split: str = 'gallery'
  said: tuple[tuple[str, float | None, float | None], ...] = ()


@pytest.fixture(scope='module')
def contents(tmp_path_factory):
  """Content → bytes of a film."""
  folder = tmp_path_factory.mktemp('contents')
  found = {
    name: films.render(folder / f'{name}.mp4', films.steady(count)).read_bytes() for name, count in LENGTHS.items()
  }
  return found | {BROKEN: b'no film at all'}


@pytest.fixture(scope='module')
def alone(contents, tmp_path_factory):
  """Content → frames and times of the film, extracted alone."""
  found = {}
  for name, content in contents.items():
    folder = tmp_path_factory.mktemp('alone')
    (folder / 'films').mkdir()
    (folder / 'films' / 'x.mp4').write_bytes(content)
    request = extraction.Request(folder / 'films', folder / 'data', rate=RATE, settle_seconds=0, dtype='float32')
    if extraction.extract(request).builder is not None:
      (record,) = sources.open_source(folder / 'data', 'custom_prvr', 'gallery')
      found[name] = record['student_frames'], record['times']
  return found


class World:
  """A folder of films, captions and a data set, and the model of them."""

  def __init__(self, folder: pathlib.Path, contents: dict[str, bytes], alone: dict[str, Any], draw: random.Random):
    self.contents, self.alone, self.draw = contents, alone, draw
    self.films, self.data, self.captions = folder / 'films', folder / 'data', folder / 'captions.jsonl'
    self.films.mkdir()
    self.there: dict[str, Film] = {}
    self.packed: dict[str, Film] = {}
    self.once: dict[str, set[Film]] = {name: set() for name in NAMES}  # All that a film has been.
    self.versions: dict[str, str] = {}
    self.dtype = draw.choice(('float16', 'float32'))
    self.log: list[str] = []
    self.killed = False  # What a killed run left goes with the next version.

  # Changes.

  def put(self, name: str, content: str, age: float = 3600):
    path = self.films / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(self.contents[content])
    os.utime(path, (time.time() - age,) * 2)
    self.there[name] = dataclasses.replace(self.there.get(name, Film('')), content=content)

  def change(self):
    name = self.draw.choice(NAMES)
    kind = self.draw.choice(('put', 'put', 'remove', 'say', 'say', 'split', 'damage', 'forget', 'pack'))
    self.log.append(f'{kind} {name}')
    if kind == 'put':
      self.put(name, self.draw.choice((*LENGTHS, BROKEN)))
    elif kind == 'forget':
      self._forget()
    elif kind == 'pack':
      self._pack()
    elif name not in self.there:
      return
    elif kind == 'remove':
      (self.films / name).unlink()
      del self.there[name]
    elif kind == 'damage':
      self._damage(name)
    else:
      film, count = self.there[name], self.draw.randint(0, 3)
      said = tuple((self.draw.choice(TEXTS), *self.draw.choice(((None, None), (0.0, 0.25)))) for _ in range(count))
      split = self.draw.choice(SPLITS) if kind == 'split' else film.split
      said = film.said if kind == 'split' else said
      self.there[name] = Film(film.content, split if said else 'gallery', said)

  def _damage(self, name: str):
    path = work_folder.WorkFolder(self.data / extraction.FOLDER).file(name)
    if not path.exists():
      return
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], 'little')
    kind = self.draw.choice(('gone', 'cut', 'zeros'))
    if kind == 'gone':
      path.unlink()
    else:
      path.write_bytes(
        content[: len(content) // 2] if kind == 'cut' else content[:header] + bytes(len(content) - header)
      )

  def _forget(self):
    """The newest version is removed; that before it counts again."""
    if len(self.versions) > 1:
      newest = custom.newest(self.data)
      shutil.rmtree(newest)
      del self.versions[newest.name]
      self.packed = self.found()

  def _pack(self):
    """What was extracted is packed by hand, into a set of its own, in several files."""
    folder = self.data / extraction.FOLDER
    if not self.versions or not list(folder.glob('videos/*')):
      return
    other = self.data / 'other'
    shutil.rmtree(other, ignore_errors=True)
    asked = options.BuildOptions(dtype=self.dtype, num_shards=self.draw.randint(1, 3))
    try:
      custom.Builder(data_dir=other, options=asked, extracted=folder).download_and_prepare()
    except errors.MalformedFileError:
      self.log.append('a damaged file is refused')
      return
    for name, film in self.found(other).items():
      assert film in self.once[name]

  # Runs.

  def request(self, update: bool) -> extraction.Request:
    lines = [
      {'video': name, 'text': text, 'start': start, 'end': end, 'split': film.split}
      for name, film in self.there.items()
      for text, start, end in film.said
    ]
    self.captions.write_text('\n'.join(map(json.dumps, lines)))
    captions = self.captions if lines else None
    return extraction.Request(self.films, self.data, captions, rate=RATE, readers=1, dtype=self.dtype, update=update)

  def run(self, update: bool):
    """Runs to the end, and checks the report and the set."""
    self.log.append(f'run update={update}: {self.there}')
    if not self.there:
      return
    for name, film in self.there.items():
      self.once[name].add(film)
    result = extraction.extract(self.request(update))
    entries = {}
    for each in result.outcomes.files:
      entries.setdefault(each.video, []).append(each.status)
    expected = dict(self.packed)
    for name, film in self.there.items():
      before = self.packed.get(name)
      if before is not None and before != film and not update:
        status = 'changed'
      elif film.content == BROKEN:
        status = 'failed'
      else:
        expected[name] = film
        status = {'extracted', 'kept'} if before is None else 'kept' if before == film else 'updated'
      assert len(entries[name]) == 1 and entries[name][0] in status, (name, entries[name], status)
    found = self.found()
    for name in found.keys() - expected.keys():  # Features of a run that was stopped, of a film that has gone.
      assert name not in self.there and found[name] in self.once[name] and entries[name] == ['vanished']
      expected[name] = found[name]
    for name in expected.keys() - self.there.keys():
      assert entries[name] == ['vanished']
    for name in entries.keys() - expected.keys() - self.there.keys():  # It has gone, and its features were damaged.
      assert entries[name] == ['failed']
    assert entries.keys() >= expected.keys() | self.there.keys()
    assert found == expected, '\n'.join(self.log)
    self.packed = found
    self.check_versions()

  def stop(self, update: bool, patch: pytest.MonkeyPatch):
    """Runs until a random moment."""
    if not self.there:
      return
    for name, film in self.there.items():
      self.once[name].add(film)
    left = [self.draw.randrange(8)]

    def counted(real):
      def call(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
          raise Stopped
        return real(*args, **kwargs)

      return call

    self.log.append(f'stopped run update={update}, after {left[0]}: {self.there}')
    with patch.context() as now:
      now.setattr(work_folder.WorkFolder, 'write', counted(work_folder.WorkFolder.write))
      now.setattr(earlier, 'link', counted(earlier.link))
      now.setattr(extraction, '_pack', counted(extraction._pack))
      now.setattr(custom.Extracted, 'record', counted(custom.Extracted.record))
      now.setattr(custom.files, 'write_text', counted(custom.files.write_text))
      try:
        extraction.extract(self.request(update))
      except Stopped:
        pass
      else:
        self.packed = self.found()
    assert self.found() == self.packed
    self.check_versions()

  def kill(self, update: bool, worker: subprocess.Popen):
    """Kills a run at a random moment."""
    if not self.there:
      return
    for name, film in self.there.items():
      self.once[name].add(film)
    options = {name: str(x) if isinstance(x, pathlib.Path) else x for name, x in vars(self.request(update)).items()}
    worker.stdin.write(json.dumps(options) + '\n')
    process = int(worker.stdout.readline())
    seconds = self.draw.choice((0.05, 0.2, 0.4, 0.8)) * self.draw.random()
    self.log.append(f'killed run update={update}, after {seconds:.2f} s: {self.there}')
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
      os.kill(process, signal.SIGKILL)
    assert worker.stdout.readline() == 'over\n'
    found = self.found()
    if found != self.packed:  # It came as far as that.
      assert found.keys() >= self.packed.keys()
      for name, film in found.items():
        now = self.there.get(name)
        assert film == now or film == self.packed.get(name) or (now is None and film in self.once[name])
      self.packed = found
    self.killed = True
    self.check_versions(killed=True)

  # Looks.

  def found(self, data: pathlib.Path | None = None) -> dict[str, Film]:
    """Returns what the newest version holds, each record once; its frames are checked."""
    data = data or self.data
    if custom.newest(data) is None:
      return {}
    found = {}
    for split in sources.split_names(data, 'custom_prvr'):
      source = sources.open_source(data, 'custom_prvr', split)
      lengths = sources.open_lengths(data, 'custom_prvr', split)
      scanned = sources.scan_lengths(source)
      for field in ('student', 'teacher', 'captions', 'tokens'):
        np.testing.assert_array_equal(getattr(lengths, field), getattr(scanned, field))
      for record in source:
        name = sources.text(record['video_id'])
        assert name not in found
        moments = [(None, None) if np.isnan(start) else (start, end) for start, end in record['moments'].tolist()]
        texts = sources.texts(record['captions'])
        assert sources.texts(record['caption_ids']) == [f'{name}#{number}' for number in range(len(texts))]
        said = tuple((text, *moment) for text, moment in zip(texts, moments, strict=True))
        found[name] = Film(self._content(record), split, said)
    return found

  def _content(self, record) -> str:
    (content,) = [
      name
      for name, (frames, times) in self.alone.items()
      if len(times) == len(record['times'])
      and np.array_equal(record['student_frames'], frames.astype(self.dtype))
      and np.array_equal(record['times'], times)
    ]
    return content

  def check_versions(self, killed: bool = False):
    """Finished versions never change, and nothing half made lies beside them."""
    root = self.data / 'custom_prvr'
    for folder in earlier.versions(root):
      hashed = hashlib.sha256()
      for path in sorted(folder.iterdir()):
        hashed.update(path.name.encode() + path.read_bytes())
      assert self.versions.setdefault(folder.name, hashed.hexdigest()) == hashed.hexdigest()
    assert self.versions.keys() == {folder.name for folder in earlier.versions(root)}
    if not killed:
      assert not [path for path in self.data.glob('**/*.tmp') if 'incomplete' not in str(path)]
      assert len(list(root.glob('incomplete*'))) <= self.killed


def play(seed: int, folder: pathlib.Path, contents, alone, stop: Callable[[World, bool], None]):
  draw = random.Random(seed)
  world = World(folder, contents, alone, draw)
  for name in NAMES[:3]:
    world.put(name, draw.choice((*LENGTHS,)))
  for turn in range(10):
    for _ in range(draw.randint(0, 5)):
      world.change()
    if not turn or draw.random() < 0.5:
      stop(world, draw.random() < 0.7)
    else:
      world.run(draw.random() < 0.6)
  world.run(True)


@pytest.fixture
def stop(monkeypatch):
  return lambda world, update: world.stop(update, monkeypatch)


@pytest.mark.parametrize('seed', range(3))
def test_sequences(seed, tmp_path, contents, alone, stop):
  play(seed, tmp_path, contents, alone, stop)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(3, 60))
def test_many_sequences(seed, tmp_path, contents, alone, stop):
  play(seed, tmp_path, contents, alone, stop)


@pytest.fixture(scope='module')
def worker():
  environment = dict(os.environ, PYTHONPATH=str(repository()), XLA_FLAGS='', JAX_PLATFORMS='cpu')
  pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'stderr': subprocess.DEVNULL}
  process = subprocess.Popen([sys.executable, '-c', _WORKER], env=environment, text=True, bufsize=1, **pipes)
  assert process.stdout.readline() == 'ready\n'
  yield process
  process.stdin.close()
  process.wait()


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(60, 90))
def test_sequences_with_kills(seed, tmp_path, contents, alone, worker):
  play(seed, tmp_path, contents, alone, lambda world, update: world.kill(update, worker))
