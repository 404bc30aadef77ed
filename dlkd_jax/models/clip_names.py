"""Names and shapes of CLIP's parameters here and in the files of others: Hugging Face's and OpenCLIP's.

Each table maps our name (`image/block_00/attention/query/kernel`) to the name there and to what has to be done with the
array. Linear weights are `[out, in]` there and `[in, out]` here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.models.clip import LOGIT_SCALE, ClipConfig
from dlkd_jax.models.parameter_files import FLOATS

Arrays = Mapping[str, np.ndarray]


class Origin(NamedTuple):
  """Where a parameter comes from.

  Attributes:
    name: in the file.
    kind: how the array there relates to ours; a key of `_READ`.
    part: which third of a fused array it is, 0 to 2; None: all of it.
  """

  name: str
  kind: str = 'same'
  part: int | None = None


def _conv_there(x: np.ndarray) -> np.ndarray:
  return x.transpose(3, 2, 0, 1)


_READ: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'same': lambda x: x,
  'linear': lambda x: x.T,
  'conv': lambda x: x.transpose(2, 3, 1, 0),
}
_WRITE = _READ | {'conv': _conv_there}


def _norm(ours: str, there: str) -> Iterator[tuple[str, Origin]]:
  yield f'{ours}/scale', Origin(f'{there}.weight')
  yield f'{ours}/bias', Origin(f'{there}.bias')


def _linear(ours: str, there: str) -> Iterator[tuple[str, Origin]]:
  yield f'{ours}/kernel', Origin(f'{there}.weight', 'linear')
  yield f'{ours}/bias', Origin(f'{there}.bias')


def hugging_face_names(config: ClipConfig) -> dict[str, Origin]:
  """Returns our name → origin in a `model.safetensors` of Hugging Face's CLIPModel."""
  names = {
    'logit_scale': Origin('logit_scale'),
    'image/class_token': Origin('vision_model.embeddings.class_embedding'),
    'image/patches/kernel': Origin('vision_model.embeddings.patch_embedding.weight', 'conv'),
    'image/positions': Origin('vision_model.embeddings.position_embedding.weight'),
    'image/projection/kernel': Origin('visual_projection.weight', 'linear'),
    'text/tokens/embedding': Origin('text_model.embeddings.token_embedding.weight'),
    'text/positions': Origin('text_model.embeddings.position_embedding.weight'),
    'text/projection/kernel': Origin('text_projection.weight', 'linear'),
  }
  names |= _norm('image/input_norm', 'vision_model.pre_layrnorm')  # Their spelling.
  names |= _norm('image/output_norm', 'vision_model.post_layernorm')
  names |= _norm('text/output_norm', 'text_model.final_layer_norm')
  towers = {'image': ('vision_model', config.image.tower), 'text': ('text_model', config.text.tower)}
  for side, (model, tower) in towers.items():
    for layer in range(tower.layers):
      ours, there = f'{side}/block_{layer:02}', f'{model}.encoder.layers.{layer}'
      names |= _norm(f'{ours}/attention_norm', f'{there}.layer_norm1')
      names |= _norm(f'{ours}/mlp_norm', f'{there}.layer_norm2')
      for own, other in (('query', 'q_proj'), ('key', 'k_proj'), ('value', 'v_proj'), ('output', 'out_proj')):
        names |= _linear(f'{ours}/attention/{own}', f'{there}.self_attn.{other}')
      names |= _linear(f'{ours}/expand', f'{there}.mlp.fc1')
      names |= _linear(f'{ours}/project', f'{there}.mlp.fc2')
  return names


def open_clip_names(config: ClipConfig) -> dict[str, Origin]:
  """Returns our name → origin in a safetensors file of OpenCLIP, where query, key and value are one array."""
  names = {
    'logit_scale': Origin('logit_scale'),
    'image/class_token': Origin('visual.class_embedding'),
    'image/patches/kernel': Origin('visual.conv1.weight', 'conv'),
    'image/positions': Origin('visual.positional_embedding'),
    'image/projection/kernel': Origin('visual.proj'),
    'text/tokens/embedding': Origin('token_embedding.weight'),
    'text/positions': Origin('positional_embedding'),
    'text/projection/kernel': Origin('text_projection'),
  }
  names |= _norm('image/input_norm', 'visual.ln_pre')
  names |= _norm('image/output_norm', 'visual.ln_post')
  names |= _norm('text/output_norm', 'ln_final')
  towers = {'image': ('visual.transformer', config.image.tower), 'text': ('transformer', config.text.tower)}
  for side, (model, tower) in towers.items():
    for layer in range(tower.layers):
      ours, there = f'{side}/block_{layer:02}', f'{model}.resblocks.{layer}'
      names |= _norm(f'{ours}/attention_norm', f'{there}.ln_1')
      names |= _norm(f'{ours}/mlp_norm', f'{there}.ln_2')
      for part, own in enumerate(('query', 'key', 'value')):
        names[f'{ours}/attention/{own}/kernel'] = Origin(f'{there}.attn.in_proj_weight', 'linear', part)
        names[f'{ours}/attention/{own}/bias'] = Origin(f'{there}.attn.in_proj_bias', part=part)
      names |= _linear(f'{ours}/attention/output', f'{there}.attn.out_proj')
      names |= _linear(f'{ours}/expand', f'{there}.mlp.c_fc')
      names |= _linear(f'{ours}/project', f'{there}.mlp.c_proj')
  return names


def from_file(
  arrays: Arrays, names: Mapping[str, Origin], shapes: Mapping[str, tuple[int, ...]], file: str
) -> dict[str, np.ndarray]:
  """Takes our parameters out of a file's arrays.

  Args:
    arrays: of the file. What is not named may be there, too: files carry buffers such as `position_ids`.
    names: our name → origin.
    shapes: our name → shape.
    file: named in messages.

  Returns:
    Our name → float32 array.

  No feature needs the scale of the logits: it may have axes of one; where it is absent it is that of untrained models.

  Raises:
    UserError: arrays are missing, or have other shapes, types or values that are not finite; the message lists them by
      their names in the file.
  """
  taken, wrong = {}, []
  for ours, origin in names.items():
    if origin.name not in arrays:
      if ours == 'logit_scale':
        taken[ours] = np.float32(LOGIT_SCALE)
      else:
        wrong.append(f'{origin.name}: missing')
      continue
    x = np.asarray(arrays[origin.name])
    if ours == 'logit_scale' and x.size == 1:
      x = x.reshape(())
    if str(x.dtype) not in FLOATS:
      wrong.append(f'{origin.name}: found {x.dtype} numbers, expected {", ".join(FLOATS)}')
      continue
    if origin.part is not None:
      x = x[origin.part * len(x) // 3 : (origin.part + 1) * len(x) // 3]
    fits = x.ndim == len(shapes[ours]) and _READ[origin.kind](x).shape == shapes[ours]
    if fits:
      taken[ours] = np.asarray(_READ[origin.kind](x), np.float32, order='C')
      if not np.isfinite(taken[ours]).all():
        wrong.append(f'{origin.name}: not all values are finite')
    else:
      expected = _WRITE[origin.kind](np.broadcast_to(np.bool_(), shapes[ours])).shape  # It takes no memory.
      wrong.append(f'{origin.name}: found {x.shape}, expected {expected}')
  if wrong:
    wrong = list(dict.fromkeys(wrong))
    more = [f'and {len(wrong) - 20} more'] if len(wrong) > 20 else []
    raise UserError(
      f'{file} does not hold the parameters that its configuration describes ({len(wrong)} arrays):\n  '
      + '\n  '.join(wrong[:20] + more)
    )
  return taken


def to_file(params: Arrays, names: Mapping[str, Origin]) -> dict[str, np.ndarray]:
  """Puts our parameters by name into arrays as a file of the table has them."""
  arrays, parts = {}, {}
  for ours, origin in names.items():
    x = np.asarray(_WRITE[origin.kind](np.asarray(params[ours], np.float32)), order='C')
    if origin.part is None:
      arrays[origin.name] = x
    else:
      parts.setdefault(origin.name, {})[origin.part] = x
  return arrays | {name: np.concatenate([thirds[i] for i in range(3)]) for name, thirds in parts.items()}
