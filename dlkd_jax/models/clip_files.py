"""CLIP and SigLIP models in files: a Hugging Face directory, or a safetensors file of OpenCLIP; no PyTorch is needed.

A folder of Hugging Face holds config.json, model.safetensors (or its parts, with model.safetensors.index.json),
preprocessor_config.json or processor_config.json, and tokenizer.json, or else vocab.json and merges.txt (CLIP) or
spiece.model (SigLIP); config.json says which of the two models it is. One of OpenCLIP holds open_clip_config.json,
open_clip_model.safetensors and tokenizer.json. Where tokenizer or preprocessor are absent, only the other tower's
inputs can be prepared.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
import tempfile
import types
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.models import clip, clip_configs, siglip
from dlkd_jax.models.clip import Clip, ClipConfig
from dlkd_jax.models.clip_inputs import (
  Preprocess,
  Tokenizer,
  find_tokenizer,
  parse_open_clip_preprocess,
  parse_preprocess,
)
from dlkd_jax.models.clip_names import from_file, hugging_face_names, open_clip_names, to_file
from dlkd_jax.models.fields import Fields, read_fields
from dlkd_jax.models.hub import OPEN_CLIP, OPEN_CLIP_WEIGHTS
from dlkd_jax.models.parameter_files import open_arrays, save_arrays
from dlkd_jax.models.siglip import Siglip, SiglipConfig
from dlkd_jax.models.siglip_files import find_siglip_tokenizer, parse_siglip_preprocess, read_siglip, siglip_names

_PROCESSORS = ('processor_config.json', 'preprocessor_config.json')


@dataclasses.dataclass(frozen=True)
class ClipModel:
  """A model and what prepares its inputs.

  Attributes:
    config: sizes.
    params: pytree of float32 arrays.
    preprocess: of pictures; None where the files do not tell.
    tokenizer: of sentences; None likewise.
    variant: names what earlier versions of this program read otherwise in these files; empty where they read the same.
  """

  config: ClipConfig
  params: Any
  preprocess: Preprocess | None = None
  tokenizer: Tokenizer | None = None
  variant: str = ''

  def module(self, dtype: Any = jnp.float32) -> Clip | Siglip:
    """Returns the Flax module of these sizes; `dtype` is that of its products."""
    return _module(self.config)(self.config, dtype)

  def image_tower(self, dtype: Any = jnp.float32) -> clip.ImageTower | siglip.ImageTower:
    """Returns the Flax module of the parameters `image`."""
    towers = siglip if self.has_patches_only else clip
    return towers.ImageTower(self.config.image, self.config.features, dtype)

  def text_tower(self, dtype: Any = jnp.float32, layers: int | None = None) -> clip.TextTower | siglip.TextTower:
    """Returns the Flax module of the parameters `text`; with `layers`, of its first blocks alone."""
    config, towers = self.config.text, siglip if self.has_patches_only else clip
    if layers is not None:
      config = dataclasses.replace(config, tower=dataclasses.replace(config.tower, layers=layers))
    return towers.TextTower(config, self.config.features, dtype)

  @property
  def has_patches_only(self) -> bool:
    """Whether the states of an image are those of its patches (SigLIP), without a class token in front (CLIP)."""
    return isinstance(self.config, SiglipConfig)


def _module(config: ClipConfig) -> type[Clip] | type[Siglip]:
  return Siglip if isinstance(config, SiglipConfig) else Clip


@functools.lru_cache(maxsize=8)  # Tracing a model takes longer than reading a small one.
def parameter_shapes(config: ClipConfig) -> Mapping[str, tuple[int, ...]]:
  """Returns name → shape of all parameters of a model, names as `text/block_00/expand/kernel`; nothing is computed."""
  pixels = jax.ShapeDtypeStruct((1, config.image.size, config.image.size, 3), jnp.float32)
  ids = jax.ShapeDtypeStruct((1, config.text.context), jnp.int32)
  params = jax.eval_shape(_module(config)(config).init, jax.random.key(0), pixels, ids)['params']
  flat = flax.traverse_util.flatten_dict(params, sep='/')
  return types.MappingProxyType({name: x.shape for name, x in flat.items()})


def load_clip(path: str | os.PathLike[str]) -> ClipModel:
  """Reads a model.

  Args:
    path: a folder as above; or the safetensors file of OpenCLIP, with its open_clip_config.json beside it.

  Raises:
    FileNotFoundError: a file is missing.
    UserError: a file is damaged or of another kind, asks for what is not supported, or does not fit the others; the
      message names file and field, or lists the arrays that are missing or wrong.
  """
  path = pathlib.Path(path)
  folder = path if path.is_dir() else path.parent
  if not path.exists():
    raise FileNotFoundError(f'there is no CLIP model {path}; expected a folder with config.json and model.safetensors.')
  weights = path
  if path.is_dir():
    # Where there is neither the first name is missed.
    weights = next((folder / x for x in OPEN_CLIP_WEIGHTS if (folder / x).is_file()), folder / OPEN_CLIP_WEIGHTS[0])
  is_open_clip = (folder / OPEN_CLIP).is_file()
  if path.is_dir() and (folder / 'config.json').is_file() and not (is_open_clip and weights.is_file()):
    return _load_hugging_face(folder)
  if is_open_clip:
    return _load_open_clip(folder, weights)
  raise FileNotFoundError(
    f'{folder} holds neither config.json (Hugging Face) nor {OPEN_CLIP} (OpenCLIP); a CLIP model is a folder with '
    'one of them and its weights as safetensors.'
  )


def _load_hugging_face(folder: pathlib.Path) -> ClipModel:
  content = read_fields(folder / 'config.json')
  is_siglip = content.get('model_type') == 'siglip'
  config, changed = (read_siglip(content), False) if is_siglip else clip_configs.read_hugging_face(content)
  preprocess = _preprocess(folder, parse_siglip_preprocess if is_siglip else parse_preprocess)
  if preprocess is not None and preprocess.size != config.image.size:
    raise UserError(
      f'{folder}: {"size" if is_siglip else "crop_size"} of its {" or ".join(_PROCESSORS)} makes pictures of '
      f'{preprocess.size} pixels, and config.json expects {config.image.size}; they are of different models.'
    )
  weights, variant = folder / 'model.safetensors', ''
  if is_siglip:
    tokenizer, names = find_siglip_tokenizer(folder, config.text), siglip_names(config)
  else:
    context = config.text.context
    if (settings := folder / 'tokenizer_config.json').is_file():
      context = min(context, read_fields(settings).whole('model_max_length', context, most=math.inf))
    tokenizer = find_tokenizer(folder, context, config.text.end, config.text.vocabulary)
    variant = 'config_dict' * changed + f'context={context}' * (context != config.text.context)
    names = hugging_face_names(config)
  params = from_file(open_arrays(weights), names, parameter_shapes(config), str(weights))
  return ClipModel(config, _tree(params), preprocess, tokenizer, variant)


def _preprocess(folder: pathlib.Path, parse: Callable[[Fields], Preprocess]) -> Preprocess | None:
  """Reads how pictures are prepared; transformers 5 writes it into processor_config.json, 4 into a file of its own."""
  found = {}
  for path in (folder / name for name in _PROCESSORS if (folder / name).is_file()):
    content = read_fields(path)
    if path.name == _PROCESSORS[1]:
      found[path.name] = parse(content)
    elif content.has('image_processor'):  # Before there was a use for it the file held little more than a name.
      found[path.name] = parse(content.part('image_processor'))
  if len(set(found.values())) > 1:
    raise UserError(
      f'{folder}: image_processor of {_PROCESSORS[0]} and {_PROCESSORS[1]} prepare pictures differently; keep the one '
      'that the model was trained with'
    )
  return next(iter(found.values()), None)


def _load_open_clip(folder: pathlib.Path, weights: pathlib.Path) -> ClipModel:
  content = read_fields(folder / OPEN_CLIP)
  config = clip_configs.read_open_clip(content)
  preprocess = parse_open_clip_preprocess(content.part('preprocess_cfg'), config.image.size)
  tokenizer = find_tokenizer(folder, config.text.context, config.text.end, config.text.vocabulary)
  params = from_file(open_arrays(weights), open_clip_names(config), parameter_shapes(config), str(weights))
  return ClipModel(config, _tree(params), preprocess, tokenizer)


def save_clip(model: ClipModel, folder: str | os.PathLike[str]) -> None:
  """Writes a model as a Hugging Face directory, which appears whole or not at all.

  Raises:
    FileExistsError: the folder exists.
    OSError: it cannot be written.
    UserError: the format cannot say what the model does.
  """
  folder = pathlib.Path(folder)
  try:
    written = {'config.json': json.dumps(clip_configs.as_hugging_face(model.config), indent=2)}
    if model.preprocess is not None:
      written['preprocessor_config.json'] = json.dumps(model.preprocess.as_json(), indent=2)
  except UserError as error:
    raise UserError(f'{folder}: {error}') from error
  if model.tokenizer is not None:
    written['tokenizer.json'] = model.tokenizer.to_json()
  if folder.exists():
    raise FileExistsError(f'{folder} exists; choose another folder, or remove it.')
  folder.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f'.{folder.name}.') as temporary:
    whole = pathlib.Path(temporary) / 'model'
    whole.mkdir()
    flat = flax.traverse_util.flatten_dict(model.params, sep='/')
    save_arrays(to_file(flat, hugging_face_names(model.config)), whole / 'model.safetensors', {'format': 'pt'})
    for name, text in written.items():
      (whole / name).write_text(text, encoding='utf-8')
    whole.rename(folder)


def _tree(params: dict[str, np.ndarray]) -> Any:
  return flax.traverse_util.unflatten_dict(params, sep='/')
