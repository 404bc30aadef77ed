"""The evaluator of a student: compiled once, called with new parameters after every epoch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from dlkd_jax.data.batch import unit_rows
from dlkd_jax.models.student import Student
from dlkd_jax.retrieval.evaluation import (
  CaptionSource,
  Encoders,
  EvaluationOptions,
  EvaluationResult,
  VideoSource,
  evaluate,
)


@functools.lru_cache(maxsize=8)
def encoders_of(student: Student) -> Encoders:
  """Returns the jitted encoders of a student; those of equal students are the same, so they compile once a process."""

  def encode(method: str):
    def apply(params, rows, mask):
      return student.apply({'params': params}, unit_rows(rows), mask, deterministic=True, method=method)

    return jax.jit(apply)

  return Encoders(tokens=encode('encode_tokens'), frames=encode('encode_frames'))


class Evaluator:
  """Holds a student's jitted encoders; parameters are arguments, so only new block shapes compile."""

  def __init__(self, student: Student, options: EvaluationOptions):
    """Takes the module to evaluate and how to do it."""
    self.options, self.encoders = options, encoders_of(student)

  def __call__(
    self,
    params: Any,
    captions: CaptionSource,
    videos: VideoSource,
    num_videos: int,
    should_stop: Callable[[], bool] | None = None,
  ) -> EvaluationResult:
    """Evaluates the parameters on a split; see `evaluate` for arguments, result and errors."""
    return evaluate(params, captions, videos, num_videos, self.encoders, self.options, should_stop)
