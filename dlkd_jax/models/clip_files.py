"""CLIP models in files: a Hugging Face directory, or a safetensors file of OpenCLIP; no PyTorch and no hub is needed.

A folder of Hugging Face holds config.json, model.safetensors (or its parts, with model.safetensors.index.json),
preprocessor_config.json and tokenizer.json; one of OpenCLIP open_clip_config.json, open_clip_model.safetensors and
tokenizer.json. Where tokenizer or preprocessor are absent, only the other tower's inputs can be prepared.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from dlkd_jax.errors import UserError
from dlkd_jax.models.clip import Clip, ClipConfig, ImageConfig, TextConfig, TowerConfig
from dlkd_jax.models.clip_inputs import MEAN, STD, Preprocess, Tokenizer, read_preprocess, read_tokenizer
from dlkd_jax.models.clip_names import from_file, hugging_face_names, open_clip_names, to_file
from dlkd_jax.models.parameter_files import save_arrays

_OPEN_CLIP = ('open_clip_config.json', 'open_clip_model.safetensors')
# What a configuration may say; anything else, as another pooling, is another computation.
_OPEN_CLIP_FIELDS = {
  '': {'embed_dim', 'quick_gelu', 'vision_cfg', 'text_cfg'},
  'vision_cfg': {'image_size', 'patch_size', 'width', 'layers', 'head_width', 'mlp_ratio'},
  'text_cfg': {'context_length', 'vocab_size', 'width', 'heads', 'layers', 'mlp_ratio'},
}
# Older files of Hugging Face name 2 as the end token whatever it is; their models take the largest id instead.
_LEGACY_END = 2


@dataclasses.dataclass(frozen=True)
class ClipModel:
  """A model and what prepares its inputs.

  Attributes:
    config: sizes.
    params: pytree of float32 arrays.
    preprocess: of pictures; None where the files do not tell.
    tokenizer: of sentences; None likewise.
  """

  config: ClipConfig
  params: Any
  preprocess: Preprocess | None = None
  tokenizer: Tokenizer | None = None

  def module(self, dtype: Any = jnp.float32) -> Clip:
    """Returns the Flax module of these sizes; `dtype` is that of its products."""
    return Clip(self.config, dtype)


def parameter_shapes(config: ClipConfig) -> dict[str, tuple[int, ...]]:
  """Returns name → shape of all parameters of a model, names as `text/block_00/expand/kernel`; nothing is computed."""
  pixels = jax.ShapeDtypeStruct((1, config.image.size, config.image.size, 3), jnp.float32)
  ids = jax.ShapeDtypeStruct((1, config.text.context), jnp.int32)
  params = jax.eval_shape(Clip(config).init, jax.random.key(0), pixels, ids)['params']
  return {name: x.shape for name, x in flax.traverse_util.flatten_dict(params, sep='/').items()}


def load_clip(path: str | os.PathLike[str]) -> ClipModel:
  """Reads a model.

  Args:
    path: a folder as above; or the safetensors file of OpenCLIP, with its open_clip_config.json beside it.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is damaged, or does not fit the configuration; the message lists what is missing or wrong.
  """
  path = pathlib.Path(path)
  folder = path if path.is_dir() else path.parent
  if not path.exists():
    raise FileNotFoundError(f'there is no CLIP model {path}; expected a folder with config.json and model.safetensors.')
  if path.is_dir() and (folder / 'config.json').is_file() and not all((folder / x).is_file() for x in _OPEN_CLIP):
    return _load_hugging_face(folder)
  if (folder / _OPEN_CLIP[0]).is_file():
    return _load_open_clip(folder, folder / _OPEN_CLIP[1] if path.is_dir() else path)
  raise FileNotFoundError(
    f'{folder} holds neither config.json (Hugging Face) nor {_OPEN_CLIP[0]} (OpenCLIP); a CLIP model is a folder with '
    'one of them and its weights as safetensors.'
  )


def _load_hugging_face(folder: pathlib.Path) -> ClipModel:
  content = _read_json(folder / 'config.json')
  config = _hugging_face_config(content, folder / 'config.json')
  arrays = _read_arrays(folder / 'model.safetensors')
  params = from_file(arrays, hugging_face_names(config), parameter_shapes(config), str(folder / 'model.safetensors'))
  preprocess = folder / 'preprocessor_config.json'
  preprocess = read_preprocess(preprocess) if preprocess.is_file() else None
  _check_size(preprocess, config, folder)
  return ClipModel(config, _tree(params), preprocess, _tokenizer(folder, config))


def _load_open_clip(folder: pathlib.Path, weights: pathlib.Path) -> ClipModel:
  content = _read_json(folder / _OPEN_CLIP[0])
  config = _open_clip_config(content, folder / _OPEN_CLIP[0])
  params = from_file(_read_arrays(weights), open_clip_names(config), parameter_shapes(config), str(weights))
  pictures = content.get('preprocess_cfg', {})
  mean, std = (tuple(pictures.get(key, default)) for key, default in (('mean', MEAN), ('std', STD)))
  preprocess = Preprocess(config.image.size, None, mean, std, pictures.get('interpolation', 'bicubic'))
  return ClipModel(config, _tree(params), preprocess, _tokenizer(folder, config))


def save_clip(model: ClipModel, folder: str | os.PathLike[str]) -> None:
  """Writes a model as a Hugging Face directory, which appears whole or not at all.

  Raises:
    FileExistsError: the folder exists.
    OSError: it cannot be written.
    ValueError: the end token is number 2, which the format cannot say: readers take the largest id instead.
  """
  folder = pathlib.Path(folder)
  if model.config.text.end == _LEGACY_END:
    raise UserError(
      f'{folder}: the end token has id {_LEGACY_END}, which readers of the format take for the largest id of a '
      'sentence; give the end token the largest id of the vocabulary'
    )
  if folder.exists():
    raise FileExistsError(f'{folder} exists; choose another folder, or remove it.')
  folder.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f'.{folder.name}.') as temporary:
    whole = pathlib.Path(temporary) / 'model'
    whole.mkdir()
    flat = flax.traverse_util.flatten_dict(model.params, sep='/')
    save_arrays(to_file(flat, hugging_face_names(model.config)), whole / 'model.safetensors', {'format': 'pt'})
    files = {'config.json': json.dumps(_as_hugging_face(model.config), indent=2)}
    if model.preprocess is not None:
      files['preprocessor_config.json'] = json.dumps(model.preprocess.as_json(), indent=2)
    if model.tokenizer is not None:
      files['tokenizer.json'] = model.tokenizer.to_json()
    for name, text in files.items():
      (whole / name).write_text(text, encoding='utf-8')
    whole.rename(folder)


def _hugging_face_config(content: dict[str, Any], path: pathlib.Path) -> ClipConfig:
  if content.get('model_type', 'clip') != 'clip':
    raise UserError(f'{path} is of a model of type {content["model_type"]!r}, expected clip.')

  def tower(part: dict[str, Any], **defaults: int) -> TowerConfig:
    part = defaults | part  # Files leave out what equals the library's defaults.
    return TowerConfig(
      width=part['hidden_size'],
      layers=part['num_hidden_layers'],
      heads=part['num_attention_heads'],
      hidden=part['intermediate_size'],
      activation=part.get('hidden_act', 'quick_gelu'),
      epsilon=part.get('layer_norm_eps', 1e-5),
    )

  names = ('hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size')
  try:
    image, text = content['vision_config'], content['text_config']
    end = text.get('eos_token_id', 49407)
    return ClipConfig(
      ImageConfig(
        tower(image, **dict(zip(names, (768, 12, 12, 3072), strict=True))),
        image.get('image_size', 224),
        image.get('patch_size', 32),
      ),
      TextConfig(
        tower(text, **dict(zip(names, (512, 12, 8, 2048), strict=True))),
        text.get('vocab_size', 49408),
        text.get('max_position_embeddings', 77),
        None if end == _LEGACY_END else end,
      ),
      content.get('projection_dim', 512),
    )
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{path} does not describe both towers of a CLIP model: {error!r}.') from error


def _as_hugging_face(config: ClipConfig) -> dict[str, Any]:
  def tower(part: TowerConfig) -> dict[str, Any]:
    return {
      'hidden_size': part.width,
      'num_hidden_layers': part.layers,
      'num_attention_heads': part.heads,
      'intermediate_size': part.hidden,
      'hidden_act': part.activation,
      'layer_norm_eps': part.epsilon,
      'projection_dim': config.features,
    }

  image, text = config.image, config.text
  return {
    'architectures': ['CLIPModel'],
    'model_type': 'clip',
    'projection_dim': config.features,
    'vision_config': tower(image.tower)
    | {'model_type': 'clip_vision_model', 'image_size': image.size, 'patch_size': image.patch},
    'text_config': tower(text.tower)
    | {
      'model_type': 'clip_text_model',
      'vocab_size': text.vocabulary,
      'max_position_embeddings': text.context,
      'eos_token_id': _LEGACY_END if text.end is None else text.end,
    },
  }


def _open_clip_config(content: dict[str, Any], path: pathlib.Path) -> ClipConfig:
  try:
    model = content.get('model_cfg', content)
    image, text = model['vision_cfg'], model['text_cfg']
    _refuse_unknown(model, _OPEN_CLIP_FIELDS[''], path)
    for name in ('vision_cfg', 'text_cfg'):
      _refuse_unknown(model[name], _OPEN_CLIP_FIELDS[name], path)
    activation = 'quick_gelu' if model.get('quick_gelu') else 'gelu'
    width = image['width']
    return ClipConfig(
      ImageConfig(
        TowerConfig(
          width,
          image['layers'],
          width // image.get('head_width', 64),
          int(width * image.get('mlp_ratio', 4.0)),
          activation,
        ),
        image['image_size'],
        image['patch_size'],
      ),
      TextConfig(
        TowerConfig(
          text['width'], text['layers'], text['heads'], int(text['width'] * text.get('mlp_ratio', 4.0)), activation
        ),
        text.get('vocab_size', 49408),
        text.get('context_length', 77),
      ),
      model['embed_dim'],
    )
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{path} does not describe a CLIP model with a vision transformer: {error!r}.') from error


def _refuse_unknown(part: dict[str, Any], known: set[str], path: pathlib.Path) -> None:
  if unknown := sorted(set(part) - known):
    raise UserError(f'{path} asks for {unknown}, which is not supported; expected a plain vision transformer.')


def _tree(params: dict[str, np.ndarray]) -> Any:
  return flax.traverse_util.unflatten_dict(params, sep='/')


def _tokenizer(folder: pathlib.Path, config: ClipConfig) -> Tokenizer | None:
  path = folder / 'tokenizer.json'
  return read_tokenizer(path, config.text.context, config.text.end) if path.is_file() else None


def _check_size(preprocess: Preprocess | None, config: ClipConfig, folder: pathlib.Path) -> None:
  if preprocess is not None and preprocess.size != config.image.size:
    raise UserError(
      f'{folder}: preprocessor_config.json makes pictures of {preprocess.size} pixels, and config.json expects '
      f'{config.image.size}; they are of different models.'
    )


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise UserError(f'{path} is no JSON: {error}') from error
  if not isinstance(content, dict):
    raise UserError(f'{path} holds a {type(content).__name__}, expected an object.')
  return content


class _Arrays(Mapping[str, np.ndarray]):
  """The arrays of safetensors files, each read when it is asked for: the whole is never in memory twice."""

  def __init__(self, files: dict[str, pathlib.Path]):
    self._files = files

  def __getitem__(self, name: str) -> np.ndarray:
    # Opened anew, because what was read of a file stays mapped until it is closed. Through JAX's types, since numpy has
    # no bfloat16.
    with safetensors.safe_open(self._files[name], 'flax') as file:
      return np.asarray(file.get_tensor(name))

  def __contains__(self, name: object) -> bool:
    return name in self._files  # The inherited form reads the array.

  def __iter__(self) -> Iterator[str]:
    return iter(self._files)

  def __len__(self) -> int:
    return len(self._files)


def _read_arrays(path: pathlib.Path) -> _Arrays:
  """Opens a safetensors file, or the parts that its index names."""
  index = path.with_name(path.name + '.index.json')
  parts = [path]
  if not path.is_file() and index.is_file():
    files = {pathlib.Path(name).name for name in _read_json(index).get('weight_map', {}).values()}
    parts = [path.with_name(name) for name in sorted(files)]
  files = {}
  for part in parts:
    if not part.is_file():
      raise FileNotFoundError(f'there is no file {part}; the weights of a CLIP model are needed as safetensors.')
    try:
      with safetensors.safe_open(part, 'flax') as file:
        files |= dict.fromkeys(file.keys(), part)
    except safetensors.SafetensorError as error:
      raise UserError(f'{part} is not a whole safetensors file: {error}') from error
  return _Arrays(files)
