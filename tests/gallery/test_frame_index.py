"""Compressed frame vectors: near products, growing without rebuilding, and files that are whole or refused."""

import os
import zlib

import faiss
import numpy as np
import pytest

from dlkd_jax.gallery import frame_index, quantization
from dlkd_jax.gallery.frame_index import FrameIndex
from dlkd_jax.gallery.quantization import JoinedRows
from tests.gallery.galleries import queries_near, structured


@pytest.fixture(scope='module')
def rows():
  return structured(videos=60)[0]['inheritance']


@pytest.fixture(scope='module')
def stored(rows):
  return quantization.encode(rows, 'int8')


@pytest.fixture(scope='module')
def index(stored):
  return FrameIndex.build(stored)


def test_products_are_near_and_the_best_frame_is_among_the_first(rows, index):
  queries = queries_near({'inheritance': rows}, 20)['inheritance']
  products = queries @ rows.T
  scores, found = index.search(queries, 10)
  assert scores.shape == found.shape == (20, 10) and np.all(np.diff(scores, axis=1) <= 0)
  np.testing.assert_allclose(scores, np.take_along_axis(products, found, axis=1), atol=0.25 * 3)
  assert np.mean([best in first for best, first in zip(products.argmax(axis=1), found, strict=True)]) >= 0.9


def test_a_number_takes_two_bits(index, rows):
  assert len(index) == len(rows) and index.hidden == 32
  assert len(rows) * 32 / 4 <= index.nbytes <= (len(rows) + 32) * 32 / 4


def test_rows_are_added_without_building_again(stored, monkeypatch):
  monkeypatch.setattr(frame_index, '_BLOCK_ROWS', 100)
  half = FrameIndex.build(stored[:400])
  half.add(stored[400:])
  assert len(half) == len(stored)
  _, found = half.search(stored[500:505].decode(), 20)
  assert all(500 + i in first for i, first in enumerate(found))
  with pytest.raises(ValueError, match='rows have 8 numbers, and the index 32'):
    half.add(quantization.encode(np.ones((2, 8)), 'int8'))


def test_parts_give_the_index_of_the_whole(stored, index, rows):
  joined = FrameIndex.build(JoinedRows([stored[:333], stored[333:]]))
  for mine, other in zip(joined.search(rows[:4], 30), index.search(rows[:4], 30), strict=True):
    np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(('count', 'hidden'), [(1, 4), (3, 6), (40, 5), (40, 7)])
def test_few_rows_and_odd_sizes(tmp_path, count, hidden):
  rows = quantization.encode(np.random.default_rng(0).standard_normal((count, hidden)), 'float16')
  index = FrameIndex.build(rows)
  _, found = index.search(rows.decode()[:1], count)
  index.save(tmp_path / 'frames')
  assert len(FrameIndex.load(tmp_path / 'frames', count, hidden)) == count
  assert len(index) == count and set(found[0]) <= {-1, *range(count)}
  assert count < 40 or found[0, 0] == 0


def test_threads_are_as_before(stored):
  faiss.omp_set_num_threads(2)
  FrameIndex.build(stored)
  assert faiss.omp_get_max_threads() == 2


def test_an_index_is_read_as_it_was_written_and_grows_on(tmp_path, index, stored, rows):
  path = tmp_path / 'frames'
  index.save(path)
  again = FrameIndex.load(path, len(rows), 32)
  for mine, other in zip(again.search(rows[:4], 30), index.search(rows[:4], 30), strict=True):
    np.testing.assert_array_equal(mine, other)
  again.add(stored[:5])
  assert len(again) == len(rows) + 5 and os.listdir(tmp_path) == ['frames']


def test_files_that_are_not_whole_or_of_another_gallery_are_refused(tmp_path, index):
  path = tmp_path / 'frames'
  index.save(path)
  content = path.read_bytes()
  for rows, hidden in ((9, 32), (len(index), 16), (len(index) + 1, 32)):
    with pytest.raises(ValueError, match=rf'{path} is not a whole index of frames, of {rows} vectors of {hidden}; '):
      FrameIndex.load(path, rows, hidden)
  changed = bytearray(content)
  changed[len(content) // 2] ^= 1
  for bad in (content[:-1], content[:1000], content[:5], b'', bytes(changed), content[:-20], b'x' * 4000):
    path.write_bytes(bad)
    with pytest.raises(ValueError, match='is not a whole index of frames'):
      FrameIndex.load(path, len(index), 32)
  with pytest.raises(FileNotFoundError):
    FrameIndex.load(tmp_path / 'none', len(index), 32)


def test_codes_may_be_those_of_other_rows(tmp_path, index, stored, rows):
  index.save(tmp_path / 'frames')
  centres = frame_index.read_centres(tmp_path / 'frames', 32)
  again = FrameIndex.build(stored[300:], centres=centres)
  again.save(tmp_path / 'again')
  _, found = FrameIndex.load(tmp_path / 'again', len(rows) - 300, 32).search(rows[400:404], 20)
  assert all(100 + i in first for i, first in enumerate(found))
  np.testing.assert_array_equal(centres, frame_index.read_centres(tmp_path / 'again', 32))
  assert frame_index.read_centres(tmp_path / 'frames', 16) is None
  (tmp_path / 'frames').write_bytes((tmp_path / 'frames').read_bytes()[:500])
  assert frame_index.read_centres(tmp_path / 'frames', 32) is None


def test_only_centres_and_codes_are_left_to_the_library(tmp_path, index, monkeypatch):
  """A file with a check sum that fits, in which any other number was changed, is not handed to FAISS."""
  path = tmp_path / 'frames'
  index.save(path)
  content = path.read_bytes()[: -frame_index._FOOTER.size]
  centres, codes = 4 * 32 * 16, index.nbytes
  numbers = {*range(len(content) - codes - centres - 36), *range(len(content) - codes - 36, len(content) - codes)}
  assert len(numbers) == 69 + 36
  monkeypatch.setattr(faiss, 'deserialize_index', lambda body: 'read')
  for place in (*sorted(numbers), 69, len(content) - 1):
    changed = bytearray(content)
    changed[place] ^= 0x41
    footer = frame_index._FOOTER.pack(frame_index._MAGIC, len(changed), zlib.crc32(changed))
    path.write_bytes(bytes(changed) + footer)
    if place in numbers:
      with pytest.raises(ValueError, match='is not a whole index of frames'):
        FrameIndex.load(path, len(index), 32)
    else:
      FrameIndex.load(path, len(index), 32)


def test_other_indexes_are_refused(tmp_path):
  FrameIndex(faiss.IndexFlatIP(4)).save(tmp_path / 'flat')
  with pytest.raises(ValueError, match='not a whole index of frames'):
    FrameIndex.load(tmp_path / 'flat', 0, 4)


def test_other_kinds_are_not_handed_to_the_library(tmp_path, monkeypatch):
  FrameIndex(faiss.IndexFlatIP(8)).save(tmp_path / 'other.frames')
  monkeypatch.setattr(faiss, 'deserialize_index', lambda body: pytest.fail('was read'))
  with pytest.raises(ValueError, match='not a whole index of frames'):
    FrameIndex.load(tmp_path / 'other.frames', 0, 8)


def test_a_failed_write_leaves_the_old_file(tmp_path, index, monkeypatch):
  path = tmp_path / 'frames'
  index.save(path)
  before = path.read_bytes()

  def fail(_):
    raise OSError('no room')

  monkeypatch.setattr(os, 'fsync', fail)
  with pytest.raises(OSError, match='no room'):
    index.save(path)
  assert path.read_bytes() == before and os.listdir(tmp_path) == ['frames']


def test_no_rows_are_an_error():
  with pytest.raises(ValueError, match='no rows to build an index of'):
    FrameIndex.build(quantization.encode(np.zeros((0, 4)), 'int8'))
