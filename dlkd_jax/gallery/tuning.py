"""The teacher's share of the score that finds most, measured on captioned videos.

A trained student knows its own collection better than the teacher does, and other collections often worse. How far it
is to be trusted follows from a few captioned videos of the collection that is searched:

  score = (1 − t) · Σ_b w_b · score_b / Σ_b w_b + t · score_teacher

with the index's own weights w of the branches b, and t from 0 to 1.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dlkd_jax import tables
from dlkd_jax.data import sources
from dlkd_jax.errors import UserError
from dlkd_jax.gallery import building, encoding, exact, index_folder, quantization
from dlkd_jax.gallery.collection import Collection
from dlkd_jax.gallery.encoding import TEACHER
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.retrieval.metrics import metrics_from_ranks, rank_fused

SHARES = tuple(round(0.1 * tenth, 1) for tenth in range(11))
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Curve:
  """SumR by the teacher's share.

  Attributes:
    shares: t, in [0, 1].
    sum_r: percent, at most 400, of each.
    weights: of each, scorer → weight.
    best: place of the best; of equal ones the first, which trusts the teacher least.
    captions, videos: that it was measured on.
    origin: data set and split.
  """

  shares: tuple[float, ...]
  sum_r: tuple[float, ...]
  weights: tuple[Mapping[str, float], ...]
  best: int
  captions: int
  videos: int
  origin: str

  def to_json(self) -> dict[str, Any]:
    """Returns the curve as JSON knows values."""
    return dataclasses.asdict(self)


def tune(path: pathlib.Path, collection: Collection, shares: Sequence[float] = SHARES) -> Curve:
  """Measures SumR over the teacher's share on a split, and stores the best weights in an index.

  Frames are scored as the index stores them, in its type.

  Args:
    path: folder of the index.
    collection: one or more splits with captions; need not be in the index.
    shares: of the teacher, to try.

  Raises:
    ValueError: the index has not both student and teacher, or the split has no captions.
    IndexFolderError: the collection's features are others than the index's.
  """
  with index_folder.writing(path):
    folder = IndexFolder.open(path)
    building.check_features(folder, collection)
    branches = [name for name in folder.manifest['scorers'] if name != TEACHER]
    if not branches or TEACHER not in folder.manifest['scorers']:
      raise UserError(
        f'there is nothing to blend in {path}: its scorers are {", ".join(folder.manifest["scorers"])}; a blend needs '
        "the teacher and a student's branches"
      )
    own = {name: folder.manifest['weights'].get(name, 0.0) for name in branches}
    total = sum(own.values())
    own = {name: value / total if total else 1 / len(own) for name, value in own.items()}
    scores, columns = _scores(folder, collection)
    weights = [{name: (1 - t) * w for name, w in own.items()} | {TEACHER: t} for t in shares]
    found = [metrics_from_ranks(rank_fused(scores, each, columns)).sum_r for each in weights]
    best = int(np.argmax(found))
    folder.manifest['weights'] = {name: round(weights[best][name], 6) for name in folder.manifest['scorers']}
    folder.write_manifest()
  videos = scores[TEACHER].shape[1]
  origin = f'{collection.dataset}, {"+".join(collection.splits)}'
  return Curve(tuple(shares), tuple(found), tuple(weights), best, len(columns), videos, origin)


def describe(curve: Curve, index: str) -> str:
  """Returns the curve as a table with bars, and what was stored."""
  low, high = min(curve.sum_r), max(curve.sum_r)
  rows = [['teacher', 'SumR', '']]
  for number, (share, value) in enumerate(zip(curve.shares, curve.sum_r, strict=True)):
    bar = '█' * (1 + round(24 * (value - low) / max(high - low, 1e-9)))
    rows.append([f'{share:.2f}', f'{value:.1f}', bar + (' best' if number == curve.best else '')])
  stored = ', '.join(f'{name} {weight:.2f}' for name, weight in curve.weights[curve.best].items())
  heading = f'{curve.origin}: {curve.captions:,} captions, {curve.videos:,} videos'
  return f'{heading}\n{tables.as_text(rows, left=(2,), rule=False)}\nstored in {index}: {stored}'


def _scores(folder: IndexFolder, collection: Collection) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Returns scorer → `[q, V]` float32, and `[q]` the column of each caption's own video."""
  scorers, student = list(folder.manifest['scorers']), encoding.open_student(folder)
  settings, dtype = folder.manifest['settings'], folder.manifest['dtype']
  stored: dict[str, list[np.ndarray]] = {name: [] for name in scorers}
  queries: dict[str, list[np.ndarray]] = {name: [] for name in scorers}
  columns, lengths = [], []
  records: Iterator[sources.Record] = (record for _, record in collection.records())
  for first in range(0, len(collection), _BATCH):
    some = list(itertools.islice(records, _BATCH))  # No more is in memory at once.
    encoded = encoding.encode_videos(some, scorers, student, settings['long_videos'])
    captions = encoding.encode_captions(some, scorers, student)
    for number, (video, vectors) in enumerate(zip(encoded, captions, strict=True), first):
      lengths.append(len(video.times))
      for name in scorers:
        stored[name].append(video.rows[name])
        if vectors:
          queries[name].append(vectors[name])
      if vectors:
        columns += [number] * len(vectors[scorers[0]])
  if not columns:
    raise UserError(f'{collection.dataset} has no captions in {", ".join(collection.splits)}; name another --split')
  rows = {name: quantization.encode(np.concatenate(parts), dtype) for name, parts in stored.items()}
  offsets = np.cumsum([0, *lengths])
  vectors = {name: np.concatenate(parts) for name, parts in queries.items()}
  return exact.video_scores(rows, offsets, vectors), np.array(columns)
