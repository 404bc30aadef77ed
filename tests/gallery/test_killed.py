"""Whatever changes an index may be killed at any moment: the index is whole, and the same call finishes the work."""

import os
import select
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dlkd_jax.gallery import building
from dlkd_jax.gallery.collection import Collection
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.segments import has_codes
from tests.environment import environment
from tests.gallery import worlds

VIDEOS = 150

# Adds once for each line that it is given, in a process of its own, which writes its id and a dot a video.
_ADDER = """
import os, pathlib, sys
from dlkd_jax.gallery import building
from dlkd_jax.gallery.collection import Collection
import tensorflow_datasets
print('ready', flush=True)
for _ in sys.stdin:
  if os.fork() == 0:
    os.write(1, f'{os.getpid()}\\n'.encode())
    collection = Collection.open(sys.argv[2], 'custom_prvr')
    building.add(pathlib.Path(sys.argv[1]), collection, segment_frames=30, step=lambda split: os.write(1, b'.'))
    os.write(1, b'done\\n')
    os._exit(0)
  os.wait()
  os.write(1, b'over\\n')
"""


@pytest.fixture(scope='module')
def large(world, tmp_path_factory):
  """A data set of many more videos than the index of the world, which it holds, too."""
  folder = tmp_path_factory.mktemp('large')
  worlds.data_set(folder, world.clip, 12)
  worlds.data_set(folder, world.clip, 4, 'gallery', first=12)
  worlds.data_set(folder, world.clip, VIDEOS, 'gallery', first=16)
  return folder


def check(index, before, everything):
  """The index is whole and searchable; returns the ids of its videos."""
  IndexFolder.open(index).verify()
  gallery = Gallery.open(index)
  rng = np.random.default_rng(0)
  sizes = gallery.manifest['scorers']
  (result,) = gallery.search_vectors({n: rng.normal(size=(1, size)) for n, size in sizes.items()}, top=1000)
  found = {hit.video_id for hit in result.hits}
  assert before <= found == set(gallery.videos) <= everything, 'something was lost'
  assert len(result.hits) == len(found), 'something is there twice'
  return found


def finish(world, large, index):
  """What the last, undisturbed addition left equals what one undisturbed build makes."""
  collection = Collection.open(str(large), 'custom_prvr')
  everything = {f'v{n:03d}.mp4' for n in range(16 + VIDEOS)}
  assert len(collection) == len(everything)
  assert check(index, everything, everything) == everything
  known = {about['name'] for about in IndexFolder.open(index).manifest['segments']}
  assert {path.name for path in (index / 'segments').iterdir()} == known, 'parts of killed writers are still there'
  one, other = Gallery.open(index), Gallery.open(world.index)
  for video in other.videos:
    (times, rows), (known_times, known_rows) = one.frames(video), other.frames(video)
    np.testing.assert_array_equal(times, known_times)
    for name in rows:
      np.testing.assert_allclose(rows[name], known_rows[name], atol=1e-3)


@pytest.mark.parametrize('kills', [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_additions(world, large, tmp_path, kills):
  index = tmp_path / 'index'
  shutil.copytree(world.index, index)
  everything = {f'v{n:03d}.mp4' for n in range(16 + VIDEOS)}
  rng = np.random.default_rng(0)
  adder = subprocess.Popen(
    [sys.executable, '-c', _ADDER, str(index), str(large)],
    env=environment(),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    bufsize=0,
  )
  try:
    assert adder.stdout.readline() == b'ready\n'
    there, sizes = {f'v{n:03d}.mp4' for n in range(16)}, []
    for _ in range(kills):
      adder.stdin.write(b'go\n')
      pid, dots = int(adder.stdout.readline()), 0
      # Videos that are there take a dot each, and then each that is added.
      wanted = len(there) + int(rng.integers(1, VIDEOS // kills))
      while dots < wanted:
        assert select.select([adder.stdout], [], [], 120)[0], 'nothing happens'
        dots += len(adder.stdout.read(1))
      time.sleep(float(rng.uniform(0, 0.02)))
      os.kill(pid, signal.SIGKILL)
      adder.stdout.readline()
      there = check(index, there, everything)
      sizes.append(len(there))
    print(f'videos after each kill: {sizes}')
    assert 16 < sizes[-1] < len(everything) and len(set(sizes)) >= min(kills, 6) - 1, 'kills hit other than an addition'
    adder.stdin.write(b'go\n')
    adder.stdout.readline()
    assert adder.stdout.readline().endswith(b'done\n')
  finally:
    adder.kill()
    adder.communicate()
  finish(world, large, index)


@pytest.mark.slow
def test_kills_of_the_command(world, large, tmp_path):
  index = tmp_path / 'index'
  shutil.copytree(world.index, index)
  everything = {f'v{n:03d}.mp4' for n in range(16 + VIDEOS)}
  command = [sys.executable, '-m', 'dlkd_jax.index', 'add', f'--index={index}', f'--data_dir={large}']
  command.append('--segment_frames=30')
  rng = np.random.default_rng(1)
  there, sizes = {f'v{n:03d}.mp4' for n in range(16)}, []
  for _ in range(5):
    process = subprocess.Popen(
      command, env=environment(), cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    # Random moments from when it holds the lock: a new segment appears, or 60 ms on average after it.
    known = set((index / 'segments').iterdir())
    while process.poll() is None and not set((index / 'segments').iterdir()) - known:
      time.sleep(0.001)
    time.sleep(float(rng.exponential(0.06)))
    process.kill()
    process.communicate()
    there = check(index, there, everything)
    sizes.append(len(there))
  print(f'videos after each kill: {sizes}')
  assert len(set(sizes)) > 1
  subprocess.run(command, env=environment(), cwd=tmp_path, check=True, capture_output=True)
  finish(world, large, index)


# Changes an index once for each line that it is given, in a process of its own.
_CHANGER = """
import os, pathlib, sys
from dlkd_jax.gallery import acceleration, building
from dlkd_jax.gallery.collection import Collection
import dlkd_jax.gallery.frame_index
import tensorflow_datasets
import numpy, sqlite3
index = pathlib.Path(sys.argv[1])
collection = Collection.open(sys.argv[2], 'custom_prvr')
work = {
  'remove': lambda: building.remove(index, lambda entry: entry.split == 'gallery'),
  'update': lambda: building.add(index, collection, update=True, segment_frames=60),
  'compact': lambda: building.compact(index, 100),
  'accelerate': lambda: acceleration.accelerate(index),
}
print('ready', flush=True)
for line in sys.stdin:
  if os.fork() == 0:
    os.write(1, f'{os.getpid()}\\n'.encode())
    work[line.strip()]()
    os.write(1, b'done\\n')
    os._exit(0)
  os.wait()
  os.write(1, b'over\\n')
"""


class _Changer:
  """Runs one change of an index after another, and kills it."""

  def __init__(self, index, data):
    self._process = subprocess.Popen(
      [sys.executable, '-c', _CHANGER, str(index), str(data)],
      env=environment(),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      bufsize=0,
    )
    assert self._process.stdout.readline() == b'ready\n'

  def run(self, work, seconds=None):
    """Runs a change, to its end or for so many seconds; returns how long it took, or None where it was killed."""
    self._process.stdin.write(f'{work}\n'.encode())
    pid, start = int(self._process.stdout.readline()), time.monotonic()
    ended = select.select([self._process.stdout], [], [], 120 if seconds is None else seconds)[0]
    if not ended:
      assert seconds is not None, 'nothing happens'
      os.kill(pid, signal.SIGKILL)
    said = self._process.stdout.readline()
    took = time.monotonic() - start
    if said == b'done\n':
      self._process.stdout.readline()
      return took
    assert said == b'over\n' and not ended, said
    return None

  def close(self):
    self._process.kill()
    self._process.communicate()


@pytest.fixture(scope='module')
def other(world, tmp_path_factory):
  """The data set of the world, every second video of the test split with other content."""
  folder = tmp_path_factory.mktemp('other')
  for number in range(12):
    worlds.data_set(folder, world.clip, 1, first=number, seed=number % 2)
  worlds.data_set(folder, world.clip, 4, 'gallery', first=12)
  return folder


@pytest.mark.parametrize('work', ['remove', 'update', 'compact', 'accelerate'])
@pytest.mark.parametrize('kills', [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_changes(world, other, tmp_path, work, kills):
  start, index = tmp_path / 'start', tmp_path / 'index'
  building.build(start, world.collection, None, building.IndexSettings(clip=str(world.clip)), segment_frames=30)
  if work == 'compact':
    building.remove(start, lambda entry: entry.video_id in ('v001.mp4', 'v013.mp4'))
  everything = {f'v{n:03d}.mp4' for n in range(16)} - ({'v001.mp4', 'v013.mp4'} if work == 'compact' else set())
  stay = {video for video in everything if video < 'v012.mp4'} if work == 'remove' else everything
  shutil.copytree(start, index)
  changer = _Changer(index, other)
  rng, killed = np.random.default_rng(3), 0
  try:
    took = changer.run(work)
    for _ in range(10 * kills):
      if killed == kills:
        break
      # Over whatever is left of the one before, unless that came to its end.
      if changer.run(work, float(rng.uniform(0, took))) is None:
        killed += 1
        check(index, stay, everything)
      else:
        shutil.rmtree(index)
        shutil.copytree(start, index)
    assert killed == kills
    changer.run(work)
  finally:
    changer.close()
  assert check(index, stay, everything) == stay
  folder = IndexFolder.open(index)
  known = {about['name'] for about in folder.manifest['segments']}
  assert {path.name for path in (index / 'segments').iterdir()} == known, 'parts of killed writers are still there'
  found = Gallery.open(index)
  if work == 'update':
    building.build(
      tmp_path / 'anew', Collection.open(str(other), 'custom_prvr'), None, building.IndexSettings(clip=str(world.clip))
    )
    anew = Gallery.open(tmp_path / 'anew')
    for video in everything:
      np.testing.assert_array_equal(found.frames(video)[1]['teacher'], anew.frames(video)[1]['teacher'])
  if work == 'accelerate':
    assert all(has_codes(about, folder.manifest['scorers']) for about in folder.manifest['segments'])
  if work == 'remove':
    assert set(folder.manifest['forgotten']) == {f'v{n:03d}.mp4' for n in range(12, 16)}
