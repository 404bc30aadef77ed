"""The sizes of a CLIP model from the configuration files of others: config.json of Hugging Face, open_clip_config.json.

Both libraries are followed field by field (transformers 5.24, open_clip 3.3). What asks for a computation that is not
here is refused by file and field. transformers ignores fields of config.json that it does not know, so those are left
alone; in open_clip_config.json every field is an argument of the model, so unknown ones are refused.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

from dlkd_jax.errors import UserError
from dlkd_jax.models.clip import ClipConfig, ImageConfig, TextConfig, TowerConfig
from dlkd_jax.models.fields import Fields

# Older files of Hugging Face name 2 as the end token whatever it is; their models take the largest id instead.
LEGACY_END = 2
_MOST_LAYERS = 1000
_HUGGING_FACE_ACTIVATIONS = {
  'quick_gelu': 'quick_gelu',
  'gelu': 'gelu',
  'gelu_python': 'gelu',
  'gelu_new': 'gelu_tanh',
  'gelu_python_tanh': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
}
_TOWER_SIZES = ('hidden_size', 'intermediate_size', 'num_hidden_layers')
# What files leave out: the defaults of transformers.
_TOWER_DEFAULTS = {'hidden_act': 'quick_gelu', 'layer_norm_eps': 1e-5}
_DEFAULTS = {
  'vision': _TOWER_DEFAULTS
  | {'hidden_size': 768, 'intermediate_size': 3072, 'num_hidden_layers': 12, 'num_attention_heads': 12}
  | {'image_size': 224, 'patch_size': 32, 'num_channels': 3},
  'text': _TOWER_DEFAULTS
  | {'hidden_size': 512, 'intermediate_size': 2048, 'num_hidden_layers': 12, 'num_attention_heads': 8}
  | {'vocab_size': 49408, 'max_position_embeddings': 77, 'eos_token_id': 49407},
}
_SIZES = {
  'vision': (*_TOWER_SIZES, 'image_size', 'patch_size'),
  'text': (*_TOWER_SIZES, 'vocab_size', 'max_position_embeddings'),
}

# Of open_clip: fields that its towers here obey, those that change no feature of a plain tower, and those that must
# have the value at which they do nothing.
_OBEYED = {
  '': {'embed_dim', 'quick_gelu', 'vision_cfg', 'text_cfg'},
  'vision_cfg': {'image_size', 'patch_size', 'width', 'layers', 'head_width', 'mlp_ratio', 'act_kwargs', 'norm_kwargs'},
  'text_cfg': {
    *('context_length', 'vocab_size', 'width', 'heads', 'layers', 'mlp_ratio', 'act_kwargs', 'norm_kwargs'),
    *('pool_type', 'eos_id', 'tokenizer_kwargs'),
  },
}
_WITHOUT_EFFECT = {
  '': {'init_logit_scale', 'init_logit_bias', 'nonscalar_logit_scale', 'output_dict'},
  'vision_cfg': {
    *('patch_dropout', 'final_ln_after_pool', 'output_tokens', 'attn_pooler_queries', 'attn_pooler_heads'),
    *('timm_model_pretrained', 'timm_pool', 'timm_proj', 'timm_proj_bias', 'timm_drop', 'timm_drop_path'),
  },
  'text_cfg': {
    *('pad_id', 'final_ln_after_pool', 'output_tokens', 'hf_tokenizer_name', 'hf_model_pretrained'),
    *('hf_proj_type', 'hf_pooler_type', 'hf_pooler_strategy'),
  },
}
_BLOCK = {
  'ls_init_value': (),
  'block_type': ('default',),
  **dict.fromkeys(
    ('qk_norm', 'scaled_cosine_attn', 'scale_heads', 'scale_attn_inner', 'scale_attn', 'scale_fc'), (False,)
  ),
}
_MUST_BE = {
  '': {'custom_text': (False,), 'multimodal_cfg': ()},
  'vision_cfg': _BLOCK
  | {
    'pool_type': ('tok',),
    'attentional_pool': (False,),
    'no_ln_pre': (False,),
    'pos_embed_type': ('learnable',),
    'timm_model_name': ('',),
  },
  'text_cfg': _BLOCK
  | {
    'embed_cls': (False,),
    'no_causal_mask': (False,),
    'proj_bias': (False,),
    'proj_type': ('linear',),
    'hf_model_name': ('',),
    'tokenizer_mode': ('',),
  },
}


def read_hugging_face(content: Fields) -> tuple[ClipConfig, bool]:
  """Returns the sizes that a config.json tells.

  Returns:
    The sizes; and whether `text_config_dict` or `vision_config_dict` say something else than `text_config` and
    `vision_config`, which they override.

  Raises:
    UserError: a field asks for what is not supported.
  """
  if content.get('model_type', 'clip') != 'clip':
    raise UserError(
      f'{content.file} is of a model of type {content.get("model_type")!r}; models of pictures and sentences that are '
      'read: CLIP and SigLIP (SigLIP 2 at a fixed resolution, too)'
    )
  content.only('quantization_config')
  vision, one = _side(content, 'vision')
  text, other = _side(content, 'text')
  vision.only('num_channels', 3)
  for part, kind in ((vision, 'clip_vision_model'), (text, 'clip_text_model')):
    # Models that were made of a whole configuration carry its type.
    part.only('model_type', kind, 'clip')
    part.only('pruned_heads', {})
  end = text.whole('eos_token_id', least=0)
  config = _make(
    content.file,
    lambda: ClipConfig(
      ImageConfig(read_tower(vision), vision.side('image_size'), vision.side('patch_size')),
      TextConfig(
        read_tower(text),
        text.whole('vocab_size'),
        text.whole('max_position_embeddings'),
        None if end == LEGACY_END else end,
      ),
      content.whole('projection_dim', 512),
    ),
  )
  return config, one or other


def _side(content: Fields, side: str) -> tuple[Fields, bool]:
  """Returns one tower's fields with the defaults filled in, and whether its config_dict changed them."""
  plain, defaults = content.part(f'{side}_config'), _DEFAULTS[side]
  before = merged = defaults | {name: x for name, x in plain.content.items() if x is not None}
  if content.has(f'{side}_config_dict'):
    over = {name: x for name, x in content.part(f'{side}_config_dict').content.items() if x is not None}
    merged = before | over
    # transformers lets the defaults of what the config_dict leaves out override, too. Where these contradict the sizes
    # of the config it could not read the weights, so then only what is written overrides.
    if all((defaults | over)[name] == merged[name] for name in _SIZES[side]):
      merged = merged | defaults | over
  changed = any(merged.get(name) != before[name] for name in defaults)
  return Fields(merged, content.file, f'{side}_config'), changed


def read_tower(part: Fields) -> TowerConfig:
  """Returns the sizes of one tower of a config.json; UserError where they cannot be."""
  activation = part.get('hidden_act')
  if not isinstance(activation, str) or activation not in _HUGGING_FACE_ACTIVATIONS:
    part.refuse('hidden_act', f'supported: {", ".join(_HUGGING_FACE_ACTIVATIONS)}')
  return TowerConfig(
    width=part.whole('hidden_size'),
    layers=part.whole('num_hidden_layers', most=_MOST_LAYERS),
    heads=part.whole('num_attention_heads'),
    hidden=part.whole('intermediate_size'),
    activation=_HUGGING_FACE_ACTIVATIONS[activation],
    epsilon=part.number('layer_norm_eps', 1e-5),
  )


def as_hugging_face(config: ClipConfig) -> dict[str, Any]:
  """Returns the content of a config.json.

  Raises:
    UserError: the end token is number 2, which the format cannot say: readers take the largest id instead.
  """
  if config.text.end == LEGACY_END:
    raise UserError(
      f'the end token has id {LEGACY_END}, which readers of the format take for the largest id of a sentence; give the '
      'end token the largest id of the vocabulary'
    )

  def tower(part: TowerConfig) -> dict[str, Any]:
    return {
      'hidden_size': part.width,
      'num_hidden_layers': part.layers,
      'num_attention_heads': part.heads,
      'intermediate_size': part.hidden,
      'hidden_act': 'gelu_pytorch_tanh' if part.activation == 'gelu_tanh' else part.activation,
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
      'eos_token_id': LEGACY_END if text.end is None else text.end,
    },
  }


def read_open_clip(content: Fields) -> ClipConfig:
  """Returns the sizes that an open_clip_config.json tells.

  Raises:
    UserError: a field is unknown, or asks for what is not supported.
  """
  model = content.part('model_cfg') if content.has('model_cfg') else content
  image, text = (model.part(name) for name in ('vision_cfg', 'text_cfg'))
  for part, name in ((model, ''), (image, 'vision_cfg'), (text, 'text_cfg')):
    elsewhere = {'preprocess_cfg'} if part is content else set()
    for field, accepted in _MUST_BE[name].items():
      part.only(field, *accepted)
    part.known(_OBEYED[name] | _WITHOUT_EFFECT[name] | _MUST_BE[name].keys() | elsewhere)
  pool = text.get('pool_type', 'argmax')
  text.only('pool_type', 'argmax', 'eos')
  # Of transformers' tokenizers; a cleaning of its own would be another text.
  text.only('tokenizer_kwargs', {}, {'clean': 'whitespace'})
  quick = model.flag('quick_gelu', False)
  width, head_width = image.whole('width', 768), image.whole('head_width', 64)
  return _make(
    content.file,
    lambda: ClipConfig(
      ImageConfig(
        _open_clip_tower(image, quick, width, image.whole('layers', 12, most=_MOST_LAYERS), width // head_width),
        image.side('image_size', 224),
        image.side('patch_size', 16),
      ),
      TextConfig(
        _open_clip_tower(
          text, quick, text.whole('width', 512), text.whole('layers', 12, most=_MOST_LAYERS), text.whole('heads', 8)
        ),
        text.whole('vocab_size', 49408),
        text.whole('context_length', 77),
        text.whole('eos_id', 2, least=0) if pool == 'eos' else None,
      ),
      model.whole('embed_dim'),
    ),
  )


def _open_clip_tower(part: Fields, quick: bool, width: int, layers: int, heads: int) -> TowerConfig:
  act, norm = part.part('act_kwargs'), part.part('norm_kwargs')
  act.known(() if quick else ('approximate',))
  act.only('approximate', 'none', 'tanh')
  norm.known(('eps',))
  return TowerConfig(
    width=width,
    layers=layers,
    heads=heads,
    hidden=int(width * part.number('mlp_ratio', 4.0)),
    activation='quick_gelu' if quick else {'none': 'gelu', 'tanh': 'gelu_tanh'}[act.get('approximate', 'none')],
    epsilon=norm.number('eps', 1e-5),
  )


def _make(file: pathlib.Path, make: Callable[[], ClipConfig]) -> ClipConfig:
  try:
    return make()
  except UserError:
    raise
  except ValueError as error:  # Sizes of which no tower can be made.
    raise UserError(f'{file}: {error}') from error
