"""Small CLIP folders whose configuration files ask for one thing each; what other programs make of them is in `data/`.

Weights, pictures and token ids follow from fixed numbers, so that only expected features are kept.
"""

import copy
import functools
import json

import ml_dtypes
import numpy as np
import safetensors.numpy

from dlkd_jax.models.clip import ClipConfig, ImageConfig, TextConfig, TowerConfig
from dlkd_jax.models.clip_files import parameter_shapes
from dlkd_jax.models.clip_names import hugging_face_names, open_clip_names, to_file

# Width 12 and 16-pixel pictures in 4 patches; width 8, 11 tokens of which 6 are read; 10 features.
SIZES = ClipConfig(ImageConfig(TowerConfig(12, 2, 3, 24), 16, 8), TextConfig(TowerConfig(8, 2, 2, 16), 11, 6), 10)
# Odd rests of the cut, both ways up, and one smaller than the model's picture.
SHAPES = ((20, 37), (35, 16), (16, 16), (51, 29), (9, 13))
# The largest id is 10; 7 stands before and behind it.
IDS = np.array([[1, 4, 7, 10, 10, 10], [1, 10, 3, 7, 2, 0], [1, 7, 5, 9, 6, 10]], np.int32)

HUGGING_FACE = {
  'config': {
    'architectures': ['CLIPModel'],
    'dtype': 'float32',
    'initializer_factor': 1.0,
    'logit_scale_init_value': 2.6592,
    'model_type': 'clip',
    'projection_dim': 10,
    'text_config': {
      'attention_dropout': 0.0,
      'bos_token_id': 1,
      'eos_token_id': 10,
      'hidden_act': 'quick_gelu',
      'hidden_size': 8,
      'intermediate_size': 16,
      'layer_norm_eps': 1e-05,
      'max_position_embeddings': 6,
      'model_type': 'clip_text_model',
      'num_attention_heads': 2,
      'num_hidden_layers': 2,
      'pad_token_id': 10,
      'projection_dim': 10,
      'vocab_size': 11,
    },
    'transformers_version': '5.24.0',
    'vision_config': {
      'attention_dropout': 0.0,
      'hidden_act': 'quick_gelu',
      'hidden_size': 12,
      'image_size': 16,
      'intermediate_size': 24,
      'layer_norm_eps': 1e-05,
      'model_type': 'clip_vision_model',
      'num_attention_heads': 3,
      'num_channels': 3,
      'num_hidden_layers': 2,
      'patch_size': 8,
      'projection_dim': 10,
    },
  },
  'preprocessor': {
    'crop_size': {'height': 16, 'width': 16},
    'do_center_crop': True,
    'do_convert_rgb': True,
    'do_normalize': True,
    'do_rescale': True,
    'do_resize': True,
    'image_mean': [0.48145466, 0.4578275, 0.40821073],
    'image_processor_type': 'CLIPImageProcessor',
    'image_std': [0.26862954, 0.26130258, 0.27577711],
    'resample': 3,
    'rescale_factor': 0.00392156862745098,
    'size': {'shortest_edge': 16},
  },
}
OPEN_CLIP = {
  'model_cfg': {
    'embed_dim': 10,
    'vision_cfg': {'image_size': 16, 'patch_size': 8, 'width': 12, 'layers': 2, 'head_width': 4, 'mlp_ratio': 2.0},
    'text_cfg': {'context_length': 6, 'vocab_size': 11, 'width': 8, 'heads': 2, 'layers': 2, 'mlp_ratio': 2.0},
  },
  'preprocess_cfg': {
    'mean': [0.48145466, 0.4578275, 0.40821073],
    'std': [0.26862954, 0.26130258, 0.27577711],
    'interpolation': 'bicubic',
    'resize_mode': 'shortest',
  },
}


def _both(**fields):
  return {'config': {'text_config': fields, 'vision_config': fields}}


def _pictures(**fields):
  return {'preprocessor': fields}


def _over(side):
  """A whole config_dict of a tower with another activation and norm."""
  return HUGGING_FACE['config'][side] | {'hidden_act': 'gelu', 'layer_norm_eps': 0.01}


_EDGE = {'shortest_edge': 21}
# Name → changes of the configuration, None takes a field away.
VARIANTS = {
  'hf plain': {},
  'hf gelu': _both(hidden_act='gelu'),
  'hf gelu_pytorch_tanh': _both(hidden_act='gelu_pytorch_tanh'),
  'hf gelu_new': _both(hidden_act='gelu_new'),
  'hf layer_norm_eps': _both(layer_norm_eps=0.01),
  'hf defaults': _both(hidden_act=None, layer_norm_eps=None, model_type=None, attention_dropout=None),
  'hf eos_token_id 2': {'config': {'text_config': {'eos_token_id': 2}}},
  'hf eos_token_id 7': {'config': {'text_config': {'eos_token_id': 7}}},
  'hf config_dict': {
    'config': {'text_config_dict': _over('text_config'), 'vision_config_dict': _over('vision_config')}
  },
  'hf float16': {'type': 'float16'},
  'hf bfloat16': {'type': 'bfloat16'},
  'hf processor_config': {'processor': True},
  'hf size 21': _pictures(size=21),
  'hf size shortest_edge': _pictures(size=_EDGE),
  'hf size square': _pictures(size=21, default_to_square=True),
  'hf size height, width': _pictures(size={'height': 18, 'width': 21}),
  'hf size list': _pictures(size=[21, 18]),
  'hf crop_size 16': _pictures(crop_size=16, size=_EDGE),
  'hf crop_size list': _pictures(crop_size=[16, 16], size=_EDGE),
  'hf do_center_crop': _pictures(do_center_crop=False, size={'height': 16, 'width': 16}),
  'hf do_rescale': _pictures(do_rescale=False, image_mean=[120, 110, 100], image_std=[70, 60, 50]),
  'hf rescale_factor': _pictures(rescale_factor=1 / 127.5),
  'hf do_normalize': _pictures(do_normalize=False),
  'hf neither': _pictures(do_normalize=False, do_rescale=False),
  'hf one mean': _pictures(image_mean=0.5, image_std=0.25),
  'hf no fields': _pictures(**dict.fromkeys(set(HUGGING_FACE['preprocessor']) - {'size', 'crop_size'})),
  **{f'hf resample {number}': _pictures(resample=number, size=_EDGE) for number in range(6)},
  'open plain': {},
  'open quick_gelu': {'model_cfg': {'quick_gelu': True}},
  'open act_kwargs': {
    'model_cfg': {side: {'act_kwargs': {'approximate': 'tanh'}} for side in ('vision_cfg', 'text_cfg')}
  },
  'open norm_kwargs': {'model_cfg': {side: {'norm_kwargs': {'eps': 0.01}} for side in ('vision_cfg', 'text_cfg')}},
  'open head_width': {'model_cfg': {'vision_cfg': {'head_width': 6}}},
  'open image_size list': {'model_cfg': {'vision_cfg': {'image_size': [16, 16], 'patch_size': [8, 8]}}},
  'open pool_type eos': {'model_cfg': {'text_cfg': {'pool_type': 'eos', 'eos_id': 7}}},
  'open eos_id': {'model_cfg': {'text_cfg': {'eos_id': 7}}},
  'open written out': {
    'model_cfg': {
      'init_logit_scale': 1.0,
      'custom_text': False,
      'vision_cfg': {'pool_type': 'tok', 'final_ln_after_pool': True, 'patch_dropout': 0.5, 'ls_init_value': None},
      'text_cfg': {'pool_type': 'argmax', 'no_causal_mask': False, 'embed_cls': False, 'proj_bias': False},
    },
    'preprocess_cfg': {'size': [3, 99], 'mode': 'RGB', 'fill_color': 7, 'resize_mode': None},
  },
  'open nonscalar_logit_scale': {'model_cfg': {'nonscalar_logit_scale': True}},
  'open squash': {'preprocess_cfg': {'resize_mode': 'squash'}},
  'open squash bilinear': {'preprocess_cfg': {'resize_mode': 'squash', 'interpolation': 'bilinear'}},
  'open bilinear': {'preprocess_cfg': {'interpolation': 'bilinear'}},
  'open random': {'preprocess_cfg': {'interpolation': 'random'}},
  'open one mean': {'preprocess_cfg': {'mean': 0.5, 'std': 0.25}},
}


def merged(content, changes):
  """Returns content with nested changes; None takes a field away."""
  content = copy.deepcopy(content)
  for name, value in changes.items():
    if value is None and name != 'ls_init_value':
      content.pop(name, None)
    elif isinstance(value, dict) and isinstance(content.get(name), dict) and name not in ('size', 'crop_size'):
      content[name] = merged(content[name], value)
    else:
      content[name] = value
  return content


@functools.cache
def parameters():
  """Returns the parameters of all variants by our names."""
  rng = np.random.default_rng(7)
  return {
    name: np.round(rng.normal(0, 0.4, shape), 3).astype(np.float32)
    for name, shape in sorted(parameter_shapes(SIZES).items())
  }


def write(folder, name, changes=None):
  """Writes the folder of a variant, or of changes to the plain one of a kind, `hf` or `open`."""
  folder.mkdir(parents=True)
  changes = VARIANTS[name] if changes is None else changes
  if name.startswith('open'):
    content = merged(OPEN_CLIP, changes)
    arrays = to_file(parameters(), open_clip_names(SIZES))
    if content['model_cfg'].get('nonscalar_logit_scale'):
      arrays['logit_scale'] = arrays['logit_scale'].reshape(1)
    safetensors.numpy.save_file(arrays, folder / 'open_clip_model.safetensors')
    (folder / 'open_clip_config.json').write_text(json.dumps(content))
    return folder
  arrays = to_file(parameters(), hugging_face_names(SIZES))
  kind = changes.get('type', 'float32')
  arrays = {key: x.astype(ml_dtypes.bfloat16 if kind == 'bfloat16' else kind) for key, x in arrays.items()}
  safetensors.numpy.save_file(arrays, folder / 'model.safetensors', {'format': 'pt'})
  content = merged(HUGGING_FACE, changes)
  (folder / 'config.json').write_text(json.dumps(content['config'] | {'dtype': kind}))
  if changes.get('processor'):
    processor = {'image_processor': content['preprocessor'], 'processor_class': 'CLIPProcessor'}
    (folder / 'processor_config.json').write_text(json.dumps(processor))
  else:
    (folder / 'preprocessor_config.json').write_text(json.dumps(content['preprocessor']))
  return folder


def pictures():
  """Returns pictures of odd shapes: ramps with noise, so that another place or resampling shows."""
  rng = np.random.default_rng(3)
  return [
    np.clip(np.indices(shape).sum(0)[..., None] * [4, 3, 5] + rng.integers(-40, 40, (*shape, 3)), 0, 255).astype(
      np.uint8
    )
    for shape in SHAPES
  ]
