"""CLIP and SigLIP as backbones of frames and of sentences: the joint space, or the states of a layer."""

from __future__ import annotations

import functools
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.files import fingerprint_of_files
from dlkd_jax.models import clip_files, hub
from dlkd_jax.models.clip_inputs import Reading
from dlkd_jax.video.backbones import layer_number
from dlkd_jax.video.in_batches import InBatches, placed

_FILES = ('*.safetensors', 'config.json', 'open_clip_config.json')
# Of each line the first file that is there, or all of it.
_FIRST_OF = (
  (('preprocessor_config.json',), ('processor_config.json',)),
  (('tokenizer.json',), ('vocab.json', 'merges.txt'), ('spiece.model',)),
)


class ClipFrames:
  """Features of pictures: those of the joint space, or the state after a block, less its own mean.

  The state is the class token's; of a SigLIP, which has none, the mean of all patches'.
  """

  form = 'clip:MODEL, clip:MODEL@layer=-2'

  def __init__(self, where: str, layer: str | None = None):
    """Reads a model.

    Args:
      where: its place, as of `hub.find`; files as of `clip_files.load_clip`.
      layer: number of the block, -1 is the last; None takes the joint space.

    Raises:
      ValueError: there is no such block, or the files do not say how pictures are prepared; errors of `load_clip`.
    """
    place, layer = hub.find(where), layer_number(layer)
    path, self.where = place.path, place.where
    model = _load(path)
    if model.preprocess is None:
      raise UserError(f'{path}: does not say how pictures are prepared; add its preprocessor_config.json')
    config, self._preprocess = model.config, model.preprocess
    blocks = None if layer is None else _blocks(layer, config.image.tower.layers, path)
    self.name = 'clip' if blocks is None else f'clip@layer={blocks}'
    self.fingerprint = f'{self.name}:{_fingerprint(place, model.variant + _variant(model))}'
    self.features = config.features if blocks is None else config.image.tower.width
    tower, patches_only = model.image_tower(product_dtype()), model.has_patches_only

    def encode(params: Any, pixels: jax.Array) -> jax.Array:
      output = tower.apply({'params': params}, pixels, blocks)
      if blocks is None:
        return output.features
      state = output.states.mean(axis=1) if patches_only else output.states[:, 0]
      return state - state.mean(axis=1, keepdims=True)

    self._encode = InBatches(encode, model.params['image'])

  def prepare(self, image: np.ndarray) -> np.ndarray:
    """Returns the middle of a picture, uint8 [H, W, 3], at the model's size, uint8 [S, S, 3]."""
    return self._preprocess.crop(image)

  def encode(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
    """Returns features, float32 [N, D], of prepared pictures."""
    return self._encode(self._preprocess.normalize(np.stack(prepared)))

  def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns features, float32 [N, D], of pictures, uint8 [H, W, 3]."""
    return self.encode([self.prepare(image) for image in images])


class ClipText:
  """Features of sentences: tokens are the text tower's states, through its last norm, up to the one that ends them.

  CLIP's first token is left out: it is the same in every sentence and sees no other. SigLIP's sentences begin at once.

  Attributes:
    of_pictures: fingerprint of the same model as a backbone of frames.
  """

  form = ClipFrames.form

  def __init__(self, where: str, layer: str | None = None):
    """Reads a model; `layer` is the block after which tokens are taken, None the last. Errors of `ClipFrames`."""
    place, layer = hub.find(where), layer_number(layer)
    path, self.where = place.path, place.where
    model = _load(path)
    if model.tokenizer is None:
      raise UserError(f'{path}: has no tokenizer; add its tokenizer.json')
    config, self._tokenizer = model.config, model.tokenizer
    tower = config.text.tower
    blocks = tower.layers if layer is None else _blocks(layer, tower.layers, path)
    self.name = 'clip' if layer is None else f'clip@layer={blocks}'
    self.fingerprint = f'{self.name}:{_fingerprint(place, model.variant)}'
    self.of_pictures = f'{self.name}:{_fingerprint(place, model.variant + _variant(model))}'
    self.token_features, self.sentence_features = tower.width, config.features
    self._first = 0 if model.has_patches_only else 1
    whole, short = model.text_tower(product_dtype()), model.text_tower(product_dtype(), blocks)
    params = placed(model.params['text'])
    apply = lambda tower, params, ids: tower.apply({'params': params}, ids)  # noqa: E731
    self._states = InBatches(lambda params, ids: apply(short, params, ids).states, params)
    self._features = InBatches(lambda params, ids: apply(whole, params, ids).features, params)

  def tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the states of each sentence's tokens, float32 [n_i, Dq]; a sentence too long for the model is cut."""
    if not texts:
      return []
    ids = self._tokenizer(texts)
    lengths = self._tokenizer.lengths(ids)
    return [rows[self._first : length] for rows, length in zip(self._states(ids), lengths, strict=True)]

  def reads(self, text: str) -> Reading:
    """Returns how many tokens a sentence has, how many of them are read, and how many of these are known."""
    return self._tokenizer.reads(text)

  def sentences(self, texts: Sequence[str]) -> np.ndarray:
    """Returns the sentences in the joint space, float32 [N, Dt]."""
    return self._features(self._tokenizer(texts)) if texts else np.zeros((0, self.sentence_features), np.float32)


def _blocks(layer: int, layers: int, path: pathlib.Path) -> int:
  """Returns how many blocks there are up to a layer, which may be counted from the end."""
  blocks = layers + 1 + layer if layer < 0 else layer
  if not 0 < blocks <= layers:
    raise UserError(f'{path}: layer is {layer}; the tower has 1 to {layers}, or -1 to -{layers} from its end')
  return blocks


def product_dtype() -> Any:
  """Returns the type of products: bfloat16 on accelerators."""
  return jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16


@functools.lru_cache(maxsize=1)
def _load_stamped(path: pathlib.Path, stamp: int) -> clip_files.ClipModel:
  del stamp
  return clip_files.load_clip(path)


def _load(path: pathlib.Path) -> clip_files.ClipModel:
  """Reads a model, once for both towers."""
  return _load_stamped(path, max((file.stat().st_mtime_ns for file in _files(path)), default=0))


def forget() -> None:
  """Lets go of the files that were read last; what was opened of them stays."""
  _load_stamped.cache_clear()


def _files(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files that features follow from."""
  if not path.is_dir():
    return [path] if path.is_file() else []
  files = {file for pattern in _FILES for file in path.glob(pattern)}
  for choices in _FIRST_OF:
    found = ([file for name in names if (file := path / name).is_file()] for names in choices)
    files.update(next(filter(None, found), ()))
  return sorted(file for file in files if file.is_file())


@functools.lru_cache(maxsize=4)
def _hash(files: tuple[tuple[pathlib.Path, int], ...]) -> str:
  return fingerprint_of_files(*(file for file, _ in files))


def _fingerprint(place: hub.Place, variant: str) -> str:
  """Returns a short hash of a model's files and of what earlier versions of this program read otherwise in them."""
  # What other programs fetched into a folder of the cache has no part in it.
  files = [file for file in _files(place.path) if place.files is None or file.name in place.files]
  own = _hash(tuple((file, file.stat().st_mtime_ns) for file in files))
  return hashlib.sha256(f'{own} {variant}'.encode()).hexdigest()[:16] if variant else own


def _variant(model: clip_files.ClipModel) -> str:
  """Names what earlier versions left out of the preparation of pictures; their features are others."""
  if (preprocess := model.preprocess) is None or model.has_patches_only:  # None of them read a SigLIP.
    return ''
  squash = f'resize={preprocess.resize}' if isinstance(preprocess.resize, tuple) else ''
  return squash + (f'scale={preprocess.scale}' if abs(preprocess.scale * 255 - 1) > 1e-6 else '')
