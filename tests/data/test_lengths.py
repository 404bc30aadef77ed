"""Lengths agree with the records, wherever they come from; a damaged file is named."""

import numpy as np
import pytest

from dlkd_jax.data.prepared import Prepared
from dlkd_jax.data.sources import Lengths, open_lengths, open_source, read_lengths, scan_lengths
from tests.data import fakes
from tfds_builders import build

ARRAYS = ('student', 'teacher', 'captions', 'tokens')


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  folder = tmp_path_factory.mktemp('built')
  assert build.main(['synthetic', f'--data_dir={folder}', '--num_train=9', '--num_shards=2']) == 0
  name = next(folder.rglob('features.json')).parent.relative_to(folder)
  return folder, str(name)


def assert_same(ours, theirs):
  for array in ARRAYS:
    np.testing.assert_array_equal(getattr(ours, array), getattr(theirs, array), err_msg=array)


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_a_built_set_has_them(built, split):
  records = open_source(*built, split)
  found = open_lengths(*built, split)
  assert_same(found, scan_lengths(records))
  assert_same(found.first(4), scan_lengths([records[index] for index in range(4)]))
  assert len(found.first(1000)) == len(records)


def test_a_set_without_them_still_opens(built):
  path = built[0] / built[1] / 'lengths-val.npz'
  moved = path.rename(path.with_suffix('.away'))
  assert open_lengths(*built, 'val') is None
  moved.rename(path)


@pytest.mark.parametrize('teacher', [True, False])
def test_what_a_batch_holds_of_them(teacher):
  records = fakes.source(9, teacher=teacher)
  found, opts = scan_lengths(records), fakes.options(teacher=teacher)
  rows = np.array([5, 0, 8, 5])
  for row, frames in zip(rows, found.frames(rows, opts), strict=True):
    counts = [12, len(records[row]['student_frames'])] + ([len(records[row]['teacher_frames'])] if teacher else [])
    assert frames == min(counts)
  words = [min(5, n) for row in rows for n in records[row]['token_lengths'].tolist()]
  assert found.words(rows, opts).tolist() == words
  assert found.words(rows[:0], opts).tolist() == []


def test_a_long_scan_is_announced(monkeypatch, capsys):
  monkeypatch.setattr('dlkd_jax.data.sources._SCAN_NOTICE_SECONDS', -1.0)
  scan_lengths(fakes.source(3))
  out = capsys.readouterr().out
  assert out.count('reading the lengths of 3 records') == 1


def write(path, **changes):
  arrays = {'student': [3, 4], 'teacher': [3, 0], 'captions': [1, 2], 'tokens': [5, 6, 7], **changes}
  np.savez(path, **{name: np.array(value) for name, value in arrays.items() if value is not None})
  return path


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'tokens': None}, 'damaged .*tokens'),
    ({'tokens': [5, 6]}, "'tokens': 2"),
    ({'student': [3, -4]}, 'whole numbers from 0'),
    ({'student': [3.0, 4.0]}, 'float64'),
    ({'teacher': [3]}, "'teacher': 1"),
    ({'captions': np.array([1, None])}, 'allow_pickle'),
    ({'student': [3], 'teacher': [3], 'captions': [3]}, 'describes 1 records; expected 2'),
  ],
)
def test_unfit_files_are_named(tmp_path, changes, message):
  path = write(tmp_path / 'lengths-train.npz', **changes)
  with pytest.raises(ValueError, match=rf'(?s)lengths-train\.npz .*{message}.*build the set again'):
    read_lengths(path, 2)


def test_every_changed_byte_is_found_or_harmless(tmp_path):
  path = write(tmp_path / 'lengths-train.npz')
  good, whole = read_lengths(path, 2), path.read_bytes()
  found = 0
  for at in range(0, len(whole), 3):
    changed = bytearray(whole)
    changed[at] ^= 0x5A
    path.write_bytes(bytes(changed))
    try:
      assert_same(read_lengths(path, 2), good)
    except ValueError as error:
      assert 'lengths-train.npz' in str(error)
      found += 1
  assert found > len(whole) // 6
  for kept in (0, 10, len(whole) // 2, len(whole) - 5):
    path.write_bytes(whole[:kept])
    with pytest.raises(ValueError, match='is damaged'):
      read_lengths(path, 2)


def test_lengths_of_other_records_are_found_when_these_are_read():
  records = fakes.source(8)
  found = scan_lengths(records)
  from dlkd_jax.data.packing import make_plan
  from dlkd_jax.data.train_pipeline import Collator

  opts, rows = fakes.options(), np.arange(8)
  for other in (
    Lengths(found.student + 1, found.teacher, found.captions, found.tokens),
    Lengths(found.student, found.teacher + 1, found.captions, found.tokens),
    Lengths(found.student, found.teacher, found.captions, found.tokens[::-1]),
    Lengths(found.student, found.teacher, found.captions[::-1], found.tokens),
  ):
    with pytest.raises(ValueError, match=r"video 'v00.'.*lengths are of other records"):
      Collator(Prepared(records, other, opts), make_plan([rows], other, opts))(rows)
