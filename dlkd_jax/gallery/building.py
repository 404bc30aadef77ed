"""Making an index and changing it: build, add, remove, compact.

Every function holds the writers' lock while it runs, clears away what a killed writer left, and puts what it made into
the index in whole segments; killed at any moment, the same call goes on from the last of these.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dlkd_jax import begun
from dlkd_jax.errors import UserError
from dlkd_jax.gallery import changing, encoding, index_folder, runs, sentences, weights
from dlkd_jax.gallery.adding import SEGMENT_FRAMES, Addition, Step, take
from dlkd_jax.gallery.changing import remove
from dlkd_jax.gallery.collection import Collection, Knowledge
from dlkd_jax.gallery.encoding import TEACHER, StudentEncoder, open_student
from dlkd_jax.gallery.index_folder import DTYPES, IndexFolder, IndexFolderError
from dlkd_jax.gallery.source import Source
from dlkd_jax.models import parameter_files
from dlkd_jax.retrieval import metrics

__all__ = [
  'SEGMENT_FRAMES',
  'Addition',
  'IndexSettings',
  'add',
  'build',
  'check_features',
  'compact',
  'created',
  'open_student',
  'remove',
  'trained',
]


@dataclasses.dataclass(frozen=True)
class IndexSettings:
  """How an index is made; cannot be changed later, but for the weights.

  Attributes:
    scorers: which to keep; None: all that run and records give.
    dtype: 'float16' or 'int8', of the frames' vectors.
    long_videos: 'windows' or 'resample', see `encoding`.
    weights: scorer → weight in the score; None: the run's own fusion, or the teacher alone where there is no run.
    clip: place of the CLIP that the data set was extracted with, where that is not what the set noted.
  """

  scorers: Sequence[str] | None = None
  dtype: str = 'float16'
  long_videos: str = 'windows'
  weights: Mapping[str, float] | None = None
  clip: str | None = None

  def __post_init__(self):
    """Checks the values.

    Raises:
      ValueError: one is not of those allowed.
    """
    for name, value, allowed in (
      ('dtype', self.dtype, DTYPES),
      ('long_videos', self.long_videos, encoding.LONG_VIDEOS),
    ):
      if value not in allowed:
        raise UserError(f'--{name} names {value!r}; expected one of {", ".join(allowed)}')


def build(
  path: pathlib.Path,
  collection: Collection,
  workdir: pathlib.Path | None,
  settings: IndexSettings | None = None,
  knowledge: Knowledge | None = None,
  segment_frames: int = SEGMENT_FRAMES,
  step: Step = lambda split: None,
) -> Addition:
  """Makes an index, or goes on with one that was made alike.

  Args:
    path: its folder.
    collection: records to put into it.
    workdir: of the training whose student scores; None: the teacher alone scores.
    settings: how to make it.
    knowledge: what is known of the videos.
    segment_frames: frames after which what was encoded is put into the index.
    step: called with its split for each video that is done.

  Raises:
    FileNotFoundError: the work directory holds no run.
    ValueError: records or parameters do not fit, or a setting is wrong.
    IndexFolderError: the folder holds other files, or an index that was made otherwise.
  """
  student, origin = None, None
  if workdir is not None:
    runs.check_backbones(runs.read_config(workdir), collection)
    student, origin = trained(workdir, collection.sizes)
  with created(path, collection, student, settings or IndexSettings(), origin) as folder:
    known = (knowledge or Knowledge()).completed(folder.manifest['settings'])
    return take(folder, collection, open_student(folder), known, segment_frames, step)


def trained(workdir: pathlib.Path, sizes: Mapping[str, int | None]) -> tuple[StudentEncoder, dict[str, Any]]:
  """Returns the student of a training's best checkpoint, and what an index notes of it; errors are those of `build`."""
  from dlkd_jax.training.checkpoints import read_best  # Not needed by those who have no training.

  config, (params, at_step) = runs.read_config(workdir), read_best(workdir)
  origin = {'run': str(workdir.absolute()), 'step': at_step, 'parameters': runs.fingerprint(params)}
  origin['config'] = json.loads(config.to_json_best_effort())
  return StudentEncoder(config, params, sizes, f'the checkpoint of step {at_step} in {workdir}'), origin


@contextlib.contextmanager
def created(
  path: pathlib.Path,
  source: Source,
  student: StudentEncoder | None,
  settings: IndexSettings,
  origin: dict[str, Any] | None,
) -> Iterator[IndexFolder]:
  """Makes an index without videos, or opens one that was made alike, and holds its lock; errors are of `build`."""
  manifest = _manifest(source, student, settings, origin)
  if student is not None and not set(student.branches) & set(manifest['scorers']):
    student = manifest['student'] = None
  file = index_folder.student_file(origin) if student is not None else None
  with index_folder.writing(path, create=True, student=file):
    write = None
    if student is not None:
      heads = student.config.model.heads
      write = lambda file: parameter_files.write_parameters(student.params, file, heads)  # noqa: E731
    yield IndexFolder.create(path, manifest, write)


def add(
  path: pathlib.Path,
  collection: Collection,
  knowledge: Knowledge | None = None,
  segment_frames: int = SEGMENT_FRAMES,
  step: Step = lambda split: None,
  update: bool = False,
  prune: bool = False,
  again: bool = False,
) -> Addition:
  """Adds the videos of a data set that an index has not; arguments, result and errors are those of `build`.

  What is not given of `knowledge` is what the index remembers of earlier calls.

  Args:
    path, collection, knowledge, segment_frames, step: as of `build`.
    update: take anew what changed: record, captions or metadata.
    prune: remove videos whose film or record is not there any more; they may come back with it.
    again: take what was removed before, too.
  """
  with index_folder.writing(path):
    folder = IndexFolder.open(path)
    check_features(folder, collection)
    known = (knowledge or Knowledge()).completed(folder.manifest['settings'])
    return take(folder, collection, open_student(folder), known, segment_frames, step, update, prune, again)


def compact(path: pathlib.Path, segment_frames: int = SEGMENT_FRAMES) -> int:
  """Writes an index anew without what was removed; see `changing.compact`."""
  return changing.compact(path, segment_frames)


def check_features(folder: IndexFolder, collection: Collection) -> None:
  """Checks that a data set was made as what is in an index.

  Raises:
    IndexFolderError: it was not; the message lists the differences.
  """
  there, here = folder.manifest['features'], collection.features()
  if folder.manifest['student'] is None:  # The teacher alone scores.
    there, here = ({name: features.get(name) for name in (TEACHER, 'Dt')} for features in (there, here))
  if lines := begun.differences(there, here):
    raise IndexFolderError(
      f'{collection.dataset} in {collection.data_dir} was made otherwise than what is in {folder.path} (there → here): '
      f'{"; ".join(lines)}. All videos of an index need the same features: extract these with the same options, or '
      'build another index'
    )


def _manifest(
  source: Source, student: StudentEncoder | None, settings: IndexSettings, origin: dict[str, Any] | None
) -> dict[str, Any]:
  sizes = dict(student.sizes) if student else {}
  if source.sizes.get('Dt'):
    sizes[TEACHER] = source.sizes['Dt']
  if not sizes:
    raise UserError(f'{source.dataset} has no teacher features; give the --workdir of a training')
  if odd := [name for name in settings.scorers or () if name not in sizes]:
    raise UserError(f'there is nothing to score {", ".join(odd)} with; run and records give {", ".join(sizes)}')
  scorers = {name: size for name, size in sizes.items() if name in (settings.scorers or sizes)}
  default = {TEACHER: 1.0}
  if student is not None and set(scorers) & set(student.branches):
    fusion = metrics.fused_weights(student.branches, student.config.evaluation.weights)
    default = {name: weight for name, weight in fusion.items() if name in scorers}
    default = default if len(default) > 1 else dict.fromkeys(default, 1.0)
  return {
    'dtype': settings.dtype,
    'scorers': scorers,
    'weights': weights.choose(list(scorers), settings.weights, default),
    'student': origin,
    'features': source.features(),
    **sentences.describe(source.options, source.where, settings.clip),
    'settings': {'long_videos': settings.long_videos, **source.settings()},
  }
