"""Small films of any content, quickly written, and folders of them that an index is kept in step with."""

from __future__ import annotations

import functools
import os
import pathlib
import time

import av
import numpy as np

from dlkd_jax.gallery import synchronising
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.synchronising import Request

_OLD = 10**6  # Seconds: nobody writes to such a file any more.


@functools.cache
def content(seed: int) -> bytes:
  """The bytes of a film whose pictures follow from a seed: 1 to 4 seconds of coloured squares."""
  rng = np.random.default_rng(seed)
  path = pathlib.Path(os.environ.get('TMPDIR', '/tmp')) / f'film-{os.getpid()}-{seed}.mp4'
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('mpeg4', rate=2, options={'g': '1'})
    stream.width, stream.height, stream.pix_fmt = 32, 32, 'yuv420p'
    for _ in range(2 * int(rng.integers(1, 5))):
      squares = rng.integers(0, 256, (2, 2, 3)).astype(np.uint8)
      frame = av.VideoFrame.from_ndarray(squares.repeat(16, 0).repeat(16, 1), 'rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  found = path.read_bytes()
  path.unlink()
  return found


def put(path: pathlib.Path, seed: int | None, age: float = _OLD) -> pathlib.Path:
  """Writes a film of a seed, or what is none where that is None, that was last written to so many seconds ago."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(b'this is no film' if seed is None else content(seed))
  then = time.time() - age
  os.utime(path, (then, then))
  return path


def add(index: pathlib.Path, *folders: pathlib.Path, **options) -> synchronising.Done:
  """Brings an index into step with folders."""
  return synchronising.synchronise(index, Request(folders=folders, **options))


def rows(index: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns id → times and vectors, side by side, of all videos of an index."""
  gallery = Gallery.open(index)
  found = {}
  for video in gallery.videos:
    times, vectors = gallery.frames(video)
    found[video] = np.concatenate([times[:, None], *(vectors[name] for name in gallery.scorers)], axis=1)
  return found
