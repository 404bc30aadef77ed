"""Names and shapes of CLIP's parameters here and in the files of others: Hugging Face's and OpenCLIP's.

Each table maps our name (`image/block_00/attention/query/kernel`) to the name there and to what has to be done with the
array. Linear weights are `[out, in]` there and `[in, out]` here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.models.clip import LOGIT_SCALE, ClipConfig
from dlkd_jax.models.parameter_files import FLOATS

Arrays = Mapping[str, np.ndarray]
# What no feature needs, and what it is where a file lacks it: that of untrained models.
_OF_LOGITS = {'logit_scale': LOGIT_SCALE, 'logit_bias': 0.0}


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


def norm_names(ours: str, there: str) -> dict[str, Origin]:
  """Returns our name → origin of a layer normalisation."""
  return {f'{ours}/scale': Origin(f'{there}.weight'), f'{ours}/bias': Origin(f'{there}.bias')}


def linear_names(ours: str, there: str) -> dict[str, Origin]:
  """Returns our name → origin of a linear layer."""
  return {f'{ours}/kernel': Origin(f'{there}.weight', 'linear'), f'{ours}/bias': Origin(f'{there}.bias')}


def hugging_face_blocks(side: str, model: str, layers: int) -> dict[str, Origin]:
  """Returns our name → origin of all blocks of a tower, in a file of Hugging Face."""
  names: dict[str, Origin] = {}
  for layer in range(layers):
    ours, there = f'{side}/block_{layer:02}', f'{model}.encoder.layers.{layer}'
    names |= norm_names(f'{ours}/attention_norm', f'{there}.layer_norm1')
    names |= norm_names(f'{ours}/mlp_norm', f'{there}.layer_norm2')
    for own, other in (('query', 'q_proj'), ('key', 'k_proj'), ('value', 'v_proj'), ('output', 'out_proj')):
      names |= linear_names(f'{ours}/attention/{own}', f'{there}.self_attn.{other}')
    names |= linear_names(f'{ours}/expand', f'{there}.mlp.fc1')
    names |= linear_names(f'{ours}/project', f'{there}.mlp.fc2')
  return names


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
  names |= norm_names('image/input_norm', 'vision_model.pre_layrnorm')  # Their spelling.
  names |= norm_names('image/output_norm', 'vision_model.post_layernorm')
  names |= norm_names('text/output_norm', 'text_model.final_layer_norm')
  names |= hugging_face_blocks('image', 'vision_model', config.image.tower.layers)
  return names | hugging_face_blocks('text', 'text_model', config.text.tower.layers)


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
  names |= norm_names('image/input_norm', 'visual.ln_pre')
  names |= norm_names('image/output_norm', 'visual.ln_post')
  names |= norm_names('text/output_norm', 'ln_final')
  towers = {'image': ('visual.transformer', config.image.tower), 'text': ('transformer', config.text.tower)}
  for side, (model, tower) in towers.items():
    for layer in range(tower.layers):
      ours, there = f'{side}/block_{layer:02}', f'{model}.resblocks.{layer}'
      names |= norm_names(f'{ours}/attention_norm', f'{there}.ln_1')
      names |= norm_names(f'{ours}/mlp_norm', f'{there}.ln_2')
      for part, own in enumerate(('query', 'key', 'value')):
        names[f'{ours}/attention/{own}/kernel'] = Origin(f'{there}.attn.in_proj_weight', 'linear', part)
        names[f'{ours}/attention/{own}/bias'] = Origin(f'{there}.attn.in_proj_bias', part=part)
      names |= linear_names(f'{ours}/attention/output', f'{there}.attn.out_proj')
      names |= linear_names(f'{ours}/expand', f'{there}.mlp.c_fc')
      names |= linear_names(f'{ours}/project', f'{there}.mlp.c_proj')
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

  No feature needs scale and bias of the logits: they may have axes of one, or be absent.

  Raises:
    UserError: arrays are missing, or have other shapes, types or values that are not finite; the message lists them by
      their names in the file.
  """
  taken, wrong = {}, []
  for ours, origin in names.items():
    if origin.name not in arrays:
      if ours in _OF_LOGITS:
        taken[ours] = np.float32(_OF_LOGITS[ours])
      else:
        wrong.append(f'{origin.name}: missing')
      continue
    x = np.asarray(arrays[origin.name])
    if ours in _OF_LOGITS and x.size == 1:
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
