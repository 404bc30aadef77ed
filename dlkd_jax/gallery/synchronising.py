"""From folders of films to an index, and keeping it in step with them: `dlkd add`."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from dlkd_jax.errors import UserError
from dlkd_jax.gallery import building, film_encoding, index_folder
from dlkd_jax.gallery.adding import SEGMENT_FRAMES, Addition, take
from dlkd_jax.gallery.catalog import Catalog
from dlkd_jax.gallery.collection import Collection, Knowledge
from dlkd_jax.gallery.encoding import StudentEncoder, open_student
from dlkd_jax.gallery.film_encoding import FilmEncoding
from dlkd_jax.gallery.films import FILMS, Films, known_folders, with_folders
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.manifest import MANIFEST, read_manifest
from dlkd_jax.gallery.workers import Workers
from dlkd_jax.models import hub
from dlkd_jax.video import backbones, reading
from dlkd_jax.video.outcomes import Outcomes


@dataclasses.dataclass(frozen=True)
class Request:
  """What is asked of an addition of films.

  Attributes:
    folders: of films, besides those that the index knows.
    clip: place of a model of pictures and sentences; None: the index's, or of a new index `film_encoding.DEFAULT_CLIP`.
    workdir: of the training whose student scores; None: the index's, or of a new index none.
    rate: pictures a second; None: the index's, or of a new index one.
    metadata: file of metadata, see `Knowledge.read`; None: the index's.
    dtype: of the vectors of a new index; None: float16.
    prune: whether videos go whose film is not there any more.
    again: whether what was removed is taken, and what could not be read is tried again.
    segment_frames: as of `adding.take`.
    workers: number of workers of Ray, or the address of its cluster, that read films; None: this process does.
    settle_seconds: age below which a file may be written to still.
  """

  folders: Sequence[pathlib.Path] = ()
  clip: str | None = None
  workdir: pathlib.Path | None = None
  rate: float | None = None
  metadata: pathlib.Path | None = None
  dtype: str | None = None
  prune: bool = False
  again: bool = False
  segment_frames: int = SEGMENT_FRAMES
  workers: str | None = None
  settle_seconds: float = reading.SETTLE_SECONDS

  def __post_init__(self):
    """Checks the numbers.

    Raises:
      UserError: one is out of range.
    """
    if self.rate is not None and not 0 < self.rate < float('inf'):
      raise UserError(f'--rate is {self.rate}; expected pictures a second, above 0')


@dataclasses.dataclass(frozen=True)
class Done:
  """What an addition of films did.

  Attributes:
    addition: of the videos.
    outcomes: of files that could not simply be taken.
    total: videos of the index.
    seconds: that it took.
  """

  addition: Addition
  outcomes: Outcomes
  total: int
  seconds: float


def is_new(path: pathlib.Path) -> bool:
  """Whether there is no index yet."""
  return not (path / MANIFEST).is_file()


def synchronise(path: pathlib.Path, request: Request) -> Done:
  """Makes an index of folders of films, or brings it into step with them; errors of single films end nothing.

  Args:
    path: of the index.
    request: what is asked for.

  Raises:
    UserError: another model or rate is asked for than the index has, a folder is not one, or a model is not there.
    IndexFolderError: the folder of the index holds other files, is damaged, or is being changed.
  """
  begun = time.monotonic()
  knowledge = Knowledge.read(None, request.metadata)
  if not is_new(path):
    encoding = _of_index(read_manifest(path), request)
    with index_folder.writing(path):
      folder = IndexFolder.open(path)
      films = Films(with_folders(known_folders(folder.manifest['settings']), request.folders), encoding)
      if not films.folders:
        raise UserError(f'{path} knows no folder of films; name one: dlkd add FOLDER')
      if request.clip is not None:
        _note_place(folder.manifest, request.clip)
      return _take(folder, films, open_student(folder), knowledge, request, begun)
  if not request.folders:
    raise UserError(f'{path} is no index; name the folders of films to make one of: dlkd add FOLDER --index={path}')
  folders = with_folders([], request.folders)
  encoding, student, origin = _new(request)
  films = Films(folders, encoding)
  settings = building.IndexSettings(dtype=request.dtype or 'float16', clip=request.clip)
  with building.created(path, films, student, settings, origin) as folder:
    return _take(folder, films, student, knowledge, request, begun)


def _of_index(manifest: dict[str, Any], request: Request) -> FilmEncoding:
  """Returns the encoding of an index; UserError where it is not what is asked for."""
  if request.dtype not in (None, manifest['dtype']):
    raise UserError(f'the index has vectors of {manifest["dtype"]}; leave --dtype out, or make another --index')
  if request.workdir is not None and (manifest['student'] or {}).get('run') != str(request.workdir.absolute()):
    there = f'has the student of {manifest["student"]["run"]}' if manifest['student'] else 'was made without a student'
    raise UserError(f'the index {there}; leave --workdir out, or make another --index')
  return film_encoding.of_index(manifest, request.clip, request.rate)


def _new(request: Request) -> tuple[FilmEncoding, StudentEncoder | None, dict[str, Any] | None]:
  """Returns the encoding of a new index, and its student and where that is from."""
  if request.workdir is None:
    clip = request.clip or film_encoding.DEFAULT_CLIP
    try:
      return film_encoding.of_clip(clip, request.rate or reading.How.rate), None, None
    except UserError as error:
      if request.clip is not None:
        raise
      raise UserError(f'{error}; --clip=FOLDER takes a model that is here') from error
  config = building.runs.read_config(request.workdir)
  trained = Collection.open(config.data.data_dir, config.data.dataset)
  encoding = film_encoding.of_data_set(trained.options, trained.where, trained.sizes, request.clip)
  if request.rate not in (None, encoding.options['rate']):
    raise UserError(f'the student was trained on {encoding.options["rate"]:g} pictures a second; leave --rate out')
  _ = encoding.models  # So that one which is not there is named at once.
  return encoding, *building.trained(request.workdir, trained.sizes)


def _note_place(manifest: dict[str, Any], clip: str) -> None:
  """Notes where the model of pictures and sentences of an index is now."""
  now = hub.find(clip).where
  for kind in ('text', 'pictures'):
    for about in manifest.get(kind, {}).values():
      if about and backbones.is_joint(about['fingerprint']):
        about['where'] = now


def _take(
  folder: IndexFolder,
  films: Films,
  student: StudentEncoder | None,
  knowledge: Knowledge,
  request: Request,
  begun: float,
) -> Done:
  """Brings an index into step; the caller holds the lock."""
  known = knowledge.completed({'metadata': folder.manifest['settings'].get('metadata')})
  films.look(folder.manifest, Catalog.open(folder).known(), request.again, request.settle_seconds)
  workers = None if request.workers is None else Workers(request.workers)
  addition = take(
    folder,
    films,
    student,
    known,
    request.segment_frames,
    update=True,
    prune=request.prune,
    again=request.again,
    workers=workers,
  )
  left = Catalog.open(folder)
  addition.absent.extend(_forget_empty(folder, films, left))
  return Done(addition, films.outcomes, len(left), time.monotonic() - begun)


def _forget_empty(folder: IndexFolder, films: Films, catalog: Catalog) -> list[str]:
  """Says which folders are not there; those of which the index has no film any more are forgotten."""
  said, empty = [], []
  for absent in films.absent:
    own = [v for v, about in catalog.known().items() if about.dataset == FILMS and films.folder_of(v) == absent]
    if own:
      said.append(f'{absent.path} is not there: its {len(own):,} films stay in the index as they are')
    else:
      empty.append(absent)
      said.append(f'{absent.path} is not there, and the index has no film of it: it is forgotten')
  if empty:
    films.folders = [each for each in films.folders if each not in empty]
    folder.manifest['settings'] |= films.settings()
    folder.write_manifest()
  return said
