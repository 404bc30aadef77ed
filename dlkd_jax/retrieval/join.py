"""Joining captions and videos on their ids, and the checks that name the id that is wrong."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np

from dlkd_jax.errors import UserError


def own_columns(caption_ids: Sequence[str], own_ids: Sequence[str], video_ids: Sequence[str]) -> np.ndarray:
  """Looks up each caption's own video among the gallery's.

  Args:
    caption_ids: Q ids, only named in errors.
    own_ids: for each caption the id of its video.
    video_ids: V ids, in the order of the gallery.

  Returns:
    `[Q]` int64 columns.

  Raises:
    UserError: a video id or caption id occurs twice, or a caption's video is absent.
  """
  for what, ids in (('video', video_ids), ('caption', caption_ids)):
    twice = [name for name, count in collections.Counter(ids).items() if count > 1]
    if twice:
      raise UserError(
        f'{len(twice)} {what} ids occur more than once, the first is {twice[0]!r}: every {what} must be '
        'evaluated once; check the split for duplicates'
      )
  column = {name: index for index, name in enumerate(video_ids)}
  absent = [row for row, name in enumerate(own_ids) if name not in column]
  if absent:
    raise UserError(
      f'{len(absent)} captions belong to videos that are not among the {len(video_ids)} of the gallery, '
      f'the first is caption {caption_ids[absent[0]]!r} of video {own_ids[absent[0]]!r}: '
      'take captions and videos of the same split'
    )
  return np.array([column[name] for name in own_ids], np.int64)


def real_ids(ids: Sequence[str], mask: np.ndarray, what: str) -> list[str]:
  """Returns the ids of a block's real rows.

  Raises:
    ValueError: there are more or fewer ids than real rows.
  """
  if len(ids) != int(mask.sum()):
    raise ValueError(f'a block has {int(mask.sum())} real rows but {len(ids)} {what} ids')
  return [str(name) for name in ids]


def require_frames(mask: np.ndarray, real: np.ndarray, ids: Sequence[str], what: str) -> None:
  """Raises UserError naming the first real video `[b]` whose frame mask `[b, L]` is empty."""
  empty = np.flatnonzero(~np.asarray(mask)[real].any(axis=1))
  if empty.size:
    raise UserError(
      f'video {ids[empty[0]]!r} has no {what} frames, so it cannot be scored; '
      + (
        'evaluate without the teacher, or give every video of the split its teacher features'
        if what == 'teacher'
        else 'remove it from the split, or give its features'
      )
    )


def require_finite(first_bad: np.ndarray, scorer: str, caption_ids: Sequence[str], video_ids: Sequence[str]) -> None:
  """Raises UserError naming the first score that is not finite.

  Args:
    first_bad: `[Q]` for each caption the first column whose score is not finite; V or more where all are.
    scorer: whose scores they are.
    caption_ids: of the Q captions.
    video_ids: of the V videos.
  """
  rows = np.flatnonzero(first_bad < len(video_ids))
  if rows.size:
    caption, video = caption_ids[rows[0]], video_ids[first_bad[rows[0]]]
    raise UserError(
      f'the {scorer} score of caption {caption!r} and video {video!r} is not finite: '
      'check their features and the parameters for NaN or infinity'
    )
