"""Measures a build at the size of TVR: peak memory and rate.

    python -m tests.tfds_builders.benchmark_build --folder=/big/disk

A pack of random features is written (17 GB with the defaults), built in a process of its own, and removed again.
"""

from __future__ import annotations

import argparse
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import h5py
import numpy as np

_BLOCK_VIDEOS = 128


def write_pack(root: pathlib.Path, videos: int, frames: int, captions: int, dims: tuple[int, int, int]) -> None:
  """Writes a pack of `videos` train videos and a few of val and test; feature.bin repeats one random block."""
  student, token, teacher = dims
  rng = np.random.default_rng(0)
  text, features = root / 'tvr' / 'TextData', root / 'tvr' / 'FeatureData'
  big = features / 'i3d_resnet'
  big.mkdir(parents=True)
  text.mkdir(parents=True)
  names = {'train': [f'show_s01e{index:05d}_clip' for index in range(videos)]}
  names |= {split: [f'{split}_{index:05d}_clip' for index in range(32)] for split in ('val', 'test')}
  everything = [name for each in names.values() for name in each]
  block = rng.normal(0, 1, (_BLOCK_VIDEOS * frames, student)).astype('<f4').tobytes()
  with (big / 'feature.bin').open('wb') as file:
    for start in range(0, len(everything), _BLOCK_VIDEOS):
      count = min(_BLOCK_VIDEOS, len(everything) - start)
      file.write(memoryview(block)[: count * frames * student * 4])
  rows = {name: [f'{name}_{row}' for row in range(frames)] for name in everything}
  (big / 'shape.txt').write_text(f'{len(everything) * frames} {student}')
  (big / 'id.txt').write_text(' '.join(row for each in rows.values() for row in each))
  (big / 'video2frames.txt').write_text(repr(rows))
  with (
    h5py.File(text / 'roberta_tvr_query_feat.hdf5', 'w') as tokens,
    h5py.File(text / 'clip_ViT_B_32_tvr_query_feat.hdf5', 'w') as sentences,
    h5py.File(features / 'new_clip_vit_32_tvr_vid_features.hdf5', 'w') as pictures,
  ):
    for split, each in names.items():
      with (text / f'tvr{split}.caption.txt').open('w') as file:
        for name in each:
          pictures[name] = rng.standard_normal((frames, teacher), np.float32)
          for number in range(captions):
            file.write(f'{name}#enc#{number} Somebody says something to somebody else.\n')
            length = int(rng.integers(8, 25))
            tokens[f'{name}#enc#{number}'] = rng.standard_normal((1, length, token), np.float32)
            sentences[f'{name}#{number}'] = rng.standard_normal((1, teacher), np.float32)


def main() -> None:
  """Writes, builds, reports and removes."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
    '--folder', type=pathlib.Path, required=True, help='an empty or absent folder; removed at the end'
  )
  parser.add_argument('--videos', type=int, default=17435)
  parser.add_argument('--frames', type=int, default=50)
  parser.add_argument('--captions', type=int, default=5)
  parser.add_argument('--flags', default='', help='more flags of the build, separated by spaces')
  args = parser.parse_args()
  args.folder.mkdir(parents=True, exist_ok=True)
  if any(args.folder.iterdir()):
    parser.error(f'{args.folder} is not empty')
  try:
    start = time.monotonic()
    write_pack(args.folder / 'pack', args.videos, args.frames, args.captions, (3072, 768, 512))
    size = sum(file.stat().st_size for file in (args.folder / 'pack').rglob('*') if file.is_file())
    print(f'wrote a pack of {size / 2**30:.1f} GiB in {time.monotonic() - start:.0f} s', flush=True)
    start = time.monotonic()
    command = [sys.executable, '-m', 'tfds_builders.build', 'tvr', f'--manual_dir={args.folder / "pack"}']
    subprocess.run([*command, f'--data_dir={args.folder / "data"}', *args.flags.split()], check=True)
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    rate = args.videos / seconds
    print(f'built in {seconds:.0f} s ({rate:.0f} videos/s, {size / 2**20 / seconds:.0f} MiB/s), peak {peak:.2f} GiB')
  finally:
    shutil.rmtree(args.folder)


if __name__ == '__main__':
  main()
