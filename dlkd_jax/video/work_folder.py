"""The files that an extraction leaves, one a video; `tfds_builders.custom_prvr.extracted` describes and packs them."""

from __future__ import annotations

import hashlib
import json
import logging
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from dlkd_jax import begun, files
from dlkd_jax.errors import UserError
from dlkd_jax.models import parameter_files
from dlkd_jax.video.corpus import Job, Seen
from tfds_builders.custom_prvr import extracted

LAYOUT = 1
# Arrays that follow from the captions, not from the film.
_SAID = ('student_tokens', 'token_lengths', 'teacher_text', 'moments')


class WorkFolder:
  """The folder of one extraction.

  Attributes:
    path: the folder.
    videos: those that it held when the extraction began.
  """

  def __init__(self, path: pathlib.Path):
    """Takes the folder; nothing is made yet."""
    self.path, self.videos = path, frozenset()

  def begin(
    self,
    options: dict[str, Any],
    sizes: dict[str, int | None],
    built: dict[str, Any] | None,
    where: Mapping[str, str] | None = None,
  ) -> None:
    """Makes the folder, or finds it made with the same options; files of it that are damaged are removed.

    Args:
      options: plain values that change the features.
      sizes: Dv, Dq and Dt.
      built: options of the data set that the videos are added to; None where there is none.
      where: places of the models' files, to find them again.

    Raises:
      UserError: the options are others than before; the message lists the differences.
      OSError: a file of it cannot be opened.
    """
    path = self.path / 'extraction.json'
    if (before := self.options()) is not None:
      _refuse_others(before, options, str(self.path))
    elif any((self.path / 'videos').glob('*.safetensors')):
      raise UserError(
        f'{path}: absent, so that nothing says what the features beside it were made with; copy it back, '
        f'or remove {self.path / "videos"}'
      )
    if built is not None:
      _refuse_others({key: value for key, value in built.items() if key != 'dtype'}, options, 'the data set')
    files.write_json(path, {'layout': LAYOUT, 'sizes': sizes, 'options': options, 'where': dict(where or {})})
    (self.path / 'videos').mkdir(exist_ok=True)
    for leftover in (self.path / 'videos').glob('*.tmp'):
      leftover.unlink()
    videos = set()
    for file in sorted((self.path / 'videos').glob('*.safetensors')):
      try:
        videos.add(parameter_files.read_metadata(file).get('video'))
      except OSError:
        with file.open(
          'rb'
        ):  # The library hides the error of the system, and takes every one for a file that is absent.
          raise
      except UserError as error:
        logging.getLogger(__name__).warning('%s is removed, to be made again where it is needed: %s', file, error)
        file.unlink()
    self.videos = frozenset(videos - {None})

  def options(self) -> dict[str, Any] | None:
    """Returns the options of an earlier extraction into this folder; None where there was none."""
    path = self.path / 'extraction.json'
    return _read_options(path) if path.is_file() else None

  def file(self, video: str) -> pathlib.Path:
    """Returns the file of a video: its name, made safe, and a hash of it."""
    readable = re.sub(r'[^A-Za-z0-9._-]+', '_', video)[-80:]
    return self.path / 'videos' / f'{readable}-{hashlib.sha256(video.encode()).hexdigest()[:12]}.safetensors'

  def find(self, job: Job, seen: Seen) -> dict[str, str] | None:
    """Returns what the file of a video says of itself; None where it is absent, damaged or of other content."""
    metadata = self._metadata(job.video)
    return metadata if metadata and extracted.is_same(metadata.get('digest', ''), seen.digest) else None

  def is_whole(self, job: Job) -> bool:
    """Whether the features in the file of a video are those that were written, with times that a player shows."""
    return 'start' in (self._metadata(job.video) or {}) and self.is_readable(job.video)

  def is_readable(self, video: str) -> bool:
    """Whether the features in the file of a video are those that were written."""
    return self._read(video) is not None

  def of_film(self, job: Job, seen: Seen) -> tuple[dict[str, np.ndarray], dict[str, str]] | None:
    """Returns (arrays that follow from the film alone, metadata) where those in the file are of the film as it is."""
    metadata = self._metadata(job.video)
    if not metadata or not seen.film or metadata.get('digest', '').partition(':')[2] != seen.film:
      return None
    if 'start' not in metadata:  # Its times were taken by an earlier version, from the first picture on.
      return None
    arrays = self._read(job.video)
    return ({name: array for name, array in arrays.items() if name not in _SAID}, metadata) if arrays else None

  def _metadata(self, video: str) -> dict[str, str] | None:
    try:
      return parameter_files.read_metadata(self.file(video))
    except (UserError, OSError):
      return None

  def _read(self, video: str) -> dict[str, np.ndarray] | None:
    try:
      arrays = safetensors.numpy.load_file(self.file(video))
    except (safetensors.SafetensorError, OSError):
      return None
    # Files of earlier versions of this program have no check sum.
    expected = (self._metadata(video) or {}).get(extracted.CHECK_SUM)
    return arrays if expected in (None, extracted.check_sum(arrays)) else None

  def write(self, job: Job, seen: Seen, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes the file of a video; it appears when it is whole.

    Args:
      job: the video.
      seen: its file as it was looked at.
      arrays: `moments` among them.
      metadata: `duration`, `start`, `damage` and `notes`, as text.
    """
    content = {
      **metadata,
      'video': job.video,
      'split': job.split,
      'captions': json.dumps([each.text for each in job.captions]),
      'caption_ids': json.dumps(job.caption_ids()),
      'digest': seen.digest,
      'frames': str(len(arrays['times'])),
      extracted.CHECK_SUM: extracted.check_sum(arrays),
    }
    parameter_files.save_arrays(arrays, self.file(job.video), content)


def _read_options(path: pathlib.Path) -> dict[str, Any]:
  try:
    return dict(json.loads(path.read_text(encoding='utf-8'))['options'])
  except (ValueError, TypeError, KeyError) as error:
    raise UserError(
      f'{path}: not the JSON of an extraction ({error}); copy it back, or remove {path.parent}'
    ) from error


def _refuse_others(before: dict[str, Any], now: dict[str, Any], where: str) -> None:
  """Raises UserError where two sets of options differ."""
  if lines := begun.differences(begun.given(before), begun.given(now)):
    raise UserError(
      f'{where} was extracted with other options (before → now):\n  ' + '\n  '.join(lines) + '\nAll videos of a set '
      'need the same features: use the same options, or another --data_dir'
    )
