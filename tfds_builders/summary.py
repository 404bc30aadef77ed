"""A built data set in a few lines."""

from __future__ import annotations

import tensorflow_datasets as tfds


def describe(builder: tfds.core.DatasetBuilder) -> str:
  """Returns sizes, splits and how to open a built set, for a terminal."""
  metadata = dict(builder.info.metadata.items())
  sizes = metadata['sizes']
  teacher = f'Dt {sizes["Dt"]}' if sizes['Dt'] is not None else 'no teacher'
  lines = [f'  features  Dv {sizes["Dv"]}, Dq {sizes["Dq"]}, {teacher}; {metadata["dtype"]}']
  for split, info in builder.info.splits.items():
    counts = metadata['splits'][split]
    untaught = '' if counts['teacher'] or sizes['Dt'] is None else ', no teacher features'
    lines.append(
      f'  {split:<9} {counts["videos"]:,} videos, {counts["captions"]:,} captions, '
      f'{counts["frames"]:,} frames ({counts["max_frames"]} at most), '
      f'{counts["max_tokens"]} tokens at most{untaught}; '
      f'{info.num_shards} files, {info.num_bytes / 2**20:,.1f} MiB'
    )
  lines.append(f"  open it   tfds.builder_from_directory('{builder.data_dir}')")
  return '\n'.join(lines)
