"""What scores the videos of an index for a query: all of them exactly, or the best after a first stage.

A backend is anything with the `scores` of `Backend`. Which one answers is chosen query by query in `Backends`: exact
search wherever it is asked for or cheaper, else candidates from compressed frames, or from an engine that the index
names, whose exact scores are computed from the stored rows.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from jax.sharding import Mesh

from dlkd_jax.gallery import acceleration, exact
from dlkd_jax.gallery.exact import ExactSearch
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.segments import Segment


class Backend(Protocol):
  """Scores the videos of an index; may be asked from several threads."""

  def scores(
    self, queries: Mapping[str, np.ndarray], weights: Mapping[str, float], count: int, allowed: np.ndarray
  ) -> np.ndarray:
    """Returns `[q, V]` float32, the weighted sums of each scorer's largest cosine over the frames of a video.

    What is finite is exact for the stored rows; videos that were left out have -inf, and all that are allowed may only
    be left out for better ones.

    Args:
      queries: scorer → `[q, H]`, of the scorers with a weight.
      weights: scorer → weight.
      count: videos that are scored at least, if there are as many.
      allowed: `[V]` bool, the videos that count; what others get is not looked at.
    """
    ...


class Exact:
  """Scores all videos of some segments."""

  def __init__(self, searches: Sequence[ExactSearch]):
    """Takes the exact search of each segment."""
    self._searches = list(searches)

  def scores(
    self, queries: Mapping[str, np.ndarray], weights: Mapping[str, float], count: int, allowed: np.ndarray
  ) -> np.ndarray:
    """As `Backend.scores`; leaves nothing out."""
    parts = [search.video_scores(queries) for search in self._searches]
    none = np.zeros((len(next(iter(queries.values()))), 0), np.float32)
    return exact.fuse({name: np.concatenate([none, *(p[name] for p in parts)], axis=1) for name in queries}, weights)


class Backends:
  """The backends of an opened index."""

  def __init__(self, folder: IndexFolder, segments: Sequence[Segment], mesh: Mesh | None):
    """Takes an index; nothing is read before the first query.

    Args:
      folder: an index.
      segments: all of it.
      mesh: devices that share the frames in exact search; None: the CPU.
    """
    self._folder, self._segments = folder, [segment for segment in segments if segment.entries]
    self._searches = [ExactSearch(segment.rows, segment.offsets, mesh) for segment in self._segments]
    self._exact = Exact(self._searches)
    self._fast: Backend | None = None
    self._opening = threading.Lock()
    self._ready = acceleration.ready_frames(folder.manifest)

  def scores(
    self,
    queries: Mapping[str, np.ndarray],
    weights: Mapping[str, float],
    count: int,
    allowed: np.ndarray,
    is_exact: bool | None,
  ) -> np.ndarray:
    """Returns the scores of `Backend.scores`.

    Args:
      queries, weights, allowed: as of `Backend.scores`.
      count: videos that are wanted.
      is_exact: True: all videos are scored; False: in two stages; None: whichever costs less. Where so many are wanted
        that a first stage leaves little out, all are scored in any case: that bounds the work of a query.

    Raises:
      UserError: two stages are asked for, and the index is not prepared for them.
    """
    number, asked = acceleration.candidates(count), len(next(iter(queries.values())))
    if is_exact is None:
      is_exact = number is not None and not acceleration.pays(self._ready, len(allowed), number, asked)
    if is_exact or number is None:
      return self._exact.scores(queries, weights, count, allowed)
    with self._opening:
      if self._fast is None:
        self._fast = acceleration.open_stages(self._folder, self._segments, self._searches)
    return self._fast.scores(queries, weights, number, allowed)
