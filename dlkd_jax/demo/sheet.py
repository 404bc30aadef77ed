"""The contact sheet of the demonstration: queries of the test split, and the frames that a student found for them."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from dlkd_jax.data import transforms
from dlkd_jax.training import recipe, splits
from dlkd_jax.training.checkpoints import read_best
from dlkd_jax.video import contact_sheet, decoding


def write_sheet(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  videos: pathlib.Path,
  path: pathlib.Path,
  queries: int = 5,
  shown: int = 4,
) -> None:
  """Writes a PNG: for each query the best frames of the films that score highest, the right film framed.

  Queries are the first captions of films that lie evenly in the test split: they are not chosen by how they come out.

  Args:
    config: of a finished training.
    workdir: of it.
    videos: folder of the films.
    path: where to.
    queries: rows.
    shown: films a query.

  Raises:
    FileNotFoundError: the training or the data set is absent.
    VideoError: a film cannot be decoded.
  """
  source = splits.open_split(config, 'test')
  records = [source[number] for number in range(len(source))]
  params, _ = read_best(workdir)
  frames = _encoder(config, params, 'encode_frames', config.data.max_frames)
  tokens = _encoder(config, params, 'encode_tokens', config.data.max_words)
  # Longer films would be resampled in training; here each frame keeps its time.
  films = [frames(record['student_frames'][: config.data.max_frames]) for record in records]
  rows = []
  for own in np.linspace(0, len(records) - 1, min(queries, len(records))).astype(int):
    count = min(int(records[own]['token_lengths'][0]), config.data.max_words)
    scores, best = _search(config, films, tokens(records[own]['student_tokens'][:count]))
    order = np.argsort(-scores, kind='stable')
    found = [(records[place], float(records[place]['times'][best[place]]), place == own) for place in order[:shown]]
    cells = [_cell(videos, records[own], *one) for one in found]
    rank = int(np.flatnonzero(order == own)[0]) + 1
    rows.append(
      contact_sheet.SheetRow(f'{_text(records[own]["captions"][0])} (the right film is number {rank})', cells)
    )
  contact_sheet.write(path, rows, heading='Queries, and the frames found', columns=shown, cell_size=(160, 160))


def _cell(videos: pathlib.Path, query: dict[str, Any], record: dict[str, Any], time: float, right: bool):
  """A found frame; where the film is the right one, its label says whether the moment is, too."""
  label = f'{pathlib.Path(_text(record["video_id"])).stem}, {time:.1f} s'
  if right:
    start, end = query['moments'][0]
    label += ': in the moment' if start <= time < end else f': not in {start:.1f} to {end:.1f} s'
  return contact_sheet.SheetCell(_frame_at(videos / _text(record['video_id']), time), label, right)


def _frame_at(path: pathlib.Path, time: float) -> np.ndarray:
  """Decodes the frame that is shown at a time, seconds; the last one before it where the film ends."""
  image = None
  for frame in decoding.sample_frames(path, rate=4):
    if image is None or frame.time <= time + 1e-3:
      image = np.array(frame.image)
    else:
      break
  if image is None:
    raise decoding.VideoError(path, 'has no frame')
  return image


def _encoder(config: ml_collections.ConfigDict, params: Any, method: str, length: int):
  """Returns a function of one sequence, `[n, D]` of at most `length` rows: branch → what the student makes of it."""
  student = recipe.make_student(config)
  encode = jax.jit(lambda rows, mask: student.apply({'params': params}, rows, mask, method=method))

  def apply(rows: np.ndarray) -> dict[str, np.ndarray]:
    rows = transforms.normalize_rows(transforms.widen(rows))
    padded = np.zeros((1, length, rows.shape[1]), np.float32)
    padded[0, : len(rows)] = rows
    encoded = encode(padded, np.arange(length)[None] < len(rows))
    return {
      name: np.asarray(array[0], np.float32)[: len(rows) if array.ndim > 2 else None] for name, array in encoded.items()
    }

  return apply


def _search(config: ml_collections.ConfigDict, films: list, query: dict) -> tuple[np.ndarray, np.ndarray]:
  """Returns of each film the fused score, and the frame that the branches together like best."""
  inheritance = config.evaluation.inheritance_weight
  weights = (
    {'inheritance': inheritance, 'exploration': 1 - inheritance} if len(query) > 1 else dict.fromkeys(query, 1.0)
  )
  scores, best = [], []
  for film in films:
    cosines = {name: _unit(film[name]) @ _unit(query[name][None])[0] for name in weights}
    scores.append(sum(weight * cosines[name].max() for name, weight in weights.items()))
    best.append(int(np.argmax(sum(weight * cosines[name] for name, weight in weights.items()))))
  return np.array(scores), np.array(best)


def _unit(rows: np.ndarray) -> np.ndarray:
  return rows / (np.linalg.norm(rows, axis=-1, keepdims=True) + 1e-12)


def _text(value: str | bytes) -> str:
  """Data sets on disk give texts as bytes."""
  return value.decode('utf-8') if isinstance(value, bytes) else str(value)
