"""Fits the anchors of an anchored student before its training, once a run, hands them to student and batches, and
decides behind the training what is kept of it, and how the scorers of any student are weighed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from dlkd_jax import config as config_lib
from dlkd_jax import files, multihost
from dlkd_jax.data import sources, transforms
from dlkd_jax.data.sources import Record, Source
from dlkd_jax.data.taught import at_rows, check_taught
from dlkd_jax.errors import UserError
from dlkd_jax.models.anchored import AnchoredStudent
from dlkd_jax.models.anchors import TEACHER as TAUGHT
from dlkd_jax.models.anchors import Corpus
from dlkd_jax.models.students import Student
from dlkd_jax.multihost import log
from dlkd_jax.retrieval.evaluate import EvaluationResult
from dlkd_jax.retrieval.metrics import TEACHER
from dlkd_jax.training import recipe, selection
from dlkd_jax.training.selection import Ranking
from dlkd_jax.vectors import unit

FILE = 'anchors.npz'
FULL_FROM = 5000  # Captions from which a student learns more than a linear turn.


class Fitted(NamedTuple):
  """What was fitted, H filled up to that of the student."""

  arrays: dict[str, np.ndarray]  # `<branch>/<sentence or frame>/<mean, scale or map>` → float32.
  # `[N, branches·H]` float32, unit vectors of the captions of the training split, record after record, predicted
  # without those of their own video; and `[N]` the record of each of these captions.
  held_out: np.ndarray
  owners: np.ndarray
  weights: tuple[float, ...]  # Of each branch in the fused score.
  given: bool = False  # Whether these were asked for, not found.


class AnchoredSource(Sequence):
  """Records with `query_anchors`, `[captions, branches·H]`, of so many captions each."""

  def __init__(self, source: Source, captions: np.ndarray, held_out: np.ndarray):
    self._source, self._parts = source, np.split(held_out, np.cumsum(captions)[:-1])

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Record:
    return {**self._source[index], 'query_anchors': self._parts[index]}


def sized(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the configuration with what an anchored student takes from its data set, where that is left open.

  These are `model.options.residual`, by the number of captions, and `model.options.teacher_features`.
  """
  left = [name for name in ('residual', 'teacher_features') if config.model.options.get(name, 0) in ('auto', None)]
  if not left:
    return config
  plain = recipe.open_split(config, 'train', taught=False)
  lengths = recipe.lengths_of(config, 'train', plain) or sources.scan_lengths(plain)
  found = {'residual': 'full' if len(lengths.tokens) >= FULL_FROM else 'linear', 'teacher_features': 0}
  if any(name.startswith(TAUGHT) for name in config.model.branches):
    found['teacher_features'] = int(np.shape(plain[0].get('teacher_frames', np.zeros((0, 0))))[-1])
  return config_lib.with_values(config, {f'model.options.{name}': found[name] for name in left})


def prepare(
  config: ml_collections.ConfigDict, student: Student, workdir: files.Path, source: Source
) -> tuple[ml_collections.ConfigDict, Source, Fitted | None]:
  """Fits the anchors of a run, or reads those that it began with; for another student there is nothing to do.

  Returns:
    The configuration, with weights of the branches where it left them to be found; the records of the training split,
    with `query_anchors`; and what was fitted.

  Raises:
    UserError: a video has no frames, captions or features of the teacher; there are too few; what was fitted before is
      damaged; or another student has nothing to begin with.
  """
  if not isinstance(student, AnchoredStudent):
    if not config.training.epochs:
      raise UserError('config.training.epochs is 0, expected 1 or more: this student has to learn.')
    return config, source, None
  path = workdir / FILE
  multihost.on_main(lambda: None if path.is_file() else _write(_fit(config, student), path))
  fitted = _read(path)
  if not len(config.evaluation.weights):
    config = config_lib.with_values(config, {'evaluation.weights': fitted.weights})
  captions = np.bincount(fitted.owners, minlength=len(source))
  return config, AnchoredSource(source, captions, fitted.held_out), fitted


def _read(path: files.Path) -> Fitted:
  try:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
      arrays = {name: found[name] for name in found.files}
    held_out, weights, owners, given = (arrays.pop(name) for name in ('held_out', 'weights', 'owners', 'given'))
  except Exception as error:  # Of many kinds: those of zip files, of numpy's headers and of what is absent.
    remedy = 'restore it from a copy, or remove it, and the anchors are fitted again'
    raise UserError(f'{path} is damaged ({error}): {remedy}') from error
  return Fitted(arrays, held_out, owners, tuple(weights.tolist()), bool(given))


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
  rest = {name: value for name, value in fitted._asdict().items() if name != 'arrays'}
  with files.replacing(path) as temporary, temporary.open('wb') as content:
    np.savez(content, **rest, **fitted.arrays)


def _fit(config: ml_collections.ConfigDict, student: AnchoredStudent) -> Fitted:
  taught = any(name != 'exploration' for name in student.branches)
  limits = config.data.max_frames, config.data.max_words
  training, validation = (
    read_corpus(recipe.open_split(config, split, taught=False), *limits, taught) for split in ('train', 'val')
  )
  if len(np.unique(training.owners)) < 2:
    raise UserError('the training split has fewer than 2 videos with captions; there is nothing to fit an anchor on.')
  choice = selection.choose(training, validation, student.branches, student.hidden)
  for branch, settings in choice.settings.items():
    log(f'anchor {branch}: {settings}, weight {choice.weights[branch]:.2f}; alone {choice.losses[branch]:.3f} nats')
  log(f'anchors, {choice.reason}')
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
    held_out.append(fill(unit(anchor.held_out)))
  arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
  joined = np.concatenate(held_out, axis=1).astype(np.float32)
  given = tuple(config.evaluation.weights)
  return Fitted(arrays, joined, training.owners, given or tuple(choice.weights.values()), bool(given))


def read_corpus(source: Source, max_frames: int, max_words: int, taught: bool) -> Corpus:
  """Reads a split as a student sees it: frames resampled as in a batch, unit rows, sentences of so many tokens.

  With `taught` the teacher's frames, brought to the student's number, and sentences are read, too. A video may have no
  captions.

  Raises:
    UserError: a record lacks frames, or features of the teacher; the message names the video.
  """
  frames, taught_frames, sentences, texts, owners = [], [], [], [], []
  for index in range(len(source)):
    record = source[index]
    _check(record, taught)
    rows, lengths = record['student_frames'], np.asarray(record['token_lengths'])
    if taught:
      behind = at_rows(transforms.widen(np.asarray(record['teacher_frames'])), len(rows))
      taught_frames.append(_unit(transforms.resample_frames(behind, max_frames)))
    frames.append(_unit(transforms.resample_frames(rows, max_frames)))
    owners += [index] * len(lengths)
    if not len(lengths):
      continue
    if taught:
      texts.append(_unit(transforms.widen(np.asarray(record['teacher_text']))))
    ends = np.cumsum(lengths)
    tokens = _unit(transforms.widen(np.asarray(record['student_tokens']))).astype(float)
    for start, end in zip(ends - lengths, ends, strict=True):
      sentences.append(tokens[start : min(end, start + max_words)].mean(axis=0))
  return Corpus(
    np.concatenate(frames),
    np.array([len(rows) for rows in frames]),
    unit(np.stack(sentences)) if sentences else np.zeros((0, 1)),
    np.array(owners, int),
    np.concatenate(taught_frames) if taught else None,
    np.concatenate(texts).astype(float) if texts else None,
  )


def _check(record: Record, taught: bool) -> None:
  """Raises UserError, naming the video, where a record lacks what anchors are fitted on."""
  video = sources.text(record['video_id'])
  if len(record['student_frames']) == 0:
    raise UserError(f'video {video!r} has no student frames; leave it out of the data set')
  lengths = record['token_lengths']
  if len(lengths) and np.min(lengths) < 1:
    raise UserError(f'video {video!r} has a caption without tokens; leave the caption out')
  if taught:
    check_taught(record)


def _unit(rows: np.ndarray) -> np.ndarray:
  return transforms.normalize_rows(rows.astype(np.float32, copy=False))


def keep(
  config: ml_collections.ConfigDict,
  workdir: files.Path,
  fitted: Fitted,
  evaluate: Callable[[Any], EvaluationResult],
  *,
  start: Any,
  trained: Any,
) -> tuple[ml_collections.ConfigDict, bool]:
  """Decides on validation what is kept of a training, and by which weights the branches are fused.

  The anchors are, unless the trained student gains on them (`selection.prefer`); weights that are found for it gain on
  those of the anchors where they do for captions that they were not found on.

  `evaluate` makes of parameters a result on validation, with scores; `start` and `trained` are those of step 0 and of
  the best epoch. Returns the configuration, with the weights, which is written to `workdir`, and whether the trained
  parameters are kept.
  """
  branches, refitted = tuple(config.model.branches), 'trained, with weights of its own'
  rankings = {}
  for name, params in (('anchors', start), ('trained', trained)):
    result = evaluate(params)
    rankings[name] = Ranking(result.scores, result.own_columns).parts(2)
  weights = dict(zip((*branches, TEACHER)[: len(fitted.weights)], fitted.weights, strict=True))
  losses = {name: selection.surprise(each, weights) for name, each in rankings.items()}
  if not fitted.given and len(branches) > 1:
    losses[refitted] = selection.cross_fitted(rankings['trained'], branches)
  taken, reason = selection.prefer(losses, selection.videos_of(rankings['trained']))
  log(f'prefer {taken}: {reason}')
  if taken == refitted:
    weights = selection.best_weights(rankings['trained'], branches)
  return _note_weights(config, workdir, weights), taken != 'anchors'


def weigh(
  config: ml_collections.ConfigDict, workdir: files.Path, evaluate: Callable[[Any], EvaluationResult], params: Any
) -> ml_collections.ConfigDict:
  """Finds on validation the weights of the fused score, where a recipe leaves them to be found.

  Those of the training give way to others, and these to a score that the teacher takes part in, only where that gains
  for captions that the weights were not found on (`selection.prefer`).

  `evaluate` makes of parameters, those of the best epoch, a result on validation with scores, the teacher's too where
  validation has its features. Returns the configuration, which is written to `workdir`, with the weights of each
  branch, and of the teacher where it takes part.
  """
  branches, result = tuple(config.model.branches), evaluate(params)
  rankings = Ranking(result.scores, result.own_columns).parts(selection.FOLDS)
  weights = recipe.fused_weights(config)
  found = {'weights found': branches} if len(branches) > 1 else {}
  found |= {'weights found with the teacher': (*branches, TEACHER)} if TEACHER in result.scores else {}
  losses = {'weights of the training': selection.cross_fitted(selection.fused(rankings, weights), [''])}
  losses |= {name: selection.cross_fitted(rankings, scorers) for name, scorers in found.items()}
  taken, reason = selection.prefer(losses, selection.videos_of(rankings))
  if scorers := found.get(taken):
    weights = selection.best_weights(rankings, scorers)
  log(f'{", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())}: prefer {taken}: {reason}')
  return _note_weights(config, workdir, weights)


def _note_weights(
  config: ml_collections.ConfigDict, workdir: files.Path, weights: Mapping[str, float]
) -> ml_collections.ConfigDict:
  config = config_lib.with_values(config, {'evaluation.weights': tuple(weights.values())})
  multihost.on_main(lambda: config_lib.write(config, workdir))
  return config
