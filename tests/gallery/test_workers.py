"""Films read by several workers: the index equals one that a single process made, also where a worker is killed."""

import contextlib
import os
import pathlib
import pickle
import signal
import socket
import sys
import threading
import time
import types

import pytest

from dlkd_jax.gallery import index_folder, workers
from dlkd_jax.gallery.index_folder import IndexFolder, IndexFolderError
from dlkd_jax.gallery.segments import Entry
from dlkd_jax.tools import benchmark_index
from tests.gallery import worlds
from tests.gallery.film_worlds import add, put, rows
from tests.gallery.test_synchronising import equal


class Here:
  """Workers that are this process: each gets and gives what another process would."""

  def __init__(self, where):
    self.parts = int(where)

  def run(self, folder, films, knowledge, wanted):
    for part in workers._parts(wanted, self.parts):
      given = pickle.loads(pickle.dumps((str(folder.path), films.part(part), knowledge)))
      yield pickle.loads(pickle.dumps(workers._encode_part(*given)))


def films(folder, count=5):
  for number in range(count):
    put(folder / f'film{number}.mp4', number)
  put(folder / 'broken.mp4', None)
  (folder / 'film1.srt').write_text('1\n00:00:00,000 --> 00:00:01,000\nhello there\n')
  return folder


def test_parts_are_of_neighbours_and_small():
  assert workers._parts([*'abcdefgh'], 1) == [['a', 'b'], ['c', 'd'], ['e', 'f'], ['g', 'h']]
  assert workers._parts([*'abc'], 8) == [['a'], ['b'], ['c']]
  assert {len(part) for part in workers._parts([str(number) for number in range(10_000)], 2)[:-1]} == {32}


def test_segments_of_workers_make_the_same_index(tmp_path, monkeypatch):
  monkeypatch.setattr('dlkd_jax.gallery.synchronising.Workers', Here)
  folder, clip = films(tmp_path / 'films'), str(worlds.clip(tmp_path / 'clip'))
  index, anew = tmp_path / 'index', tmp_path / 'anew'
  done, alone = add(index, folder, clip=clip, workers='1'), add(anew, folder, clip=clip)
  assert done.addition.added == alone.addition.added == 5 and done.addition.frames == alone.addition.frames
  assert [(each.video, each.status) for each in done.outcomes.files] == [('broken.mp4', 'failed')]
  equal(index, anew)
  assert IndexFolder.open(index).manifest['failed'] == IndexFolder.open(anew).manifest['failed']
  put(folder / 'film3.mp4', 33, age=10**5)
  put(folder / 'new.mp4', 34)
  (folder / 'film0.mp4').unlink()
  (folder / 'film1.mp4').rename(folder / 'renamed.mp4')
  done = add(index, workers='2', prune=True)
  assert (done.addition.added, done.addition.updated, done.addition.pruned) == (1, ['film3.mp4'], ['film0.mp4'])
  equal(index, (add(tmp_path / 'other', folder, clip=clip), tmp_path / 'other')[1])
  assert not (index / 'staging').exists()


def test_a_segment_is_taken_over_whole_or_not(tmp_path):
  benchmark_index.create(tmp_path, 8)
  folder = IndexFolder.open(tmp_path)
  (video,) = (frames[:, :8] for frames in benchmark_index.made_up(20, 0))
  row = {'teacher': benchmark_index.quantization.encode(video, 'float16')}
  staged = folder.staged_segment()
  staged.add(Entry('a.mp4', 'a'), range(len(video)), row)
  about = staged.finish()
  with index_folder.writing(tmp_path):
    taken = folder.adopt(about)
    assert not folder.manifest['segments'] and taken['name'] == '000001'
    folder.commit([taken])
  assert list(rows(tmp_path)) == ['a.mp4']
  for cut in (False, True):  # One that is half written when the next writer comes, and one of another size.
    left = folder.staged_segment()
    left.add(Entry('b.mp4', 'b'), range(len(video)), row)
    about = left.finish()
    if cut:
      os.truncate(tmp_path / 'staging' / about['name'] / 'times.f32', 4)
      with pytest.raises(IndexFolderError, match=r'times\.f32 has 4 bytes'):
        folder.adopt(about)
    (tmp_path / 'staging' / 'mine').mkdir(exist_ok=True)
    with index_folder.writing(tmp_path):
      folder.clear_away()  # Other workers may be writing.
      assert (tmp_path / 'staging' / about['name']).is_dir()
      folder.clear_staging()
    assert [path.name for path in (tmp_path / 'staging').iterdir()] == ['mine']
    with pytest.raises(IndexFolderError, match='is absent: a segment that a worker wrote'):
      folder.adopt(about)


@pytest.mark.parametrize('where', ['0', ''])
def test_numbers_of_workers(where):
  with pytest.raises(ValueError, match='--workers is'):
    workers.Workers(where)


def test_what_is_missing_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'ray', None)
  with pytest.raises(ValueError, match=r'pip install .dlkd_jax\[ray\]'):
    workers.Workers('2')


def test_a_cluster_that_is_not_there_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'ray', types.SimpleNamespace(is_initialized=lambda: False))
  folder, clip = films(tmp_path / 'films', 1), str(worlds.clip(tmp_path / 'clip'))
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]
  with pytest.raises(ValueError, match=rf'--workers=127.0.0.1:{port}: there is no cluster of Ray \(.*refused'):
    add(tmp_path / 'index', folder, clip=clip, workers=f'127.0.0.1:{port}')


@pytest.mark.slow
def test_a_worker_that_is_killed_is_made_up_for(tmp_path):
  """Two workers of a real cluster, one of them killed while it writes."""
  pytest.importorskip('ray', reason="Ray is not installed: pip install 'dlkd_jax[ray]'")
  folder, clip = films(tmp_path / 'films', 10), str(worlds.clip(tmp_path / 'clip'))
  index, killed = tmp_path / 'index', []

  def kill():
    staging = index / 'staging'
    while not killed:
      time.sleep(0.01)
      for descriptors in pathlib.Path('/proc').glob('[0-9]*/fd'):
        with contextlib.suppress(OSError):
          if any(os.readlink(each).startswith(str(staging)) for each in descriptors.iterdir()):
            killed.append(int(descriptors.parent.name))
            os.kill(killed[0], signal.SIGKILL)
            break

  threading.Thread(target=kill, daemon=True).start()
  done = add(index, folder, clip=clip, workers='2')
  assert killed and not os.path.exists(f'/proc/{killed[0]}')
  assert done.addition.added == 10
  equal(index, (add(tmp_path / 'anew', folder, clip=clip), tmp_path / 'anew')[1])
