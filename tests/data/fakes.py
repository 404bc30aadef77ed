"""In-memory records for the tests of the input pipeline."""

from __future__ import annotations

import ast
import pathlib

import h5py
import numpy as np

from dlkd_jax.data.batch import Batch, PipelineOptions
from dlkd_jax.data.packing import make_plan
from dlkd_jax.data.prepared import Prepared
from dlkd_jax.data.sources import Lengths, check_lengths, scan_lengths
from dlkd_jax.data.train_pipeline import Collator
from tests import options as made

STUDENT, TEACHER, TOKEN = 6, 4, 5  # Feature widths.


def record(
  video: str,
  rng: np.random.Generator,
  frames: int = 9,
  teacher_frames: int | None = 9,
  token_lengths: tuple[int, ...] = (3, 4),
  dtype: type = np.float16,
  pixels: int | None = None,
) -> dict:
  """Returns a record of random features; without teacher features where `teacher_frames` is None.

  Where `pixels` is a number, it has a random picture of so many pixels squared for each teacher frame.
  """

  def features(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)

  captions = len(token_lengths)
  made = {
    'video_id': video.encode(),
    'student_frames': features(frames, STUDENT),
    'student_tokens': features(sum(token_lengths), TOKEN),
    'token_lengths': np.array(token_lengths, np.int32),
    'captions': [f'{video} says {k}'.encode() for k in range(captions)],
    'caption_ids': [f'{video}#enc#{k}'.encode() for k in range(captions)],
    'moments': np.stack([np.arange(captions), np.arange(captions) + 0.5], axis=1).astype(np.float32),
    'duration': np.float32(30.0),
  }
  if teacher_frames is not None:
    made['teacher_frames'] = features(teacher_frames, TEACHER)
    made['teacher_text'] = features(captions if teacher_frames else 0, TEACHER)
  if pixels is not None:
    made['teacher_pixels'] = rng.integers(0, 256, (teacher_frames, pixels, pixels, 3), np.uint8)
  return made


def source(
  videos: int, seed: int = 0, teacher: bool = True, dtype: type = np.float16, pixels: int | None = None
) -> list[dict]:
  """Returns records of many lengths: frames and captions around the limits of `options`."""
  rng = np.random.default_rng(seed)
  return [
    record(
      f'v{video:03d}',
      rng,
      frames=int(rng.integers(1, 40)),
      teacher_frames=int(rng.integers(1, 40)) if teacher else None,
      token_lengths=tuple(int(n) for n in rng.integers(1, 9, size=rng.integers(1, 6))),
      dtype=dtype,
      pixels=pixels,
    )
    for video in range(videos)
  ]


def options(**changes) -> PipelineOptions:
  """Returns options that suit `source`: at most 12 frames and 5 words."""
  given = {
    'batch_videos': 8,
    'max_frames': 12,
    'max_words': 5,
    'frame_sizes': (4, 8, 12),
    'word_sizes': (3, 5),
    'row_words': 11,
    'read_threads': 2,
  }
  return made.pipeline_options(**{**given, **changes})


def lengths(rng: np.random.Generator, videos: int, opts: PipelineOptions, most_captions: int = 6) -> Lengths:
  """Returns lengths around the limits of the options, of records that do not exist."""
  captions = rng.integers(1, most_captions + 1, videos)
  student, teacher = (rng.integers(1, 2 * opts.max_frames, videos) for _ in range(2))
  return Lengths(student, teacher, captions, rng.integers(1, 2 * opts.max_words, captions.sum()))


def collate(records: list[dict], opts: PipelineOptions, process_index: int = 0, process_count: int = 1) -> Batch:
  """Returns the part of a process of the batch of all records, by a plan that looked at this batch."""
  found, rows = scan_lengths(records), np.arange(len(records))
  check_lengths(records, found, opts)
  plan = make_plan([rows], found, opts)
  return Collator(Prepared(records, found, opts), plan, process_index, process_count)(rows).check()


def contents(batch: Batch, shards: int, first_shard: int = 0) -> dict[int, dict]:
  """Takes a batch apart as its documentation says: ordinal of a video → its frames and captions, wherever they lie.

  Args:
    batch: a batch, or a process's part of one.
    shards: shares in it.
    first_shard: number of the first of these.
  """
  videos = len(batch.video_mask) // shards
  captions = len(batch.caption_mask) // shards
  found, columns = {}, {}
  for video in np.flatnonzero(batch.video_mask):
    row, at = _place(batch.frame_layout, video, videos, batch.video_ordinals[video])
    rows = batch.teacher_frames if batch.teacher_pixels is None else batch.teacher_pixels
    teacher = None if rows is None else rows[row, at]
    content = {'student': batch.student_frames[row, at], 'teacher': teacher, 'captions': {}}
    found[int(batch.video_ordinals[video])] = columns[first_shard * videos + int(video)] = content
  for caption in np.flatnonzero(batch.caption_mask):
    row, at = _place(batch.token_layout, caption, captions, batch.caption_ordinals[caption])
    text = None if batch.teacher_text is None else batch.teacher_text[caption]
    own = columns[int(batch.labels[caption])]
    assert batch.labels[caption] // videos == first_shard + caption // captions  # on the device of its video
    own['captions'][int(batch.caption_ordinals[caption])] = (batch.student_tokens[row, at], text)
  return found


def _place(layout, sequence: int, a_shard: int, ordinal: int) -> tuple[int, slice]:
  """Returns the row and the positions of a sequence, of which there are so many a shard."""
  shards = len(layout.where) // a_shard
  rows, slots = len(layout.slot) // shards, layout.ordinals.shape[1]
  row, slot = divmod(int(layout.where[sequence]), slots)
  row += sequence // a_shard * rows
  assert layout.ordinals[row, slot] == ordinal
  at = np.flatnonzero(layout.slot[row] == slot)
  assert np.array_equal(at, np.arange(at[0], at[-1] + 1)) and np.array_equal(
    layout.position[row, at], np.arange(len(at))
  )
  return row, slice(at[0], at[-1] + 1)


def read_pack(root: pathlib.Path, collection: str, feature: str, split: str) -> list[dict]:
  """Reads one split of a pack in the authors' layout, in the order of its caption file."""
  folder = root / collection / 'FeatureData' / feature
  rows, width = map(int, (folder / 'shape.txt').read_text().split())
  table = np.fromfile(folder / 'feature.bin', '<f4').reshape(rows, width)
  row_of = {name: row for row, name in enumerate((folder / 'id.txt').read_text().split())}
  frames_of = ast.literal_eval((folder / 'video2frames.txt').read_text())
  texts = root / collection / 'TextData'
  captions: dict[str, list[tuple[str, str]]] = {}
  for line in (texts / f'{collection}{split}.caption.txt').read_text().splitlines():
    caption_id, caption = line.split(' ', 1)
    captions.setdefault(caption_id.split('#')[0], []).append((caption_id, caption))
  with (
    h5py.File(folder.parent / f'new_clip_vit_32_{collection}_vid_features.hdf5') as teacher,
    h5py.File(texts / f'roberta_{collection}_query_feat.hdf5') as token_file,
    h5py.File(texts / f'clip_ViT_B_32_{collection}_query_feat.hdf5') as text_file,
  ):
    records = []
    for video, own in captions.items():
      tokens = [token_file[caption_id][()] for caption_id, _ in own]
      tokens = [array.reshape(-1, array.shape[-1]) for array in tokens]
      text_ids = [i if i in text_file else i.replace('#enc#', '#') for i, _ in own]
      records.append(
        {
          'video_id': video,
          'student_frames': table[[row_of[name] for name in frames_of[video]]],
          'teacher_frames': teacher[video][()].reshape(-1, teacher[video].shape[-1]),
          'student_tokens': np.concatenate(tokens),
          'token_lengths': np.array([len(array) for array in tokens], np.int32),
          'teacher_text': np.concatenate([text_file[i][()].reshape(1, -1) for i in text_ids]),
          'captions': [caption for _, caption in own],
          'caption_ids': [caption_id for caption_id, _ in own],
          'moments': np.full((len(own), 2), np.nan, np.float32),
          'duration': np.float32(np.nan),
        }
      )
  return records
