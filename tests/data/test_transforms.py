"""Row arithmetic against plain loops and golden numbers."""

import itertools

import numpy as np
import pytest

from dlkd_jax.data import transforms
from tests.paths import golden


def looped_resampling(rows, count):
  if len(rows) <= count:
    return rows
  border = [min(int(np.round(i / count * len(rows))), len(rows) - 1) for i in range(count + 1)]
  out = []
  for first, end in itertools.pairwise(border):
    out.append(np.mean([row.astype(np.float64) for row in rows[first : max(end, first + 1)]], axis=0))
  return np.array(out)


@pytest.mark.parametrize('rows', [1, 2, 7, 8, 9, 12, 13, 20, 31, 64, 129, 1000])
@pytest.mark.parametrize('count', [1, 3, 8, 12])
@pytest.mark.parametrize('dtype', [np.float16, np.float32])
def test_resampling_agrees_with_a_loop(rows, count, dtype):
  given = np.random.default_rng(rows).standard_normal((rows, 5)).astype(dtype)
  before = given.copy()
  found = transforms.resample_frames(given, count)
  assert found.shape == (min(rows, count), 5) and found.dtype == np.float32
  np.testing.assert_allclose(found, looped_resampling(given, count), atol=2e-6)
  np.testing.assert_array_equal(given, before)


def test_resampling_is_that_of_the_authors_program():
  numbers = np.load(golden('sampling.npz'), allow_pickle=False)
  cases = [key.removesuffix('/in') for key in numbers.files if key.startswith('sampling/') and key.endswith('/in')]
  assert cases
  for case in cases:
    found = transforms.resample_frames(numbers[f'{case}/in'], int(case.rsplit('_', 1)[1]))
    np.testing.assert_array_equal(found, numbers[f'{case}/out'], err_msg=case)


def test_the_interval_that_the_clamp_empties_takes_the_last_row():
  starts, sizes = transforms.time_intervals(129, 128)
  assert starts[-1] == 128 and sizes[-1] == 1


def test_resampling_writes_where_it_is_told():
  rows = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float16)
  room = np.zeros((10, 4), np.float32)
  returned = transforms.resample_frames(rows, 8, room[:8])
  assert np.shares_memory(returned, room)
  np.testing.assert_array_equal(room[:8], transforms.resample_frames(rows, 8))
  assert not room[8:].any()


def test_normalised_rows_are_those_of_the_authors_program():
  numbers = np.load(golden('sampling.npz'), allow_pickle=False)
  np.testing.assert_allclose(transforms.normalize_rows(numbers['l2norm/in']), numbers['l2norm/out'], rtol=3e-7)


def test_normalising_agrees_with_a_loop_and_leaves_zeros():
  rows = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
  rows[2] = 0
  expected = [row / (np.sqrt(np.sum(row.astype(np.float64) ** 2)) + 1e-5) for row in rows]
  np.testing.assert_allclose(transforms.normalize_rows(rows), expected, rtol=1e-6)
  in_place = rows.copy()
  assert transforms.normalize_rows(in_place, in_place) is in_place
  np.testing.assert_array_equal(in_place, transforms.normalize_rows(rows))


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_widening_takes_other_types_and_slices(dtype):
  rows = np.random.default_rng(0).standard_normal((6, 8)).astype(dtype)
  np.testing.assert_array_equal(transforms.widen(rows), rows.astype(np.float32))
  halves = rows.astype(np.float16)
  np.testing.assert_array_equal(transforms.widen(halves[::2, 1::3]), halves[::2, 1::3].astype(np.float32))
  room = np.zeros((6, 10), np.float32)
  transforms.widen(halves, room[:, :8])
  np.testing.assert_array_equal(room[:, :8], halves.astype(np.float32))


def test_empty_rows_stay_empty():
  empty = np.zeros((0, 4), np.float16)
  assert transforms.resample_frames(empty, 8).shape == (0, 4)
  assert transforms.normalize_rows(transforms.widen(empty)).shape == (0, 4)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 1e30])
def test_rows_that_cannot_be_normalised_are_refused(value):
  rows = np.ones((5, 4), np.float32)
  transforms.check_finite(rows)
  rows[3, 2] = value
  with pytest.raises(transforms.NonFiniteError, match='rows hold NaN'):
    transforms.normalize_rows(rows)


def test_every_float16_is_finite_or_found():
  every = np.arange(65536, dtype=np.uint16).view(np.float16)
  for bits in every[None].T:
    if np.isfinite(bits).all():
      transforms.check_finite(bits[None])
    else:
      with pytest.raises(transforms.NonFiniteError):
        transforms.check_finite(bits[None])
  transforms.check_finite(every[np.isfinite(every)][None, ::3])
  transforms.check_finite(every[:0][None])
