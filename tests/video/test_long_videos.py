"""An hour of video is extracted in the memory that a minute takes, whatever lies beside it."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from dlkd_jax.data import sources
from dlkd_jax.models import clip, clip_files
from tests.models import clips
from tests.paths import repository
from tests.video import films

# Runs a command and prints the largest memory that it took, KiB.
_PROGRAM = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], check=False)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def _film(path: pathlib.Path, seconds: int) -> None:
  """Writes five pictures a second, each of one grey that says which second it is."""
  path.parent.mkdir(parents=True)
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate=5, options={'preset': 'ultrafast', 'g': '50', 'qp': '10'})
    stream.width, stream.height, stream.pix_fmt = 640, 360, 'yuv420p'
    for n in range(5 * seconds):
      planes = np.full((540, 640), 128, np.uint8)
      planes[:360] = 16 + n // 5 % 200
      frame = av.VideoFrame.from_ndarray(planes, 'yuv420p')
      frame.pts, frame.time_base = n, Fraction(1, 5)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _extract(folder: pathlib.Path, data_dir: pathlib.Path, clip: pathlib.Path, *more: str) -> tuple[str, float]:
  """Returns what the command prints, and the largest memory that it took, MiB."""
  environment = dict(os.environ, JAX_PLATFORMS='cpu', XLA_FLAGS='')
  command = [sys.executable, '-m', 'dlkd_jax.extract', f'--videos={folder}', f'--data_dir={data_dir}', f'--clip={clip}']
  command += ['--student=statistics', '--tokens=words:256']
  done = subprocess.run(
    [sys.executable, '-c', _PROGRAM, *command, '--readers=2', *more],
    cwd=repository(),
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  *printed, peak = done.stdout.rstrip().splitlines()
  return '\n'.join(printed), int(peak) / 1024


def _check_hour(record: sources.Record) -> None:
  """The film's samples are all there, each at its second and with its grey."""
  seconds = len(record['times'])
  assert record['times'].tolist() == list(range(seconds)) and record['duration'] == seconds
  # The means of the statistics count from 0.4 in steps of 0.2.
  grey = (record['student_frames'][:, :48].astype(np.float32).mean(axis=1) * 0.2 + 0.4) * 219
  np.testing.assert_allclose(grey, np.arange(seconds) % 200, atol=3)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
  clip_files.save_clip(clips.tiny_model(), tmp_path / 'clip')
  peaks = []
  for seconds in (60, 3600):
    folder, data = tmp_path / f'{seconds}', tmp_path / f'data{seconds}'
    _film(folder / 'film.mp4', seconds)
    peaks.append(_extract(folder, data, tmp_path / 'clip')[1])
    record = sources.open_source(data, 'custom_prvr', 'gallery')[0]
    assert len(record['times']) == seconds
    _check_hour(record)
  assert peaks[1] < peaks[0] + 100, peaks


@pytest.mark.slow
def test_an_hour_beside_broken_files_at_the_size_of_a_real_clip(tmp_path):
  """ViT-B/32 with random weights; ten things in the folder or the captions that are no whole video."""
  clip_files.save_clip(clips.random_model(clip.SIZES['ViT-B/32'], scale=0.02), tmp_path / 'clip')
  folder = tmp_path / 'films'
  _film(folder / 'long' / 'hour.mp4', 3600)
  films.broken_files(folder)
  said = [{'video': name, 'text': 'a red square'} for name in ('long/hour.mp4', 'good.mp4', 'never_there.mp4')]
  captions = tmp_path / 'captions.jsonl'
  captions.write_text('\n'.join(map(json.dumps, said)))
  printed, peak = _extract(folder, tmp_path / 'data', tmp_path / 'clip', f'--captions={captions}')
  broken = {*films.FAILING, 'cut.mkv', 'spoiled.mp4', 'never_there.mp4'}
  assert len(broken) == 10 and all(name in printed for name in broken), printed
  found = {
    record['video_id'].decode(): record
    for split in ('test', 'gallery')
    for record in sources.open_source(tmp_path / 'data', 'custom_prvr', split)
  }
  assert sorted(found) == ['cut.mkv', 'good.mp4', 'long/hour.mp4', 'spoiled.mp4']
  assert found['long/hour.mp4']['teacher_frames'].shape == (3600, 512)
  _check_hour(found['long/hour.mp4'])
  print(f'peak {peak:.0f} MiB')
  assert peak * 2**20 < 1.5e9, peak
