"""The typed batch that the input pipeline makes and the train step takes.

One alphabet of sizes everywhere: B videos, Q captions, L frames, W words, D features. All arrays are padded to
static shapes and every padded row is named by a mask, so that no result depends on the padding.
"""

from __future__ import annotations

from typing import Any

import chex
import flax.struct

Array = Any  # numpy on the host, jax.Array on the device.


@flax.struct.dataclass
class Batch:
  """B videos with all of their captions, Q in all.

  Real videos come before padded ones and real captions before padded ones; the captions of a video are adjacent
  and in the order of the videos.

  Attributes:
    student_frames: `[B, L, Dv]` float32, each real row divided by its norm; padded rows are 0.
    frame_mask: `[B, L]` bool, true at real frames. A padded video has none.
    student_tokens: `[Q, W, Dq]` float32, each real row divided by its norm; padded rows are 0.
    token_mask: `[Q, W]` bool, true at real tokens. A padded caption has none.
    labels: `[Q]` int32, row of the caption's own video in this batch; 0 for a padded caption.
    video_mask: `[B]` bool, true for real videos.
    caption_mask: `[Q]` bool, true for real captions.
    teacher_frames: `[B, L, Dt]` float32, not normalised, of the same frames as the student's (same mask);
      None without a teacher.
    teacher_text: `[Q, Dt]` float32, not normalised; None without a teacher.
  """

  student_frames: Array
  frame_mask: Array
  student_tokens: Array
  token_mask: Array
  labels: Array
  video_mask: Array
  caption_mask: Array
  teacher_frames: Array | None = None
  teacher_text: Array | None = None

  def check(self) -> Batch:
    """Returns the batch itself after checking that its shapes agree.

    Raises:
      AssertionError: two arrays disagree on a size; the message names them.
    """
    b, l, _ = self.student_frames.shape
    q, w, _ = self.student_tokens.shape
    chex.assert_shape(self.frame_mask, (b, l))
    chex.assert_shape(self.token_mask, (q, w))
    chex.assert_shape([self.labels, self.caption_mask], (q,))
    chex.assert_shape(self.video_mask, (b,))
    if self.teacher_frames is not None:
      chex.assert_shape(self.teacher_frames, (b, l, None))
      chex.assert_shape(self.teacher_text, (q, self.teacher_frames.shape[-1]))
    return self
