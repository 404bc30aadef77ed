"""Frame vectors as they are stored: half or a quarter of float32, and the cosines that they give.

float16 keeps a component to about three digits. int8 keeps a row as integers of −127 to 127 and one float32 scale,
chosen so that the stored row has unit norm: a product with it is the cosine of the stored direction.
"""

from __future__ import annotations

import dataclasses

import numpy as np

DTYPES = ('float16', 'int8')
_LARGEST = 127
# Rows quantised at once: their float32 copies stay in the cache.
_BLOCK_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Rows:
  """Vectors of unit norm in their stored form; the arrays may be memory-mapped.

  Attributes:
    values: `[n, H]` float16 or int8 (float32 is allowed, as the form that nothing was lost in).
    scales: `[n]` float32, what the integers of a row are multiplied by; None unless they are int8.
  """

  values: np.ndarray
  scales: np.ndarray | None = None

  def __post_init__(self):
    """Checks types and shapes; the rows themselves are not read.

    Raises:
      ValueError: they do not fit each other.
    """
    kind, shape = self.values.dtype.name, self.values.shape
    if kind not in (*DTYPES, 'float32') or len(shape) != 2:
      raise ValueError(
        f'stored rows are {kind} {list(shape)}; expected {", ".join(DTYPES)} or float32 of shape [n, H].'
      )
    if (self.scales is not None) != (kind == 'int8'):
      raise ValueError(f'{kind} rows {"without" if kind == "int8" else "with"} scales; int8 alone has one a row.')
    if self.scales is not None and (self.scales.shape != shape[:1] or self.scales.dtype != np.float32):
      raise ValueError(
        f'scales are {self.scales.dtype} {list(self.scales.shape)}; expected float32 [{shape[0]}], one for each row.'
      )

  def __len__(self) -> int:
    return len(self.values)

  def __getitem__(self, key: slice | np.ndarray) -> Rows:
    """Takes some of the rows: a view for a slice, a copy for `[m]` int indexes."""
    return Rows(self.values[key], None if self.scales is None else self.scales[key])

  @property
  def hidden(self) -> int:
    """H, the size of a vector."""
    return self.values.shape[1]

  @property
  def nbytes(self) -> int:
    """Bytes of the stored form."""
    return self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)

  def decode(self) -> np.ndarray:
    """Returns the rows as `[n, H]` float32."""
    rows = self.values.astype(np.float32)
    if self.scales is not None:
      rows *= self.scales[:, None]
    return rows


def encode(rows: np.ndarray, dtype: str) -> Rows:
  """Brings rows to unit norm and to their stored form.

  Args:
    rows: `[n, H]` of any real type. A row of zeros stays one, and has a cosine of 0 with everything.
    dtype: 'float16', 'int8', or 'float32'.

  Raises:
    ValueError: the type is unknown, or `unit_rows` refuses the rows.
  """
  if dtype not in (*DTYPES, 'float32'):
    raise ValueError(f'rows cannot be stored as {dtype!r}; expected one of {", ".join(DTYPES)}.')
  check_rows(rows)
  values = np.empty(rows.shape, dtype)
  scales = np.empty(len(rows), np.float32) if dtype == 'int8' else None
  for start in range(0, len(rows), _BLOCK_ROWS):
    part = slice(start, start + _BLOCK_ROWS)
    block = _unit(rows, part)
    if scales is None:
      values[part] = block
    else:
      values[part], scales[part] = _integers(block)
  return Rows(values, scales)


def unit_rows(rows: np.ndarray) -> np.ndarray:
  """Returns rows divided by their norm, as `[n, H]` float32; rows of zeros stay zero.

  Raises:
    ValueError: they are not a matrix of real numbers, or not finite; the message names the first such row.
  """
  check_rows(rows)
  return _unit(rows, slice(0, len(rows)))


def check_rows(rows: np.ndarray, what: str = 'rows') -> None:
  """Checks that vectors are a matrix of real numbers.

  Raises:
    ValueError: they are not.
  """
  kind = getattr(rows, 'dtype', None)
  if kind is None or kind.kind not in 'fiu' or rows.ndim != 2 or not rows.shape[1]:
    raise ValueError(
      f'{what} are {type(rows).__name__ if kind is None else f"{kind} {list(rows.shape)}"}; expected an array [n, H] '
      'of real numbers.'
    )


def _unit(rows: np.ndarray, part: slice) -> np.ndarray:
  block = rows[part].astype(np.float32)
  finite = np.isfinite(block).all(axis=1)
  if not finite.all():
    bad = part.start + int(np.argmin(finite))
    raise ValueError(f'row {bad} is not finite (of {len(rows)}); encode it again, or leave its video out.')
  # The largest component first: the squares of very small or large ones would not be float32 numbers.
  for measure in (lambda x: np.abs(x).max(axis=1), lambda x: np.linalg.norm(x, axis=1)):
    norms = measure(block)
    block /= np.where(norms > 0, norms, 1)[:, None]
  return block


def _integers(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  largest = np.abs(block).max(axis=1, initial=0)
  integers = np.rint(block * (_LARGEST / np.where(largest > 0, largest, 1))[:, None])
  norms = np.linalg.norm(integers, axis=1)
  return integers.astype(np.int8), np.where(norms > 0, 1 / np.where(norms > 0, norms, 1), 0).astype(np.float32)
