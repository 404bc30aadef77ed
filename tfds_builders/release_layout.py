"""The release's file layout: which file of a pack is which.

    <root>/<collection>/TextData/<collection>{train,val,test}.caption.txt
    <root>/<collection>/TextData/<collection>.moments.json                       (optional)
    <root>/<collection>/TextData/roberta_<collection>_query_feat.hdf5
    <root>/<collection>/TextData/clip_ViT_B_32_<collection>_query_feat.hdf5
    <root>/<collection>/FeatureData/new_clip_vit_32_<collection>_vid_features.hdf5
    <root>/<collection>/FeatureData/<feature>/{feature.bin, id.txt, shape.txt, video2frames.txt}
    or <root>/<collection>/FeatureData/<feature>/feature.hdf5, or …/FeatureData/<feature>.hdf5

Packs differ in the names of their feature files (a larger CLIP, another text encoder): where the
default name is absent, the one file that fits the pattern is taken.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import pathlib

from tfds_builders.bigfile import BigFileFrames
from tfds_builders.errors import AmbiguousFileError, MissingFileError
from tfds_builders.hdf5 import Hdf5Frames
from tfds_builders.options import BuildOptions

_HDF5_ENDINGS = ('.hdf5', '.h5')


@dataclasses.dataclass(frozen=True)
class PackFiles:
  """The files of a pack; a teacher file is None in a build without the teacher."""

  captions: dict[str, pathlib.Path]
  moments: pathlib.Path | None
  frames: pathlib.Path
  tokens: pathlib.Path
  teacher_frames: pathlib.Path | None
  teacher_text: pathlib.Path | None

  def sizes(self, root: pathlib.Path) -> dict[str, int]:
    """Returns path below `root` → bytes of every file used, to tell one pack from another."""
    singles = (self.moments, self.frames, self.tokens, self.teacher_frames, self.teacher_text)
    paths = [*self.captions.values(), *(path for path in singles if path is not None)]
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return {
      str(file.relative_to(root) if file.is_relative_to(root) else file): file.stat().st_size
      for file in files
      if file.is_file()
    }


def default_names(collection: str) -> dict[str, str]:
  """Returns the release's names of the files that packs name otherwise, too."""
  return {
    'moments': f'{collection}.moments.json',
    'tokens': f'roberta_{collection}_query_feat.hdf5',
    'teacher_text': f'clip_ViT_B_32_{collection}_query_feat.hdf5',
    'teacher_frames': f'new_clip_vit_32_{collection}_vid_features.hdf5',
  }


def locate(manual_dir: pathlib.Path, collection: str, feature: str, options: BuildOptions) -> PackFiles:
  """Finds the files of a pack.

  Args:
    manual_dir: holds one folder a collection.
    collection: 'tvr', 'activitynet' or 'charades': the folder, and part of the file names.
    feature: name of the student features.
    options: may name files, and says whether the teacher is wanted.

  Raises:
    MissingFileError: a file or folder is absent; the message lists what is there instead.
    AmbiguousFileError: several files fit and none has the default name.
  """
  root = manual_dir / collection
  text, features = root / 'TextData', root / 'FeatureData'
  for folder in (manual_dir, root, text, features):
    if not folder.is_dir():
      raise MissingFileError(
        f'{folder}: folder absent; --manual_dir must hold {collection}/TextData and '
        f'{collection}/FeatureData (found in it: {_listing(folder.parent)})'
      )
  names = default_names(collection)
  moments = text / names['moments']
  return PackFiles(
    captions={split: _captions(text, collection, split) for split in options.splits},
    moments=moments if moments.is_file() else None,
    frames=_frames(features, feature),
    tokens=_pick(
      text,
      options.tokens,
      names['tokens'],
      '*roberta*',
      '--tokens',
      'token features of the captions',
    ),
    teacher_frames=_pick(
      features,
      options.teacher_frames,
      names['teacher_frames'],
      '*clip*',
      '--teacher_frames',
      "the teacher's frame features",
    )
    if options.teacher
    else None,
    teacher_text=_pick(
      text,
      options.teacher_text,
      names['teacher_text'],
      '*clip*',
      '--teacher_text',
      "the teacher's text features",
    )
    if options.teacher
    else None,
  )


def open_frames(path: pathlib.Path) -> BigFileFrames | Hdf5Frames:
  """Opens frame features in either packing: a BigFile folder, or an HDF5 file."""
  return BigFileFrames(path) if path.is_dir() else Hdf5Frames(path)


def _captions(folder: pathlib.Path, collection: str, split: str) -> pathlib.Path:
  path = folder / f'{collection}{split}.caption.txt'
  if not path.is_file():
    found = sorted(file.name for file in folder.glob('*.caption.txt'))
    raise MissingFileError(
      f'{path}: captions of split {split!r} absent; found {found or "no caption files"} in the '
      'folder. Build fewer splits with --splits=train,val if the collection has no such split'
    )
  return path


def _frames(folder: pathlib.Path, feature: str) -> pathlib.Path:
  """Returns the BigFile folder or the HDF5 file of the student features."""
  packed = folder / feature
  if (packed / 'feature.bin').exists():
    return packed
  files = [packed / 'feature.hdf5', *(folder / f'{feature}{ending}' for ending in _HDF5_ENDINGS)]
  for file in files:
    if file.is_file():
      return file
  if packed.is_dir():
    inside = _hdf5_files(packed)
    if len(inside) == 1:
      return inside[0]
    if len(inside) > 1:
      raise AmbiguousFileError(
        f'{packed}: holds several HDF5 files, {[file.name for file in inside]}; name the one to use feature.hdf5'
      )
    raise MissingFileError(
      f'{packed / "feature.bin"}: absent, and no feature.hdf5 beside it (found: {_listing(packed)})'
    )
  raise MissingFileError(
    f'{packed}: student features absent; pass --feature=NAME with one of those in {folder}: {_listing(folder)}'
  )


def _pick(folder: pathlib.Path, given: str | None, default: str, pattern: str, flag: str, what: str) -> pathlib.Path:
  """Returns the file given by hand, or of the default name, or the only one that fits."""
  if given is not None:
    path = folder / given  # An absolute path stays itself.
    if not path.is_file():
      raise MissingFileError(f'{path}: {what}, named by {flag}, absent (found in {folder}: {_listing(folder)})')
    return path
  if (folder / default).is_file():
    return folder / default
  fitting = [file for file in _hdf5_files(folder) if fnmatch.fnmatch(file.name.lower(), pattern)]
  if len(fitting) == 1:
    return fitting[0]
  hint = f'name the file with {flag}=FILE'
  if 'teacher' in flag:
    hint += ', or build without a teacher with --no_teacher'
  if fitting:
    names = [file.name for file in fitting]
    raise AmbiguousFileError(
      f'{folder / default}: {what} absent under this name, and several files could be meant: {names}; {hint}'
    )
  raise MissingFileError(f'{folder / default}: {what} absent (found in the folder: {_listing(folder)}); {hint}')


def _hdf5_files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in _HDF5_ENDINGS)


def _listing(folder: pathlib.Path, most: int = 12) -> str:
  """Returns the names in a folder for a message."""
  if not folder.is_dir():
    return 'nothing, the folder is absent'
  names = sorted(file.name for file in folder.iterdir())
  more = f', and {len(names) - most} more' if len(names) > most else ''
  return (', '.join(names[:most]) or 'nothing') + more
