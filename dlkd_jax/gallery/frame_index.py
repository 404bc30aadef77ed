"""Frame vectors of one scorer, compressed to four bits for two numbers, and scanned by FAISS.

The file is what FAISS writes, and after it a length and a checksum: a file cut short or changed is refused before FAISS
reads it.
"""

from __future__ import annotations

import contextlib
import pathlib
import struct
import zlib
from collections.abc import Iterator

import faiss
import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.files import replacing
from dlkd_jax.gallery.quantization import JoinedRows, Rows

_BITS = 4
# Rows that the codes are fitted to: FAISS takes 256 for each of 16 codes, and two numbers have no more to teach.
_TRAINING_ROWS = 1 << 14
# Rows decoded and compressed at once.
_BLOCK_ROWS = 1 << 14
_FOOTER = struct.Struct('<8sQI')
_MAGIC = b'dlkdfrms'
_TAIL = struct.Struct('<3i3Q')  # What FAISS writes between the centres and the codes.


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
  """Lets FAISS work in one thread: its many small loops lose more by waiting for each other on a busy machine."""
  threads = faiss.omp_get_max_threads()
  faiss.omp_set_num_threads(1)
  try:
    yield
  finally:
    faiss.omp_set_num_threads(threads)


class FrameIndex:
  """Compressed vectors, numbered as the stored rows that they were made from."""

  def __init__(self, index: faiss.IndexPQFastScan):
    """Takes an index of FAISS; `build` and `load` make one."""
    self._index = index

  @classmethod
  def build(cls, rows: Rows | JoinedRows, seed: int = 0, centres: np.ndarray | None = None) -> FrameIndex:
    """Fits the codes to a sample of the rows and compresses all of them.

    Args:
      rows: stored rows; memory-mapped arrays are read in blocks.
      seed: of the sample.
      centres: of the codes of other rows of the same encoder, which are taken as they are, as `read_centres` returns
        them: to fit them takes longer than to compress some 100,000 rows.

    Raises:
      ValueError: there are no rows.
    """
    if not len(rows):
      raise UserError('there are no rows to build an index of; add videos to the gallery first.')
    index = _empty(rows.hidden)
    if centres is not None:
      faiss.copy_array_to_vector(centres, index.pq.centroids)
      index.is_trained = True
      found = cls(index)
      found.add(rows)
      return found
    index.pq.cp.seed = seed
    index.pq.cp.min_points_per_centroid = 1  # A warning about small galleries, whose exact search is fast anyway.
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:_TRAINING_ROWS])
    sample = rows.gather(chosen, chosen + 1).decode()
    if len(sample) < 1 << _BITS:  # FAISS wants as many rows as codes.
      sample = np.resize(sample, (1 << _BITS, rows.hidden))
    with _one_thread():
      index.train(sample)
    found = cls(index)
    found.add(rows)
    return found

  def __len__(self) -> int:
    return self._index.ntotal

  @property
  def hidden(self) -> int:
    """H, the size of a vector."""
    return self._index.d

  @property
  def nbytes(self) -> int:
    """Bytes of the compressed vectors."""
    return self._index.codes.size()

  def add(self, rows: Rows | JoinedRows) -> None:
    """Compresses more rows, with the codes as they are; they are numbered on from the last.

    Raises:
      ValueError: their size is another.
    """
    if rows.hidden != self.hidden:
      raise UserError(f'rows have {rows.hidden} numbers, and the index {self.hidden}; they are of different encoders.')
    with _one_thread():
      for start in range(0, len(rows), _BLOCK_ROWS):
        self._index.add(rows[start : start + _BLOCK_ROWS].decode())

  def search(self, queries: np.ndarray, count: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of about the largest products with queries.

    Args:
      queries: `[q, H]` float32.
      count: how many rows; no more than there are.
      allowed: not looked at: every vector is scanned in any case.

    Returns:
      `[q, count]` float32 approximate products, largest first, and `[q, count]` int64 rows; of nearly all rows FAISS
      leaves some out that have the least products, and gives -1 in their place.
    """
    if len(queries) > 1:
      return self._index.search(queries, count)
    with _one_thread():
      return self._index.search(queries, count)

  def check(self, rows: int, hidden: int, name: str) -> None:
    """Checks that the index is of the stored rows of a scorer.

    Raises:
      ValueError: it has another number or size of vectors.
    """
    if (len(self), self.hidden) != (rows, hidden):
      raise UserError(
        f'{name} has {len(self)} vectors of {self.hidden}, and the gallery {rows} of {hidden}; '
        'add what is missing, or build it again.'
      )

  def save(self, path: pathlib.Path) -> None:
    """Writes the index; the file appears only when it is whole and on the disk.

    Raises:
      OSError: it cannot be written; what was there is unchanged.
    """
    content = faiss.serialize_index(self._index)
    with replacing(path) as temporary, temporary.open('wb') as file:
      file.write(content)
      file.write(_FOOTER.pack(_MAGIC, len(content), zlib.crc32(content)))

  @classmethod
  def load(cls, path: pathlib.Path, rows: int, hidden: int) -> FrameIndex:
    """Reads an index into memory: FAISS keeps the codes in an order of its own, and maps none of them.

    FAISS is not made for files of strangers: it reads a file only if everything in it but the codes' centres and the
    codes themselves, which may be any numbers, is what `save` would write of such vectors.

    Args:
      path: a file that `save` wrote.
      rows: vectors that it must have.
      hidden: the size that they must have.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not whole, or not of so many vectors or of that size.
    """
    content = np.fromfile(path, np.uint8)
    body, footer = content[: -_FOOTER.size], content[-_FOOTER.size :].tobytes()
    whole = len(footer) == _FOOTER.size and _FOOTER.unpack(footer) == (_MAGIC, len(body), zlib.crc32(body))
    head, centres, tail, codes = _layout(rows, hidden)
    end = len(head) + centres
    expected = end + len(tail) + codes
    if not whole or len(body) != expected or (body[: len(head)].tobytes(), body[end:-codes].tobytes()) != (head, tail):
      raise UserError(
        f'{path} is not a whole index of frames, of {rows} vectors of {hidden}; write it anew with '
        '`dlkd index accelerate`'
      )
    return cls(faiss.deserialize_index(body))


def read_centres(path: pathlib.Path, hidden: int) -> np.ndarray | None:
  """Returns the centres of the codes in a file of `FrameIndex.save`; None where it is of no such vectors."""
  head, size, _, _ = _layout(0, hidden)
  with path.open('rb') as file:
    begun, content = file.read(len(head)), file.read(size)
  centres = np.frombuffer(content, np.float32, count=len(content) // 4)
  # The head differs in the number of vectors alone.
  whole = len(content) == size and begun[:8] == head[:8] and begun[16:] == head[16:]
  return centres if whole and np.isfinite(centres).all() else None


def _empty(hidden: int) -> faiss.IndexPQFastScan:
  """Returns an index for vectors of a size: four bits for two numbers, or for each where they are odd in number."""
  return faiss.IndexPQFastScan(hidden, hidden // 2 if hidden % 2 == 0 else hidden, _BITS, faiss.METRIC_INNER_PRODUCT)


def _layout(rows: int, hidden: int) -> tuple[bytes, int, bytes, int]:
  """Returns what FAISS writes: its head, bytes of the codes' centres, what stands behind them, bytes of the codes."""
  index = _empty(hidden)
  index.is_trained, index.ntotal = True, rows
  index.ntotal2 = -(-rows // index.bbs) * index.bbs
  codes = index.ntotal2 * index.M2 * _BITS // 8
  blank = faiss.serialize_index(index).tobytes()  # The last number in it is that of the codes: none.
  centres = 4 * index.pq.centroids.size()
  end = len(blank) - _TAIL.size
  return blank[: end - centres], centres, blank[end:-8] + struct.pack('<Q', codes), codes
