"""The typed batch that the input pipeline makes and the train step takes.

One alphabet of sizes everywhere: B videos, Q captions, L frames of a row, W tokens of a row, D features. All arrays are
padded to static shapes and every padded entry is named by a mask, so that no result depends on the padding.
"""

from __future__ import annotations

import chex
import flax.struct

from dlkd_jax.layout import Array, Layout


@flax.struct.dataclass
class Batch:
  """B videos with all of their captions, Q in all, in rows of frames and rows of tokens.

  Every array is split along its first axis over the devices that share the batch. A caption lies on the device of its
  video. On each device real videos come before padded ones, real captions before padded ones, and the captions of a
  video are adjacent.

  Attributes:
    student_frames: `[R, L, Dv]` float32, each real frame divided by its norm; padded ones are 0.
    student_tokens: `[Rw, W, Dq]` float32, each real token divided by its norm; padded ones are 0.
    frames: layout of the videos in the rows of frames: `frames.where` is `[B]`.
    tokens: layout of the captions in the rows of tokens: `tokens.where` is `[Q]`.
    labels: `[Q]` int32, index of the caption's own video among the B of the whole batch, over all devices; 0 for a
      padded caption.
    video_mask: `[B]` bool, true for real videos.
    caption_mask: `[Q]` bool, true for real captions.
    video_ordinals: `[B]` int32, place of a real video in the order of the batch, from 0, over all devices; -1 for a
      padded one. What goes "by position" in a batch, and every random draw, follows it, so that results do not depend
      on how the batch is shared or packed.
    caption_ordinals: `[Q]` int32, the same of captions.
    teacher_frames: `[R, L, Dt]` float32, not normalised, of the same frames as the student's, in the same layout;
      None without a teacher, or where its pixels are there instead.
    teacher_text: `[Q, Dt]` float32, not normalised; None without a teacher.
    teacher_pixels: `[R, L, S·S·3]` uint8 RGB, 0 at padding: what the teacher sees of these frames, for the step to
      encode; the middle picture where several frames were averaged. None where the features are there.
  """

  student_frames: Array
  student_tokens: Array
  frames: Layout
  tokens: Layout
  labels: Array
  video_mask: Array
  caption_mask: Array
  video_ordinals: Array
  caption_ordinals: Array
  teacher_frames: Array | None = None
  teacher_text: Array | None = None
  teacher_pixels: Array | None = None

  def check(self) -> Batch:
    """Returns the batch itself after checking that its shapes agree.

    Raises:
      AssertionError: two arrays disagree on a size; the message names them.
    """
    (b,), (q,) = self.video_mask.shape, self.caption_mask.shape
    chex.assert_shape([self.labels, self.caption_ordinals, self.tokens.where], (q,))
    chex.assert_shape([self.video_ordinals, self.frames.where], (b,))
    for features, layout in ((self.student_frames, self.frames), (self.student_tokens, self.tokens)):
      rows, length, _ = features.shape
      chex.assert_shape([layout.slot, layout.position], (rows, length))
      chex.assert_shape(layout.ordinals, (rows, None))
    if self.teacher_frames is not None:
      chex.assert_shape(self.teacher_frames, (*self.student_frames.shape[:2], None))
      chex.assert_shape(self.teacher_text, (q, self.teacher_frames.shape[-1]))
    if self.teacher_pixels is not None:
      chex.assert_shape(self.teacher_pixels, (*self.student_frames.shape[:2], None))
      chex.assert_shape(self.teacher_text, (q, None))
    return self
