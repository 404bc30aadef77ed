"""The files that an extraction leaves, one a video; `tfds_builders.custom_prvr.extracted` describes and packs them."""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
from typing import Any

import numpy as np

from dlkd_jax import files
from dlkd_jax.errors import UserError
from dlkd_jax.models import parameter_files
from dlkd_jax.video.corpus import Job

LAYOUT = 1


class WorkFolder:
  """The folder of one extraction.

  Attributes:
    path: the folder.
  """

  def __init__(self, path: pathlib.Path):
    """Takes the folder; nothing is made yet."""
    self.path = path

  def begin(self, options: dict[str, Any], sizes: dict[str, int | None], built: dict[str, Any] | None) -> None:
    """Makes the folder, or finds it made with the same options.

    Args:
      options: plain values that change the features.
      sizes: Dv, Dq and Dt.
      built: options of the data set that the videos are added to; None where there is none.

    Raises:
      ValueError: the options are others than before; the message lists the differences.
    """
    path = self.path / 'extraction.json'
    if path.is_file():
      _refuse_others(json.loads(path.read_text(encoding='utf-8'))['options'], options, str(self.path))
    if built is not None:
      _refuse_others({key: value for key, value in built.items() if key != 'dtype'}, options, 'the data set')
    files.write_json(path, {'layout': LAYOUT, 'sizes': sizes, 'options': options})
    (self.path / 'videos').mkdir(exist_ok=True)
    for leftover in (self.path / 'videos').glob('*.tmp'):
      leftover.unlink()

  def file(self, video: str) -> pathlib.Path:
    """Returns the file of a video: its name, made safe, and a hash of it."""
    readable = re.sub(r'[^A-Za-z0-9._-]+', '_', video)[-80:]
    return self.path / 'videos' / f'{readable}-{hashlib.sha256(video.encode()).hexdigest()[:12]}.safetensors'

  def find(self, job: Job, digest: str) -> dict[str, str] | None:
    """Returns what the file of a video says of itself; None where it is absent, damaged or of other content."""
    path = self.file(job.video)
    if not path.is_file():
      return None
    try:
      metadata = parameter_files.read_metadata(path)
    except ValueError:
      return None
    return metadata if metadata.get('digest') == digest else None

  def write(self, job: Job, digest: str, arrays: dict[str, np.ndarray], duration: float, damage: str) -> None:
    """Writes the file of a video; it appears when it is whole."""
    moments = np.array([[each.start, each.end] for each in job.captions], np.float32).reshape(-1, 2)
    metadata = {
      'video': job.video,
      'split': job.split,
      'duration': repr(duration),
      'captions': json.dumps([each.text for each in job.captions]),
      'caption_ids': json.dumps(job.caption_ids()),
      'digest': digest,
      'frames': str(len(arrays['times'])),
      'damage': damage,
    }
    parameter_files.save_arrays(arrays | {'moments': moments}, self.file(job.video), metadata)


def _refuse_others(before: dict[str, Any], now: dict[str, Any], where: str) -> None:
  """Raises ValueError where two sets of options differ."""
  lines = [
    f'  {key}: {before.get(key)!r} before, {now.get(key)!r} now'
    for key in sorted({*before, *now})
    if before.get(key) != now.get(key)
  ]
  if lines:
    raise UserError(
      f'{where} was extracted with other options:\n' + '\n'.join(lines) + '\nAll videos of a set need the same '
      'features: use the same options, or another --data_dir'
    )
