"""Stored forms of frame vectors: errors are bounded by the form, and rows keep their direction and unit norm."""

import numpy as np
import pytest

from dlkd_jax.gallery import quantization, rotation
from dlkd_jax.gallery.quantization import JoinedRows, Rows


@pytest.fixture
def rows():
  return np.random.default_rng(0).standard_normal((300, 48)).astype(np.float32)


def unit(rows):
  return rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 1e-7), ('float16', 2**-11), ('int8', 0.5 / 127)])
def test_stored_rows_are_unit_rows_to_half_a_step(rows, dtype, tolerance):
  stored = quantization.encode(rows, dtype)
  expected = unit(rows)
  decoded = stored.decode()
  assert decoded.dtype == np.float32 and stored.values.dtype == stored.dtype == dtype
  assert len(stored) == 300 and stored.hidden == 48
  found = decoded
  if dtype == 'int8':  # Half a step is that of the rotated row.
    expected, found = rotation.rotate(expected.astype(np.float32)), stored.values * stored.scales[:, None]
  largest = np.abs(expected).max(axis=1, keepdims=True)
  # An int8 row is scaled to unit norm after rounding, which moves it a little more.
  assert np.all(np.abs(found - expected) <= 1.5 * tolerance * largest + 1e-7)
  np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, atol=1e-6 if dtype == 'int8' else 1e-3)


@pytest.mark.parametrize('dtype', quantization.DTYPES)
def test_encoding_forgets_the_length_and_not_the_blocks(rows, dtype, monkeypatch):
  once = quantization.encode(rows, dtype)
  monkeypatch.setattr(quantization, '_BLOCK_ROWS', 7)
  for again in (quantization.encode(rows * 4, dtype), quantization.encode(rows.astype(np.float64) * 0.25, dtype)):
    np.testing.assert_array_equal(again.values, once.values)
  # Encoding what was stored changes nothing: the largest component of a row is an integer of 127.
  np.testing.assert_array_equal(quantization.encode(once.decode(), dtype).values, once.values)


@pytest.mark.parametrize('dtype', quantization.DTYPES)
def test_rows_of_zeros_very_small_and_very_large_ones(dtype):
  rows = np.asarray([[0, 0, 0], [1e-30, 0, 1e-30], [3e38, 0, 3e38], [5, 0, 5]], np.float32)
  decoded = quantization.encode(rows, dtype).decode()
  np.testing.assert_allclose(decoded[1:], [[2**-0.5, 0, 2**-0.5]] * 3, atol=1e-3)
  np.testing.assert_array_equal(decoded[0], 0)


def test_a_component_above_all_others_costs_the_others_little():
  """Rows as CLIP's are, one component far above the rest: products are much nearer than those of plain integers."""
  random = np.random.default_rng(1)
  rows = random.standard_normal((200, 128)) + 15 * (np.arange(128) == 7)
  query = unit(random.standard_normal((1, 128)))
  stored = quantization.encode(rows, 'int8')
  exact = unit(rows) @ query[0]
  products = (stored.values @ quantization.for_products(query.astype(np.float32), 'int8')[0]) * stored.scales
  step = np.abs(unit(rows)).max(axis=1, keepdims=True) / 127
  plain = np.rint(unit(rows) / step) * step @ query[0]
  np.testing.assert_allclose(products, stored.decode() @ query[0], atol=1e-6)
  assert np.abs(products - exact).std() < 0.4 * np.abs(plain - exact).std()


def test_no_rows_are_allowed():
  assert quantization.encode(np.zeros((0, 8), np.float32), 'int8').decode().shape == (0, 8)


def test_parts_of_stored_rows(rows):
  stored = quantization.encode(rows, 'int8')
  np.testing.assert_array_equal(stored[10:20].decode(), stored.decode()[10:20])
  np.testing.assert_array_equal(stored[np.asarray([5, 3])].decode(), stored.decode()[[5, 3]])
  assert np.shares_memory(stored[10:20].values, stored.values)
  assert stored.nbytes == 300 * 48 + 300 * 4


def test_what_cannot_be_stored_is_named(rows):
  with pytest.raises(ValueError, match="'int4'; expected one of float16, int8"):
    quantization.encode(rows, 'int4')
  rows[257, 3] = np.nan
  with pytest.raises(ValueError, match='row 257 is not finite'):
    quantization.encode(rows, 'int8')
  with pytest.raises(ValueError, match='row 257 is not finite'):
    quantization.unit_rows(rows)
  with pytest.raises(ValueError, match=r'rows are float32 \[48\]; expected an array \[n, H\]'):
    quantization.encode(rows[0], 'int8')
  with pytest.raises(ValueError, match='rows are list'):
    quantization.encode([[1.0]], 'int8')
  with pytest.raises(ValueError, match='complex64'):
    quantization.encode(np.zeros((2, 3), np.complex64), 'int8')


def test_stored_arrays_that_do_not_fit_each_other():
  with pytest.raises(ValueError, match='int8 rows without scales'):
    Rows(np.zeros((3, 4), np.int8))
  with pytest.raises(ValueError, match='float16 rows with scales'):
    Rows(np.zeros((3, 4), np.float16), np.ones(3, np.float32))
  with pytest.raises(ValueError, match=r'scales are float32 \[2\]; expected float32 \[3\]'):
    Rows(np.zeros((3, 4), np.int8), np.ones(2, np.float32))
  with pytest.raises(ValueError, match=r'stored rows are int32 \[3, 4\]'):
    Rows(np.zeros((3, 4), np.int32))


def test_joined_rows_are_as_one_array(rows):
  whole = quantization.encode(rows, 'int8')
  joined = JoinedRows([whole[:100], whole[100:101], whole[101:101], whole[101:]])
  assert len(joined) == 300 and joined.hidden == 48 and joined.nbytes == whole.nbytes
  for part in (slice(0, 300), slice(98, 103), slice(100, 101), slice(250, None), slice(7, 7), slice(300, 400)):
    np.testing.assert_array_equal(joined[part].decode(), whole[part].decode())
  starts, ends = np.asarray([5, 90, 100, 200, 0]), np.asarray([9, 100, 101, 300, 2])
  expected = np.concatenate([whole.decode()[a:b] for a, b in zip(starts, ends, strict=True)])
  for given in (joined, whole):
    np.testing.assert_array_equal(given.gather(starts, ends).decode(), expected)
    assert given.gather(starts[:0], ends[:0]).decode().shape == (0, 48)
  with pytest.raises(ValueError, match='the step is 2'):
    joined[::2]


def test_only_alike_rows_are_joined(rows):
  with pytest.raises(ValueError, match=r"parts are \[\('float16', 48\), \('int8', 48\)\]"):
    JoinedRows([quantization.encode(rows, 'int8'), quantization.encode(rows, 'float16')])
  with pytest.raises(ValueError, match='expected one or more'):
    JoinedRows([])
