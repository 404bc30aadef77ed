"""An addition that is killed at any moment leaves a whole index, and the same call finishes it."""

import os
import select
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dlkd_jax.gallery.collection import Collection
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder
from tests.gallery import worlds
from tests.paths import repository

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


def environment():
  return dict(os.environ, PYTHONPATH=str(repository()), XLA_FLAGS='', JAX_PLATFORMS='cpu')


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
