"""An hour of video is extracted in the memory that a minute takes."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from dlkd_jax.data import sources
from dlkd_jax.models import clip_files
from tests.models import clips
from tests.paths import repository

_PROGRAM = """
import pathlib, resource, sys
from dlkd_jax.video import extraction
videos, data_dir, clip = sys.argv[1:]
request = extraction.Request(pathlib.Path(videos), pathlib.Path(data_dir), teacher='clip:' + clip, rate=1, readers=2)
assert extraction.extract(request).report.usable == 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _film(path: pathlib.Path, seconds: int) -> None:
  """Writes five pictures a second, each of one grey that says which second it is."""
  path.parent.mkdir()
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


def _peak(folder: pathlib.Path, data_dir: pathlib.Path, clip: pathlib.Path) -> float:
  """Returns the largest memory of an extraction, MiB."""
  environment = dict(os.environ, JAX_PLATFORMS='cpu', XLA_FLAGS='')
  command = [sys.executable, '-c', _PROGRAM, str(folder), str(data_dir), str(clip)]
  done = subprocess.run(command, cwd=repository(), env=environment, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  return int(done.stdout.split()[-1]) / 1024


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
  clip_files.save_clip(clips.tiny_model(), tmp_path / 'clip')
  peaks = []
  for seconds in (60, 3600):
    folder, data = tmp_path / f'{seconds}', tmp_path / f'data{seconds}'
    _film(folder / 'film.mp4', seconds)
    peaks.append(_peak(folder, data, tmp_path / 'clip'))
    record = sources.open_source(data, 'custom_prvr', 'gallery')[0]
    assert record['times'].tolist() == list(range(seconds)) and record['duration'] == seconds
    # The grey of each sample is that of its second.
    grey = record['student_frames'][:, :48].astype(np.float32).mean(axis=1) * 219
    np.testing.assert_allclose(grey, np.arange(seconds) % 200, atol=3)
  assert peaks[1] < peaks[0] + 100, peaks
