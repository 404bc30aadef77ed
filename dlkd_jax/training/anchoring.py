"""Fits the anchors of an anchored student before its training, once a run, and hands them to student and batches."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from dlkd_jax import files, multihost
from dlkd_jax.data import transforms
from dlkd_jax.data.batch import PipelineOptions
from dlkd_jax.data.sources import Record, Source, check_trainable, scan_lengths
from dlkd_jax.models import anchors
from dlkd_jax.models.anchors import Corpus
from dlkd_jax.models.students import Student
from dlkd_jax.multihost import log
from dlkd_jax.training import recipe

FILE = 'anchors.npz'


class Fitted(NamedTuple):
  """What was fitted, H filled up to that of the student.

  Attributes:
    arrays: `<branch>/<sentence or frame>/<mean, scale or map>` → float32.
    held_out: `[N, branches·H]` float32, unit vectors of the captions of the training split, record after record,
      predicted without those of their own video.
    weights: of each branch in the fused score.
  """

  arrays: dict[str, np.ndarray]
  held_out: np.ndarray
  weights: tuple[float, ...]


class AnchoredSource(Sequence):
  """Records with `query_anchors`, `[captions, branches·H]`."""

  def __init__(self, source: Source, captions: np.ndarray, held_out: np.ndarray):
    """Takes records, how many captions each has, and the vectors of all captions."""
    self._source, self._parts = source, np.split(held_out, np.cumsum(captions)[:-1])

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Record:
    return {**self._source[index], 'query_anchors': self._parts[index]}


def prepare(
  config: ml_collections.ConfigDict, student: Student, workdir: files.Path, source: Source
) -> tuple[ml_collections.ConfigDict, Source, Fitted | None]:
  """Fits the anchors of a run, or reads those that it began with; for another student there is nothing to do.

  Args:
    config: the configuration.
    student: of the run.
    workdir: where the anchors are kept, for all processes.
    source: the records of the training split.

  Returns:
    The configuration, with weights of the branches where it left them to be found; the records, with `query_anchors`;
    and what was fitted.

  Raises:
    UserError: a video has no frames, captions or features of the teacher.
  """
  if config.model.name != 'anchored':
    return config, source, None
  path = workdir / FILE
  multihost.on_main(lambda: None if path.is_file() else _write(_fit(config, student, source), path))
  with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
    arrays = {name: found[name] for name in found.files}
  held_out, weights = arrays.pop('held_out'), arrays.pop('weights')
  fitted = Fitted(arrays, held_out, tuple(weights.tolist()))
  if not len(config.evaluation.weights):
    config = config.copy_and_resolve_references()
    with config.unlocked():
      config.evaluation.weights = fitted.weights
    config.lock()
  lengths = recipe.lengths_of(config, 'train', source) or scan_lengths(source)
  return config, AnchoredSource(source, lengths.captions, fitted.held_out), fitted


def put(fitted: Fitted | None, params: Any) -> Any:
  """Returns the parameters of a student with what was fitted in them, if anything was."""
  if fitted is None:
    return params
  params = {branch: dict(own) for branch, own in params.items()}
  for name, array in fitted.arrays.items():
    branch, side, field = name.split('/')
    own = params[branch][f'{side}_anchor']
    params[branch][f'{side}_anchor'] = dict(own) | {field: array.astype(own[field].dtype).reshape(own[field].shape)}
  return params


def _write(fitted: Fitted, path: files.Path) -> None:
  content = io.BytesIO()
  np.savez(content, held_out=fitted.held_out, weights=np.asarray(fitted.weights), **fitted.arrays)
  with files.replacing(path) as temporary:
    temporary.write_bytes(content.getvalue())


def _fit(config: ml_collections.ConfigDict, student: Student, source: Source) -> Fitted:
  options = recipe.make_pipeline_options(config, 1, teacher=False)
  taught = recipe.make_pipeline_options(config, 1, teacher=True)
  training = {
    branch: read_corpus(source, taught if branch == 'inheritance' else options) for branch in student.branches
  }
  validation = recipe.open_split(config, 'val')
  with_teacher = read_corpus(validation, taught) if config.loss.teacher else None
  choice = anchors.choose(training, read_corpus(validation, options), student.hidden, with_teacher)
  for branch, settings in choice.settings.items():
    weight = f'weight {choice.weights[branch]:.2f}, {choice.losses[branch]:.3f} nats on validation'
    log(f'anchor {branch}: {settings}, {weight}; {choice.losses["fused"]:.3f} fused')
  if choice.blend:
    weights = ','.join(f'{name}={weight:g}' for name, weight in choice.blend.items())
    nats = f'{choice.losses["blend"]:.3f} nats; the teacher alone {choice.losses["teacher"]:.3f}'
    log(f'a search that has the teacher: --weights={weights} ({nats})')
  arrays, held_out = {}, []
  for branch, anchor in choice.anchors.items():
    fill = lambda x: np.pad(x, ((0, 0), (0, student.hidden - x.shape[1])))  # noqa: E731
    arrays |= {
      f'{branch}/sentence/mean': anchor.sentence_mean,
      f'{branch}/sentence/scale': np.asarray(anchor.sentence_scale),
      f'{branch}/sentence/map': fill(anchor.sentence_map),
      f'{branch}/frame/mean': anchor.frame_mean,
      f'{branch}/frame/map': fill(anchor.frame_map),
    }
    held_out.append(fill(anchors.unit(anchor.held_out)))
  arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
  joined = np.concatenate(held_out, axis=1).astype(np.float32)
  return Fitted(arrays, joined, tuple(choice.weights[branch] for branch in student.branches))


def read_corpus(source: Source, options: PipelineOptions) -> Corpus:
  """Reads a split as a student sees it: frames resampled as in a batch, unit rows, sentences of so many tokens.

  With `options.teacher` the teacher's frames and sentences are read, too, frames brought to a common length.

  Raises:
    UserError: a record lacks what that needs; the message names the video.
  """
  frames, taught, sentences, texts, owners = [], [], [], [], []
  for index in range(len(source)):
    record = source[index]
    check_trainable(record, options)
    rows, most = record['student_frames'], options.max_frames
    if options.teacher:
      rows, teacher = transforms.at_common_length(rows, record['teacher_frames'])
      taught.append(_unit(transforms.resample_frames(teacher, most)))
      texts.append(_unit(transforms.widen(np.asarray(record['teacher_text']))))
    frames.append(_unit(transforms.resample_frames(rows, most)))
    ends = np.cumsum(record['token_lengths'])
    tokens = _unit(transforms.widen(np.asarray(record['student_tokens'])))
    for start, end in zip(ends - record['token_lengths'], ends, strict=True):
      sentences.append(tokens[start : min(end, start + options.max_words)].mean(axis=0))
      owners.append(index)
  return Corpus(
    np.concatenate(frames),
    np.array([len(rows) for rows in frames]),
    anchors.unit(np.stack(sentences)),
    np.array(owners),
    np.concatenate(taught) if taught else None,
    np.concatenate(texts) if texts else None,
  )


def _unit(rows: np.ndarray) -> np.ndarray:
  return transforms.normalize_rows(rows.astype(np.float32, copy=False)).astype(np.float64)
