"""Whatever happens to folders of films, and wherever an addition is killed: the index equals one built anew."""

import os
import select
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dlkd_jax.gallery import building, film_encoding
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder
from tests.environment import environment
from tests.gallery import worlds
from tests.gallery.film_worlds import add, put, rows

NAMES = ('a.mp4', 'b.mp4', "it's.mp4", 'dir/é.mp4', 'dir/100%_.mp4', 'dir/in/日本.mkv', '-x.mp4')


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
  """A small CLIP that is opened once."""
  with pytest.MonkeyPatch.context() as patch:
    opened, models = {}, film_encoding.Models
    patch.setattr(film_encoding, 'Models', lambda *names: opened.get(names) or opened.setdefault(names, models(*names)))
    yield worlds.clip(tmp_path_factory.mktemp('clip') / 'clip')


def equal(index, anew):
  """Whether two indexes hold the same films, with the same vectors, facts and answers to a filter."""
  IndexFolder.open(index).verify()
  found, expected = rows(index), rows(anew)
  assert found.keys() == expected.keys()
  for video in expected:
    np.testing.assert_array_equal(found[video], expected[video], err_msg=video)
  one, other = Gallery.open(index), Gallery.open(anew)
  for video in expected:
    assert one.videos[video] == other.videos[video]
  for where in (None, 'size >= 1500', 'folder = dir', 'length > 2', 'year = 2001 or title ~ "a"', 'date >= 2020-01-01'):
    ours, theirs = (
      [(hit.video_id, hit.score) for hit in gallery.search(['a red square'], top=99, where=where)[0].hits]
      for gallery in (one, other)
    )
    assert ours == theirs, where
  segments = {about['name'] for about in IndexFolder.open(index).manifest['segments']}
  assert {path.name for path in (index / 'segments').iterdir()} == segments, 'parts of killed writers are still there'
  assert not (index / '.progress.json').exists()


class Machine:
  """Two folders of films to which things happen."""

  def __init__(self, root, clip, seed):
    self.rng, self.root, self.clip, self.next, self.clock = np.random.default_rng(seed), root, clip, 100 * seed, 10**6
    self.folders = (root / 'one', root / 'two')
    self.said, self.described = root / 'said.jsonl', {}
    self.said.write_text('')
    for folder in self.folders:
      put(folder / 'first.mp4', self.seed())
    self.removed = set()
    self.add()

  def seed(self):
    self.next += 1
    return self.next

  def age(self):
    """Every file is a second younger than the one before."""
    self.clock -= 1
    return self.clock

  def films(self):
    return sorted(path for folder in self.folders for path in folder.rglob('*') if path.is_file())

  def film(self):
    return self.films()[int(self.rng.integers(len(self.films())))]

  def place(self):
    free = [folder / name for folder in self.folders for name in NAMES if not (folder / name).exists()]
    path = free[int(self.rng.integers(len(free)))]
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

  def new(self):
    put(self.place(), self.seed(), self.age())

  def change(self):
    put(self.film(), self.seed(), self.age())

  def spare(self):
    """Any film that is not the last one of its folder."""
    own = [[path for path in self.films() if folder in path.parents] for folder in self.folders]
    films = [path for paths in own if len(paths) > 1 for path in paths]
    return films[int(self.rng.integers(len(films)))] if films else None

  def rename(self):
    if film := self.spare():
      film.rename(self.place())

  def copy(self):
    shutil.copy2(self.film(), self.place())

  def delete(self):
    if film := self.spare():
      film.unlink()

  def exchange(self):
    one, other = self.film(), self.film()
    if one != other:
      one.rename(self.root / 'aside')
      other.rename(one)
      (self.root / 'aside').rename(other)

  def touch(self):
    then = time.time() - self.age()
    os.utime(self.film(), (then, then))

  def spoil(self):
    put(self.place(), None, self.age())

  def describe(self):
    name = NAMES[int(self.rng.integers(len(NAMES)))]
    self.described[name] = int(self.rng.integers(2000, 2003))
    self.said.write_text('\n'.join(f'{{"video": "{name}", "year": {year}}}' for name, year in self.described.items()))

  def remove(self):
    name = NAMES[int(self.rng.integers(len(NAMES)))]
    self.removed |= set(building.remove(self.root / 'index', lambda entry: entry.video_id == name))

  def add(self):
    """Brings the index into step, in segments of any size."""
    frames = int(self.rng.choice([1, 4, 1 << 18]))
    options = {'metadata': self.said, 'prune': True, 'again': True, 'segment_frames': frames}
    add(self.root / 'index', *self.folders, clip=str(self.clip), **options)

  def run(self, steps):
    """Lets several things happen, then brings the index into step, and compares."""
    names = ('new', 'new', 'change', 'rename', 'rename', 'copy', 'delete', 'exchange', 'touch', 'spoil', 'describe')
    done = [str(self.rng.choice((*names, 'remove'))) for _ in range(steps)]
    for name in done:
      if name in ('new', 'rename', 'copy', 'spoil') and len(self.films()) >= 2 * len(NAMES):
        continue
      getattr(self, name)()
    self.add()
    shutil.rmtree(self.root / 'anew', ignore_errors=True)
    add(self.root / 'anew', *self.folders, clip=str(self.clip), metadata=self.said)
    self.compare(done)

  def compare(self, done):
    found = Gallery.open(self.root / 'index').videos
    kept = [v for v, entry in found.items() if entry.metadata and v not in self.described]  # They followed a film.
    try:
      if not kept:
        equal(self.root / 'index', self.root / 'anew')
      else:
        assert rows(self.root / 'index').keys() == rows(self.root / 'anew').keys()
    except AssertionError as error:
      raise AssertionError(f'after {done}') from error


@pytest.mark.parametrize('seed', [2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 13))])
def test_sequences(tmp_path, clip, seed):
  machine = Machine(tmp_path, clip, seed)
  for _ in range(6 if seed == 2 else 25):
    machine.run(int(machine.rng.integers(1, 5)))


# Adds once for each line that it is given, in a process of its own, which says so when it has the lock.
_ADDER = """
import os, pathlib, sys
from dlkd_jax.gallery import adding, film_encoding, synchronising
adding._BATCH_SECONDS = adding._SEGMENT_SECONDS = 0.0
index, clip, *folders = sys.argv[1:]
request = synchronising.Request([pathlib.Path(folder) for folder in folders], clip, prune=True, settle_seconds=0.0)
import dlkd_jax.video.reading
print('ready', flush=True)
for _ in sys.stdin:
  if os.fork() == 0:
    os.write(1, f'{os.getpid()}\\n'.encode())
    synchronising.synchronise(pathlib.Path(index), request)
    os.write(1, b'done\\n')
    os._exit(0)
  os.wait()
  os.write(1, b'over\\n')
"""


class Adder:
  """Brings an index into step in processes of their own, which may be killed."""

  def __init__(self, *arguments):
    self._process = subprocess.Popen(
      [sys.executable, '-c', _ADDER, *map(str, arguments)],
      env=environment(),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      bufsize=0,
    )
    assert self._process.stdout.readline() == b'ready\n'

  def run(self, is_time=None):
    """Runs an addition, to its end or until `is_time` says so; returns whether it came to its end."""
    self._process.stdin.write(b'go\n')
    pid, end = int(self._process.stdout.readline()), time.monotonic() + 120
    while not select.select([self._process.stdout], [], [], 0.001)[0]:
      assert time.monotonic() < end, 'nothing happens'
      if is_time is not None and is_time():
        os.kill(pid, signal.SIGKILL)
        break
    if (said := self._process.stdout.readline()) == b'done\n':
      self._process.stdout.readline()
      return True
    assert said == b'over\n'
    return False

  def close(self):
    self._process.kill()
    self._process.communicate()


class Moment:
  """Some seconds after so many changes of an index."""

  def __init__(self, index, changes, seconds):
    self._manifest, self._left, self._seconds, self._since = index / 'manifest.json', changes, seconds, None
    self._before = self._state()

  def _state(self):
    return self._manifest.stat().st_mtime_ns if self._manifest.exists() else 0

  def __call__(self):
    if (now := self._state()) != self._before:
      self._before, self._left = now, self._left - 1
    if self._left <= 0 and self._since is None:
      self._since = time.monotonic()
    return self._since is not None and time.monotonic() > self._since + self._seconds


@pytest.mark.parametrize('kills', [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random(tmp_path, clip, kills):
  rng, index, films = np.random.default_rng(kills), tmp_path / 'index', tmp_path / 'films'
  for number in range(12):
    put(films / f'{number}.mp4', number)
  seeds, last = iter(range(100, 1000)), [0]

  def change():
    for path in rng.permutation(sorted(films.glob('*.mp4')))[:3]:
      put(path, next(seeds))
    names = [films / f'{number}.mp4' for number in rng.permutation(14)]
    there = [path for path in names if path.exists()]
    there[0].rename(next(path for path in names if not path.exists()))
    put(films / 'more' / f'{next(seeds)}.mp4', next(seeds))

  adder, killed = Adder(index, clip, films), 0
  try:
    for attempt in range(10 * kills):
      if killed == kills:
        break
      ended = adder.run(Moment(index, int(rng.integers(0, 6)), float(rng.exponential(0.03))))
      killed += not ended
      if (index / 'manifest.json').exists():
        IndexFolder.open(index).verify()
        last.append(len(Gallery.open(index).videos))
      if ended or attempt % 4 == 1:
        change()
    assert killed == kills
    print(f'films after each attempt: {last}')
    assert adder.run()
  finally:
    adder.close()
  add(tmp_path / 'anew', films, clip=str(clip))
  equal(index, tmp_path / 'anew')
