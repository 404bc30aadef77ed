"""Frame vectors as they are stored: half or a quarter of float32, and the cosines that they give.

float16 keeps a component to about three digits. int8 keeps a rotated row (dlkd_jax/gallery/rotation.py) as integers of
−127 to 127 and one float32 scale, chosen so that the stored row has unit norm: the product with a query, rotated too,
is the cosine of the stored direction.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.gallery.rotation import rotate, rotate_back

DTYPES = ('float16', 'int8')
_LARGEST = 127
# Rows quantised at once: their float32 copies stay in the cache.
_BLOCK_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Rows:
  """Vectors of unit norm in their stored form; the arrays may be memory-mapped.

  Attributes:
    values: `[n, H]` float16 or int8, rotated (float32 is allowed, as the form that nothing was lost in).
    scales: `[n]` float32, what the integers of a row are multiplied by; None unless they are int8.
  """

  values: np.ndarray
  scales: np.ndarray | None = None

  def __post_init__(self):
    """Checks types and shapes; the rows themselves are not read.

    Raises:
      ValueError: they do not fit each other.
    """
    kind, shape = self.dtype, self.values.shape
    if kind not in (*DTYPES, 'float32') or len(shape) != 2:
      raise UserError(f'stored rows are {kind} {list(shape)}; expected {", ".join(DTYPES)} or float32 of shape [n, H].')
    if (self.scales is not None) != (kind == 'int8'):
      raise UserError(f'{kind} rows {"without" if kind == "int8" else "with"} scales; int8 alone has one a row.')
    if self.scales is not None and (self.scales.shape != shape[:1] or self.scales.dtype != np.float32):
      raise UserError(
        f'scales are {self.scales.dtype} {list(self.scales.shape)}; expected float32 [{shape[0]}], one for each row.'
      )

  def __len__(self) -> int:
    return len(self.values)

  def __getitem__(self, key: slice | np.ndarray) -> Rows:
    """Takes some of the rows: a view for a slice, a copy for `[m]` int indexes."""
    return Rows(self.values[key], None if self.scales is None else self.scales[key])

  def gather(self, starts: np.ndarray, ends: np.ndarray) -> Rows:
    """Copies runs of rows, one after another: rows `starts[i]` to `ends[i]`, for each i."""
    runs = [slice(a, b) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    values = np.concatenate([self.values[:0], *(self.values[run] for run in runs)])
    if self.scales is None:
      return Rows(values)
    return Rows(values, np.concatenate([self.scales[:0], *(self.scales[run] for run in runs)]))

  @property
  def hidden(self) -> int:
    """H, the size of a vector."""
    return self.values.shape[1]

  @property
  def dtype(self) -> str:
    """The name of the stored type."""
    return self.values.dtype.name

  @property
  def nbytes(self) -> int:
    """Bytes of the stored form."""
    return self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)

  def decode(self) -> np.ndarray:
    """Returns the rows as `[n, H]` float32, not rotated."""
    rows = self.values.astype(np.float32)
    if self.scales is None:
      return rows
    return rotate_back(rows * self.scales[:, None])


class JoinedRows:
  """Rows of several arrays, numbered through, without copying them."""

  def __init__(self, parts: Sequence[Rows]):
    """Takes one part or more.

    Raises:
      ValueError: there is none, or their sizes or types differ.
    """
    kinds = {(rows.dtype, rows.hidden) for rows in parts}
    if len(kinds) != 1:
      raise UserError(f'parts are {sorted(kinds)}; expected one or more of one type and size.')
    self._parts = list(parts)
    self._starts = np.cumsum([0, *(len(rows) for rows in parts)])

  def __len__(self) -> int:
    return int(self._starts[-1])

  @property
  def hidden(self) -> int:
    """H, the size of a vector."""
    return self._parts[0].hidden

  @property
  def dtype(self) -> str:
    """The name of the stored type."""
    return self._parts[0].dtype

  @property
  def nbytes(self) -> int:
    """Bytes of the stored form."""
    return sum(rows.nbytes for rows in self._parts)

  def __getitem__(self, key: slice) -> Rows:
    """Copies a run of rows, which may span parts."""
    start, end, step = key.indices(len(self))
    if step != 1:
      raise UserError(f'rows are taken one after another, and the step is {step}.')
    inner = self._starts[(self._starts > start) & (self._starts < end)]
    return self.gather(np.asarray([start, *inner]), np.asarray([*inner, max(start, end)]))

  def gather(self, starts: np.ndarray, ends: np.ndarray) -> Rows:
    """Copies runs of rows, one after another; each lies in one part, as the frames of a video do."""
    found = np.minimum(np.searchsorted(self._starts, starts, 'right') - 1, len(self._parts) - 1)
    pieces = []
    for first, last in _equal_runs(found):
      number = int(found[first])
      shift = self._starts[number]
      pieces.append(self._parts[number].gather(starts[first:last] - shift, ends[first:last] - shift))
    if len(pieces) == 1:
      return pieces[0]
    pieces = pieces or [self._parts[0][:0]]
    scales = None if pieces[0].scales is None else np.concatenate([rows.scales for rows in pieces])
    return Rows(np.concatenate([rows.values for rows in pieces]), scales)


def for_products(queries: np.ndarray, dtype: str) -> np.ndarray:
  """Returns `[q, H]` float32 queries as the values of stored rows of that type are multiplied by them."""
  return rotate(queries) if dtype == 'int8' else queries


def _equal_runs(values: np.ndarray) -> list[tuple[int, int]]:
  """Returns where runs of equal values begin and end."""
  borders = np.flatnonzero(np.diff(values)) + 1
  return list(itertools.pairwise([0, *borders.tolist(), len(values)])) if len(values) else []


def encode(rows: np.ndarray, dtype: str) -> Rows:
  """Brings rows to unit norm and to their stored form.

  Args:
    rows: `[n, H]` of any real type. A row of zeros stays one, and has a cosine of 0 with everything.
    dtype: 'float16', 'int8', or 'float32'.

  Raises:
    ValueError: the type is unknown, or `unit_rows` refuses the rows.
  """
  if dtype not in (*DTYPES, 'float32'):
    raise UserError(f'rows cannot be stored as {dtype!r}; expected one of {", ".join(DTYPES)}.')
  check_rows(rows)
  values = np.empty(rows.shape, dtype)
  scales = np.empty(len(rows), np.float32) if dtype == 'int8' else None
  for start in range(0, len(rows), _BLOCK_ROWS):
    part = slice(start, start + _BLOCK_ROWS)
    block = _unit(rows, part)
    if scales is None:
      values[part] = block
    else:
      values[part], scales[part] = _integers(rotate(block))
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
    raise UserError(
      f'{what} are {type(rows).__name__ if kind is None else f"{kind} {list(rows.shape)}"}; expected an array [n, H] '
      'of real numbers.'
    )


def _unit(rows: np.ndarray, part: slice) -> np.ndarray:
  block = rows[part].astype(np.float32)
  finite = np.isfinite(block).all(axis=1)
  if not finite.all():
    bad = part.start + int(np.argmin(finite))
    raise UserError(f'row {bad} is not finite (of {len(rows)}); encode it again, or leave its video out.')
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
