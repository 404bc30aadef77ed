"""The manifest of an index: `manifest.json`, written last, which says what belongs to it."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from dlkd_jax.begun import differences
from dlkd_jax.gallery.quantization import DTYPES
from dlkd_jax.gallery.segments import CUES, IndexFolderError

FORMAT, VERSION = 'dlkd_jax gallery', 1
MANIFEST = 'manifest.json'
# Catalogs, those among them that are not whole yet.
CATALOG = re.compile(r'catalog-\d{6,}\.sqlite(\.tmp)?')
_FILE = re.compile(r'[\w-][\w.-]*', re.ASCII)
_KEYS = ('dtype', 'scorers', 'weights', 'student', 'features', 'text', 'segments', 'next_segment', 'settings')


@dataclasses.dataclass(frozen=True)
class _Value:
  """What a value has to be; with `absent`, it may be null or not there."""

  expected: str
  holds: Callable[[Any], bool]
  absent: bool = False


_TEXT = _Value('a text', lambda value: isinstance(value, str))
_TEXT_IF_ANY = dataclasses.replace(_TEXT, absent=True)
_TRUTH_IF_ANY = _Value('true or false', lambda value: isinstance(value, bool), absent=True)
_COUNT = _Value('a whole number from 0', lambda value: type(value) is int and 0 <= value < 1 << 48)
_SIZE = _Value('a whole number from 1', lambda value: type(value) is int and 0 < value < 1 << 31)
_NUMBER = _Value('a number', lambda value: type(value) in (int, float) and math.isfinite(value))
_NUMBER_IF_ANY = dataclasses.replace(_NUMBER, absent=True)
_OBJECT = _Value('an object', lambda value: isinstance(value, dict))
_STORED = {'bytes': _COUNT, 'sha256': _TEXT}
# Objects by the names of their values: `*` is any, one with ? may lack. Lists by their values. In a tuple: or null.
_SHAPE = {
  'dtype': _Value(' or '.join(DTYPES), lambda value: value in DTYPES),
  'scorers': {'*': _SIZE},
  'weights': {'*': _NUMBER},
  'student': ({'file': _TEXT, 'run': _TEXT, 'step': _COUNT, 'parameters': _TEXT, 'config': _OBJECT, **_STORED},),
  'features': _OBJECT,
  # Until backbones could be named the place of a CLIP was its folder, `clip`.
  'text': {'*': ({'fingerprint': _TEXT, 'where?': _TEXT_IF_ANY, 'clip?': _TEXT_IF_ANY},)},
  'pictures?': {'*': ({'fingerprint': _TEXT, 'where?': _TEXT_IF_ANY},)},
  'settings': {
    'long_videos': _TEXT,
    **dict.fromkeys(('data_dir', 'dataset', 'videos', 'metadata'), _TEXT_IF_ANY),
    'two_stage': _TRUTH_IF_ANY,
    'rate': _NUMBER_IF_ANY,
    'max_side': _NUMBER_IF_ANY,
    'folders?': [{'name': _TEXT, 'path': _TEXT}],
  },
  'segments': [
    {
      'name': _TEXT,
      **dict.fromkeys(('videos', 'frames', 'captions', 'cues?'), _COUNT),
      'removed': [_TEXT],
      'files': {'*': _STORED},
    }
  ],
  'next_segment': _COUNT,
  'catalog': ({'file': _TEXT, 'number': _COUNT, 'covers': _TEXT, **_STORED},),
  'engine?': ({'name': _TEXT, 'address': _TEXT_IF_ANY, 'version': _COUNT, 'segments': [_TEXT]},),
  'forgotten?': {'*': _OBJECT},
  'failed?': {'*': _OBJECT},
  'pruned?': [_TEXT],
  'roots?': [_TEXT],
}


def read_manifest(path: pathlib.Path) -> dict[str, Any]:
  """Reads and checks the manifest of an index.

  Raises:
    FileNotFoundError: there is none.
    IndexFolderError: it is of another format or version, or damaged.
  """
  file = path / MANIFEST
  if not file.is_file():
    there = 'does not exist' if not path.is_dir() else f'has no {MANIFEST}'
    raise FileNotFoundError(
      f'{path} is no index: it {there}; `dlkd add FOLDER --index={path}` makes one of the films in a folder'
    )
  try:
    manifest = dict(json.loads(file.read_text(encoding='utf-8')))
  except (ValueError, TypeError, RecursionError) as error:
    raise IndexFolderError(f'{file} is damaged ({error}); copy the index again, or build it anew') from error
  found = manifest.get('format'), manifest.get('version')
  if found != (FORMAT, VERSION):
    raise IndexFolderError(
      f'{file} has format {found[0]!r} of version {found[1]!r}, expected {FORMAT!r} of version {VERSION}; open it with '
      'the version of dlkd_jax that made it, or build it anew'
    )
  if absent := [key for key in _KEYS if key not in manifest]:
    raise IndexFolderError(f'{file} is damaged: it lacks {absent}; copy the index again, or build it anew')
  _refuse(file, _wrong(manifest, _SHAPE, ''))
  if odd := [name for name in _names(manifest) if not _FILE.fullmatch(str(name))]:
    raise IndexFolderError(
      f'{file} names {str(odd[0])!r}, which is no name of a file of an index; copy the index again, or build it anew'
    )
  _refuse(file, _wrong_sizes(manifest))
  return manifest


def _refuse(file: pathlib.Path, wrong: Iterator[str]) -> None:
  if (first := next(wrong, None)) is not None:
    raise IndexFolderError(f'{file} is damaged: {first}; copy the index again, or build it anew')


def _wrong(value: Any, shape: Any, where: str) -> Iterator[str]:
  """Yields what in a value is not as a shape says, the place first."""
  if isinstance(shape, tuple):
    if value is None:
      return
    (shape,) = shape
  if isinstance(shape, _Value):
    if not (shape.holds(value) or (shape.absent and value is None)):
      yield f'{where} is {value!r:.60}, expected {shape.expected}'
  elif not isinstance(value, type(shape)):
    yield f'{where} is {value!r:.60}, expected {"an object" if isinstance(shape, dict) else "a list"}'
  elif isinstance(shape, list):
    for number, one in enumerate(value):
      yield from _wrong(one, shape[0], f'{where}[{number}]')
  else:
    for key, inner in shape.items():
      name = key.removesuffix('?')
      for one in value if key == '*' else [name] if key == name or name in value else ():
        yield from _wrong(value.get(one), inner, f'{where}.{one}' if where else one)


def _wrong_sizes(manifest: Mapping[str, Any]) -> Iterator[str]:
  """Yields what is said of the files of a segment and cannot be, for its counts are others."""
  if not manifest['scorers']:
    yield 'it has no scorers'
  itemsize = np.dtype(manifest['dtype']).itemsize
  for about in manifest['segments']:
    frames, captions = about['frames'], about['captions']
    sizes = {'offsets.i64': 8 * (about['videos'] + 1), 'times.f32': 4 * frames, 'videos.jsonl': None}
    sizes['captions.jsonl'] = None
    if about.get('cues'):
      sizes[CUES] = None
    for scorer, hidden in manifest['scorers'].items():
      sizes |= {f'{scorer}.values': frames * hidden * itemsize, f'{scorer}.captions': captions * hidden * 2}
      if manifest['dtype'] == 'int8':
        sizes[f'{scorer}.scales'] = 4 * frames
    for name, size in sizes.items():
      found = about['files'].get(name, {}).get('bytes')
      if found is None or (size is not None and found != size):
        yield f'segment {about["name"]} has {found} bytes of {name}, expected {"some" if size is None else size}'


def _names(manifest: Mapping[str, Any]) -> Iterator[Any]:
  """Yields every name in a manifest that becomes a part of a path: none may lead out of the index."""
  yield from manifest['scorers']
  for about in (manifest['student'], manifest.get('catalog')):
    if about:
      yield about['file']
  for about in manifest['segments']:
    yield about['name']
    yield from about['files']
  if manifest.get('engine'):
    yield from manifest['engine']['segments']  # These become a part of SQL.


def refuse_others(path: pathlib.Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
  """Raises where an index was made otherwise than it is asked for."""

  def made(manifest: Mapping[str, Any]) -> dict[str, Any]:
    # Not the hash of the file, in which the order of what is said of it is left to chance.
    about = manifest['student']
    student = about and f'parameters {about["parameters"]} of step {about["step"]}'
    same = {key: manifest[key] for key in ('dtype', 'scorers', 'features')}
    return {**same, 'student': student, 'long_videos': manifest['settings']['long_videos']}

  if lines := differences(made(there), made(asked)):
    raise IndexFolderError(
      f'{path} holds an index that was made otherwise (there → asked for): {"; ".join(lines)}. Ask for the same, '
      'choose another --index, or remove the folder'
    )


def is_plain(file: pathlib.Path) -> bool:
  """Whether it is a file and no link to one."""
  return stat.S_ISREG(file.lstat().st_mode)
