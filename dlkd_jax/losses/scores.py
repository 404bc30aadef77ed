"""Scores of one branch as the losses take them: in the text view and in the video view of the batch.

Sizes: B videos, Q captions, L positions of a row of frames; Q_loc and B_loc are those of one device.
"""

from __future__ import annotations

import flax.struct
import jax

from dlkd_jax.similarity.max_over_frames import FrameSimilarity


@flax.struct.dataclass
class BranchScores:
  """Similarities of captions and videos under one branch of the student.

  Attributes:
    text_cosine: `[Q_loc, B]`, own captions × all videos.
    text_dot: `[Q_loc, B]`.
    video_cosine: `[Q, B_loc]`, all captions × own videos.
    video_dot: `[Q, B_loc]`.
    own_curve: `[Q, L]`, cosine of each caption with the row of frames that holds its own video, or None where nothing
      is distilled into the branch. Rows of captions whose video is on another device are not read.
  """

  text_cosine: jax.Array
  text_dot: jax.Array
  video_cosine: jax.Array
  video_dot: jax.Array
  own_curve: jax.Array | None = None


@flax.struct.dataclass
class TeacherScores:
  """Similarities under the teacher; see `BranchScores`."""

  text_dot: jax.Array
  video_dot: jax.Array
  own_curve: jax.Array


def whole_batch_scores(similarity: FrameSimilarity) -> BranchScores:
  """Takes the similarities of a whole batch on one device, where both views are the same."""
  cosine, dot = similarity.cosine, similarity.dot
  return BranchScores(cosine, dot, cosine, dot, similarity.own_curve)


def whole_batch_teacher(similarity: FrameSimilarity) -> TeacherScores:
  """The same for the similarities under the teacher, which have own-video curves."""
  return TeacherScores(similarity.dot, similarity.dot, similarity.own_curve)
