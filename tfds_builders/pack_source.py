"""A feature pack in the release's layout as a source of records."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from absl import logging

from tfds_builders.captions import Caption, Moments, read_captions
from tfds_builders.errors import MissingFeaturesError, MissingTeacherError, WrongSizeError
from tfds_builders.hdf5 import Hdf5Captions, Hdf5Frames
from tfds_builders.options import BuildOptions
from tfds_builders.records import Sizes
from tfds_builders.release_layout import locate, open_frames


class PackSource:
  """Reads one video after another from a pack, joined by id and checked.

  All ids are checked when the pack is opened, before anything is written; arrays are checked as
  they are read.
  """

  def __init__(self, manual_dir: pathlib.Path, collection: str, feature: str, options: BuildOptions):
    """Opens a pack.

    Args:
      manual_dir: holds one folder a collection.
      collection: 'tvr', 'activitynet' or 'charades'.
      feature: name of the student features.
      options: see `BuildOptions`.

    Raises:
      PackError: the pack is incomplete or inconsistent; the message names file and id.
    """
    self._options = options
    self._manual_dir = manual_dir
    self._files = locate(manual_dir, collection, feature, options)
    self._splits = {split: read_captions(path) for split, path in self._files.captions.items()}
    self._moments = Moments(self._files.moments)
    self._frames = open_frames(self._files.frames)
    self._tokens = Hdf5Captions(self._files.tokens)
    self._teacher_frames = self._teacher_text = None
    self._taught: list[str] = []
    self._check_student_ids()
    if options.teacher:
      self._teacher_frames = Hdf5Frames(self._files.teacher_frames)
      self._teacher_text = Hdf5Captions(self._files.teacher_text)
      self._taught = [split for split in self._splits if self._check_teacher_ids(split)]
      if not self._taught:
        raise MissingTeacherError(
          f'{self._teacher_frames.path}: no split has teacher features; build with --no_teacher'
        )
    self._warn_of_shared_videos()

  def videos(self) -> dict[str, list[str]]:
    """Returns split → video ids in the order of the caption file."""
    return {split: list(videos) for split, videos in self._splits.items()}

  def sizes(self) -> Sizes:
    """Returns the features a row, read from the first video."""
    split = next(iter(self._taught or self._splits))
    record = self.record(split, next(iter(self._splits[split])))
    teacher = record['teacher_frames'].shape[1] if self._options.teacher else None
    return Sizes(record['student_frames'].shape[1], record['student_tokens'].shape[1], teacher)

  def description(self) -> dict[str, Any]:
    """Returns the folder the pack was read from, and the files used with their sizes in bytes."""
    root = self._manual_dir.resolve()
    return {'manual_dir': str(root), 'files': self._files.sizes(self._manual_dir)}

  def record(self, split: str, video: str) -> dict[str, Any]:
    """Returns one record, features in the type of the files.

    Raises:
      PackError: an array is of wrong size, empty or not finite.
    """
    captions = self._splits[split][video]
    tokens = [self._tokens.read(caption) for caption in captions]
    moments = np.asarray([self._moments.of(caption) for caption in captions], np.float32)
    known = moments[~np.isnan(moments[:, 2]), 2]
    record = {
      'video_id': video,
      'student_frames': self._frames.read(video),
      'student_tokens': np.concatenate(tokens),
      'token_lengths': np.asarray([len(rows) for rows in tokens], np.int32),
      'captions': [caption.text for caption in captions],
      'caption_ids': [caption.caption_id for caption in captions],
      'moments': np.ascontiguousarray(moments[:, :2]),
      'duration': known[0] if known.size else np.float32('nan'),
    }
    if self._options.teacher:
      record |= self._teacher_of(split, video, captions)
    return record

  def _teacher_of(self, split: str, video: str, captions: list[Caption]) -> dict[str, np.ndarray]:
    frames_file, text_file = self._teacher_frames, self._teacher_text
    if split not in self._taught:
      nothing = np.zeros((0, frames_file.dims), np.float16)
      return {'teacher_frames': nothing, 'teacher_text': nothing}
    frames = frames_file.read(video)
    text = np.concatenate([self._sentence_vector(caption) for caption in captions])
    if frames.shape[1] != text.shape[1]:
      raise WrongSizeError(
        f'{text_file.path}: has {text.shape[1]} features a row, but {frames_file.path} has '
        f'{frames.shape[1]}; both must come from one teacher: name them with --teacher_text and '
        '--teacher_frames'
      )
    return {'teacher_frames': frames, 'teacher_text': text}

  def _sentence_vector(self, caption: Caption) -> np.ndarray:
    """Returns the teacher's text feature of a caption, `[1, Dt]`."""
    rows = self._teacher_text.read(caption)
    if len(rows) == 1:
      return rows
    if self._options.pool_teacher_text == 'last':
      return rows[-1:]
    if self._options.pool_teacher_text == 'mean':
      return rows.mean(axis=0, dtype=np.float32, keepdims=True)
    raise WrongSizeError(
      f'{self._teacher_text.path}: caption {caption.caption_id!r} has {len(rows)} rows, expected '
      'one sentence vector. Name another file with --teacher_text, or reduce token sequences to '
      'one row with --pool_teacher_text=last (or mean)'
    )

  def _check_student_ids(self) -> None:
    for split, videos in self._splits.items():
      path = self._files.captions[split]
      for video, captions in videos.items():
        if video not in self._frames:
          raise MissingFeaturesError(
            f'{self._frames.path}: no student features of video {video!r}, which caption '
            f'{captions[0].caption_id!r} of {path} describes; add them or remove its captions'
          )
        for caption in captions:
          if caption not in self._tokens:
            raise MissingFeaturesError(
              f'{self._tokens.path}: no token features of caption {caption.caption_id!r} of '
              f'{path} (looked for {", ".join(caption.spellings())})'
            )

  def _check_teacher_ids(self, split: str) -> bool:
    """Returns whether a split has teacher features; all of its ids or none must."""
    missing: list[str] = []
    found: str | None = None
    for video, captions in self._splits[split].items():
      wanted = [(self._teacher_frames, video, f'video {video!r}')]
      wanted += [(self._teacher_text, each, f'caption {each.caption_id!r}') for each in captions]
      for file, key, name in wanted:
        if key in file:
          found = found or f'{name} is in {file.path}'
        elif not missing:
          missing.append(f'{file.path}: no teacher features of {name}')
      if missing and (found or split == 'train'):
        reason = (
          f'while {found}; a split other than train may lack all of them, but not some'
          if split != 'train'
          else 'training with a teacher needs all of them'
        )
        raise MissingTeacherError(
          f'{missing[0]} (split {split!r}), {reason}. Add them, or build without a teacher with --no_teacher'
        )
    if missing:
      logging.warning(
        'split %r has no teacher features: it is written with 0 teacher rows, and the teacher '
        'alone cannot be evaluated on it',
        split,
      )
    return not missing

  def _warn_of_shared_videos(self) -> None:
    if 'train' not in self._splits:
      return
    for split, videos in self._splits.items():
      shared = [video for video in videos if video in self._splits['train']]
      if split != 'train' and shared:
        logging.warning(
          '%d videos of split %r are in train too (first: %r): its numbers will flatter',
          len(shared),
          split,
          shared[0],
        )
