"""Making an index and changing it: build, add, remove, compact.

Every function holds the writers' lock while it runs, clears away what a killed writer left, and puts what it made into
the index in whole segments; killed at any moment, the same call goes on from the last of these.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dlkd_jax import config as config_lib
from dlkd_jax.data import sources
from dlkd_jax.errors import UserError
from dlkd_jax.gallery import acceleration, encoding, index_folder, quantization, runs, sentences, weights
from dlkd_jax.gallery.collection import Collection, Knowledge, captions_of
from dlkd_jax.gallery.encoding import TEACHER, StudentEncoder, open_student
from dlkd_jax.gallery.index_folder import DTYPES, IndexFolder, IndexFolderError
from dlkd_jax.gallery.segments import Entry, SegmentWriter
from dlkd_jax.models import parameter_files
from dlkd_jax.models.student import EXPLORATION, INHERITANCE
from dlkd_jax.training.checkpoints import read_best

# Frames that are encoded together, and after which a segment is put into the index unless told otherwise.
_BATCH_FRAMES = 8192
SEGMENT_FRAMES = 1 << 18
SCORERS = (INHERITANCE, EXPLORATION, TEACHER)
Step = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Settings:
  """How an index is made; cannot be changed later, but for the weights.

  Attributes:
    scorers: which to keep; None: all that run and records give.
    dtype: 'float16' or 'int8', of the frames' vectors.
    long_videos: 'windows' or 'resample', see `encoding`.
    weights: scorer → weight in the score; None: the run's own fusion, or the teacher alone where there is no run.
    clip: folder of the CLIP that the data set was extracted with.
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
      *(('scorers', scorer, SCORERS) for scorer in self.scorers or ()),
    ):
      if value not in allowed:
        raise UserError(f'--{name} names {value!r}; expected one of {", ".join(allowed)}')


@dataclasses.dataclass(frozen=True)
class Account:
  """What became of the videos of a call.

  Attributes:
    added: videos that were put into the index.
    there: videos that were there already.
    captions: that were put into it.
    without_file: ids of added videos whose file is not where it should be; None where no folder of files was given.
    not_described: videos that the metadata name and the data set has not.
  """

  added: int
  there: int
  captions: int
  without_file: list[str] | None
  not_described: list[str]


def build(
  path: pathlib.Path,
  collection: Collection,
  workdir: pathlib.Path | None,
  settings: Settings | None = None,
  knowledge: Knowledge | None = None,
  segment_frames: int = SEGMENT_FRAMES,
  step: Step = lambda split: None,
) -> Account:
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
  settings = settings or Settings()
  student, origin = None, None
  if workdir is not None:
    config, (params, at_step) = runs.read_config(workdir), read_best(workdir)
    runs.check_backbones(config, collection)
    origin = {'run': str(workdir.absolute()), 'step': at_step, 'parameters': runs.fingerprint(params)}
    origin['config'] = json.loads(config.to_json_best_effort())
    where = f'the checkpoint of step {at_step} in {workdir}'
    student = StudentEncoder(config, params, collection.sizes, where)
  manifest = _manifest(collection, student, settings, origin)
  if student is not None and not set(student.branches) & set(manifest['scorers']):
    student = manifest['student'] = None
  file = index_folder.student_file(origin) if student is not None else None
  with index_folder.writing(path, create=True, student=file):
    write = None
    if student is not None:
      write = lambda file: parameter_files.write_parameters(student.params, file, config.model.heads)  # noqa: E731
    folder = IndexFolder.create(path, manifest, write)
    return _add(folder, collection, student, knowledge or Knowledge(), segment_frames, step)


def add(
  path: pathlib.Path,
  collection: Collection,
  knowledge: Knowledge | None = None,
  segment_frames: int = SEGMENT_FRAMES,
  step: Step = lambda split: None,
) -> Account:
  """Adds the videos of a data set that an index has not; arguments, result and errors are those of `build`."""
  with index_folder.writing(path):
    folder = IndexFolder.open(path)
    check_features(folder, collection)
    return _add(folder, collection, open_student(folder), knowledge or Knowledge(), segment_frames, step)


def remove(path: pathlib.Path, chosen: Callable[[Entry], bool]) -> list[str]:
  """Marks videos as removed, so that no search finds them; their bytes stay until `compact`.

  Args:
    path: folder of an index.
    chosen: whether a video is to go.

  Returns:
    Ids of the videos that went.
  """
  with index_folder.writing(path):
    folder = IndexFolder.open(path)
    gone = []
    for about, segment in zip(folder.manifest['segments'], folder.segments(), strict=True):
      own = [e.video_id for e in segment.entries if e.video_id not in segment.removed and chosen(e)]
      about['removed'] = sorted(segment.removed.union(own))
      gone += own
    if gone:
      folder.write_manifest()
    return gone


def compact(path: pathlib.Path, segment_frames: int = SEGMENT_FRAMES) -> int:
  """Writes an index anew without what was removed, in as few segments as possible.

  Returns:
    Bytes that were freed.
  """
  with index_folder.writing(path):
    folder = IndexFolder.open(path)
    folder.clear_away()
    before = folder.bytes()
    abouts = folder.manifest['segments']
    if len(abouts) <= 1 and not any(about['removed'] for about in abouts):
      return 0
    writer, done = None, []
    for segment in folder.segments():
      captions: dict[str, list[int]] = {}
      for number, caption in enumerate(segment.captions):
        captions.setdefault(caption.video_id, []).append(number)
      for video, (entry, alive) in enumerate(zip(segment.entries, segment.alive(), strict=True)):
        if not alive:
          continue
        own = captions.get(entry.video_id, [])
        vectors = {name: array[own] for name, array in segment.caption_vectors.items()}
        writer = writer or folder.new_segment()
        times = segment.times[segment.frames(video)]
        writer.add(entry, times, segment.rows_of(video), [segment.captions[n] for n in own], vectors)
        if writer.frames >= segment_frames:
          done, writer = [*done, writer.finish()], None
    folder.commit([*done, writer.finish()] if writer else done, replace=True)
    acceleration.prepare(folder)
    return before - folder.bytes()


def check_features(folder: IndexFolder, collection: Collection) -> None:
  """Checks that a data set was made as what is in an index.

  Raises:
    IndexFolderError: it was not; the message lists the differences.
  """
  if lines := config_lib.differences(folder.manifest['features'], collection.features()):
    raise IndexFolderError(
      f'{collection.dataset} in {collection.data_dir} was made otherwise than what is in {folder.path} (there → here): '
      f'{"; ".join(lines)}. All videos of an index need the same features: extract these with the same options, or '
      'build another index'
    )


def _manifest(
  collection: Collection, student: StudentEncoder | None, settings: Settings, origin: dict[str, Any] | None
) -> dict[str, Any]:
  sizes = {name: student.config.model.hidden for name in student.branches} if student else {}
  if collection.sizes.get('Dt'):
    sizes[TEACHER] = collection.sizes['Dt']
  if not sizes:
    raise UserError(
      f'{collection.dataset} in {collection.data_dir} has no teacher features; give the --workdir of a training'
    )
  if odd := [name for name in settings.scorers or () if name not in sizes]:
    raise UserError(f'there is nothing to score {", ".join(odd)} with; run and records give {", ".join(sizes)}')
  scorers = {name: size for name, size in sizes.items() if name in (settings.scorers or sizes)}
  default = {TEACHER: 1.0}
  if student is not None and set(scorers) & set(student.branches):
    share = student.config.evaluation.inheritance_weight
    default = {INHERITANCE: share, EXPLORATION: 1 - share}
    default = {name: value for name, value in default.items() if name in scorers}
    default = default if len(default) > 1 else dict.fromkeys(default, 1.0)
  return {
    'dtype': settings.dtype,
    'scorers': scorers,
    'weights': weights.choose(list(scorers), settings.weights, default),
    'student': origin,
    'features': collection.features(),
    'text': sentences.describe(collection.options, settings.clip),
    'settings': {
      'long_videos': settings.long_videos,
      'data_dir': collection.data_dir,
      'dataset': collection.dataset,
    },
  }


def _add(
  folder: IndexFolder,
  collection: Collection,
  student: StudentEncoder | None,
  knowledge: Knowledge,
  segment_frames: int,
  step: Step,
) -> Account:
  """Encodes and writes what is not there; the caller holds the lock."""
  folder.clear_away()
  known = {
    entry.video_id
    for segment in folder.segments()
    for entry in segment.entries
    if entry.video_id not in segment.removed
  }
  before, seen, captions, absent = len(known), set(), 0, []
  writer: SegmentWriter | None = None
  for some in _batches(collection.records(), known, seen, min(_BATCH_FRAMES, segment_frames), step):
    writer = writer or folder.new_segment()
    for entry in _write(folder, writer, student, knowledge, some):
      if entry.path is not None and not pathlib.Path(entry.path).is_file():
        absent.append(entry.video_id)
      known.add(entry.video_id)
      step(entry.split)
    if writer.frames >= segment_frames:
      captions += writer.captions
      folder.commit([writer.finish()])
      writer = None
  if writer is not None:
    captions += writer.captions
    folder.commit([writer.finish()])
  acceleration.prepare(folder)
  added = len(known) - before
  return Account(
    added=added,
    there=len(seen) - added,
    captions=captions,
    without_file=absent if knowledge.videos is not None else None,
    not_described=sorted(set(knowledge.metadata) - seen),
  )


def _batches(
  records: Iterable[tuple[str, sources.Record]], known: set[str], seen: set[str], batch_frames: int, step: Step
) -> Iterable[list[tuple[str, sources.Record]]]:
  """Groups the records that are not known, by their frames; adds every id to `seen`."""
  some, frames = [], 0
  for split, record in records:
    video = sources.text(record['video_id'])
    new = video not in known and video not in seen
    seen.add(video)
    if not new:
      step(split)
      continue
    some.append((split, record))
    frames += len(record['student_frames'])
    if frames >= batch_frames:
      yield some
      some, frames = [], 0
  if some:
    yield some


def _write(
  folder: IndexFolder,
  writer: SegmentWriter,
  student: StudentEncoder | None,
  knowledge: Knowledge,
  some: Sequence[tuple[str, sources.Record]],
) -> Iterable[Entry]:
  """Encodes records and writes them to a segment, one after another."""
  manifest = folder.manifest
  scorers = list(manifest['scorers'])
  used = student if student is not None and set(scorers) & set(student.branches) else None
  videos = encoding.encode_videos([record for _, record in some], scorers, used, manifest['settings']['long_videos'])
  captions = encoding.encode_captions([record for _, record in some], scorers, used)
  for (split, record), video, vectors in zip(some, videos, captions, strict=True):
    entry = knowledge.entry(record, split)
    rows = {name: quantization.encode(array, manifest['dtype']) for name, array in video.rows.items()}
    writer.add(entry, video.times, rows, captions_of(record) if vectors else [], vectors)
    yield entry
