"""SigLIP in files of Hugging Face: sizes, names of parameters, how pictures and sentences are prepared.

transformers 5.24 is followed, where `model_type` is siglip: SigLIP, and SigLIP 2 at a fixed resolution. Sentences are
lower-cased, and those of SigLIP lose their punctuation, whatever the tokenizer's file does: so the models were trained.
"""

from __future__ import annotations

import pathlib
import struct
from collections.abc import Iterator

import tokenizers
from tokenizers import normalizers, pre_tokenizers, processors

from dlkd_jax.errors import UserError
from dlkd_jax.file_kinds import whose_kind
from dlkd_jax.models.clip import ImageConfig, TextConfig
from dlkd_jax.models.clip_configs import read_tower
from dlkd_jax.models.clip_inputs import Preprocess, Tokenizer, parse_resampling, read_tokenizers_file, wrapped
from dlkd_jax.models.clip_names import Origin, hugging_face_blocks, linear_names, norm_names
from dlkd_jax.models.fields import Fields, read_fields
from dlkd_jax.models.siglip import SiglipConfig

_PROCESSORS = ('SiglipImageProcessor', 'SiglipImageProcessorFast', 'SiglipImageProcessorPil')
# What files leave out: the defaults of transformers.
_TOWER = {
  'hidden_size': 768,
  'intermediate_size': 3072,
  'num_hidden_layers': 12,
  'num_attention_heads': 12,
  'hidden_act': 'gelu_pytorch_tanh',
  'layer_norm_eps': 1e-6,
}
_IMAGE = _TOWER | {'image_size': 224, 'patch_size': 16}
_TEXT = _TOWER | {'vocab_size': 32000, 'max_position_embeddings': 64}
_PUNCTUATION = r'[!-/:-@\[-`{-~]'  # All of ASCII.
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # Kinds of pieces of SentencePiece.


def read_siglip(content: Fields) -> SiglipConfig:
  """Returns the sizes that a config.json tells.

  Raises:
    UserError: a field asks for what is not supported.
  """
  content.only('quantization_config')
  image, text = (
    Fields(defaults | {name: x for name, x in part.content.items() if x is not None}, content.file, part.name)
    for part, defaults in ((content.part('vision_config'), _IMAGE), (content.part('text_config'), _TEXT))
  )
  image.only('num_channels', 3)
  image.only('vision_use_head', True)
  image.only('model_type', 'siglip_vision_model')
  text.only('model_type', 'siglip_text_model')
  config = SiglipConfig(
    ImageConfig(read_tower(image), image.side('image_size'), image.side('patch_size')),
    TextConfig(read_tower(text), text.whole('vocab_size'), text.whole('max_position_embeddings')),
    text.whole('projection_size', text.whole('hidden_size')),
  )
  if config.features != config.image.tower.width:
    text.refuse('projection_size', f'sentences and pictures, of {config.image.tower.width} features, do not meet')
  return config


def siglip_names(config: SiglipConfig) -> dict[str, Origin]:
  """Returns our name → origin in a `model.safetensors` of Hugging Face's SiglipModel."""
  head = 'vision_model.head'
  names = {
    'logit_scale': Origin('logit_scale'),
    'logit_bias': Origin('logit_bias'),
    'image/patches/kernel': Origin('vision_model.embeddings.patch_embedding.weight', 'conv'),
    'image/patches/bias': Origin('vision_model.embeddings.patch_embedding.bias'),
    'image/positions': Origin('vision_model.embeddings.position_embedding.weight'),
    'image/pool/probe': Origin(f'{head}.probe'),
    'text/tokens/embedding': Origin('text_model.embeddings.token_embedding.weight'),
    'text/positions': Origin('text_model.embeddings.position_embedding.weight'),
  }
  for part, own in enumerate(('query', 'key', 'value')):
    names[f'image/pool/{own}/kernel'] = Origin(f'{head}.attention.in_proj_weight', 'linear', part)
    names[f'image/pool/{own}/bias'] = Origin(f'{head}.attention.in_proj_bias', part=part)
  names |= linear_names('image/pool/output', f'{head}.attention.out_proj')
  names |= linear_names('image/pool/expand', f'{head}.mlp.fc1') | linear_names('image/pool/project', f'{head}.mlp.fc2')
  names |= norm_names('image/pool/norm', f'{head}.layernorm')
  names |= norm_names('image/output_norm', 'vision_model.post_layernorm')
  names |= norm_names('text/output_norm', 'text_model.final_layer_norm')
  names |= linear_names('text/projection', 'text_model.head')
  names |= hugging_face_blocks('image', 'vision_model', config.image.tower.layers)
  return names | hugging_face_blocks('text', 'text_model', config.text.tower.layers)


def parse_siglip_preprocess(content: Fields) -> Preprocess:
  """Returns what SigLIP's image processor does: pictures are squashed into a square.

  Raises:
    UserError: it asks for what `Preprocess` does not do; the field is named.
  """
  content.only('image_processor_type', *_PROCESSORS)
  for step in ('do_resize', 'do_rescale', 'do_normalize'):
    content.only(step, True)
  size = content.part('size') if content.has('size') else Fields({'height': 224, 'width': 224}, content.file, 'size')
  size.known(('height', 'width'))
  side = size.whole('height')
  size.only('width', side)
  half = (0.5, 0.5, 0.5)
  return Preprocess(
    side,
    (side, side),
    content.colours('image_mean', half),
    content.colours('image_std', half),
    parse_resampling(content),
    content.number('rescale_factor', 1 / 255),
  )


def find_siglip_tokenizer(folder: pathlib.Path, config: TextConfig) -> Tokenizer | None:
  """Reads a model's tokenizer: `tokenizer.json`, or else SigLIP's `spiece.model`.

  Returns:
    None where there is neither.

  Raises:
    UserError: a file is damaged, asks for what is not supported, or does not fit the model.
  """
  settings = Fields({}, folder / 'tokenizer_config.json')
  if settings.file.is_file():
    settings = read_fields(settings.file)
    for side in ('padding_side', 'truncation_side'):
      settings.only(side, 'right')
  path, pieces = folder / 'tokenizer.json', folder / 'spiece.model'
  if path.is_file():
    tokenizer = read_tokenizers_file(path)
  elif pieces.is_file():
    path, tokenizer = pieces, read_sentence_pieces(pieces)
  else:
    return None
  steps = [normalizers.Lowercase()]
  unigram = isinstance(tokenizer.model, tokenizers.models.Unigram)  # SigLIP's; SigLIP 2 has Gemma's byte pairs.
  if unigram:
    steps += [normalizers.Replace(tokenizers.Regex(_PUNCTUATION), '')]
    steps += [normalizers.Replace(tokenizers.Regex(r'\s+'), ' '), normalizers.Strip()]
  tokenizer.normalizer = normalizers.Sequence(steps + ([tokenizer.normalizer] if tokenizer.normalizer else []))
  end = _special(settings, 'eos_token', tokenizer, '</s>', '<eos>')
  pad = _special(settings, 'pad_token', tokenizer, *(('</s>',) if unigram else ('<pad>', '<eos>')))
  tokenizer.post_processor = processors.TemplateProcessing(
    single='$A <end>',
    special_tokens=[('<end>', end)],  # By whatever name: the end alone, no beginning.
  )
  return wrapped(path, tokenizer, config.context, None, config.vocabulary, pad)


def _special(settings: Fields, field: str, tokenizer: tokenizers.Tokenizer, *usual: str) -> int:
  """Returns the id of a token that tokenizer_config.json names, or else of the first usual one that there is."""
  named = settings.get(field)
  named = named.get('content') if isinstance(named, dict) else named
  for name in (named,) if isinstance(named, str) else usual:
    if (number := tokenizer.token_to_id(name)) is not None:
      return number
  settings.refuse(field, f'the tokenizer has no such token, nor {" or ".join(usual)}')


def read_sentence_pieces(path: pathlib.Path) -> tokenizers.Tokenizer:
  """Reads a model of SentencePiece that takes the likeliest pieces (unigram).

  Raises:
    UserError: it is none, or of another kind.
  """
  pieces: list[tuple[str, float]] = []
  kinds: list[int] = []
  unigram, normal = True, b''
  try:
    for field, value in _fields(path.read_bytes()):
      if field == 1:
        piece = dict(_fields(value))
        pieces.append((piece[1].decode(), piece.get(2, 0.0)))
        kinds.append(piece.get(3, _NORMAL))
      elif field == 2:
        unigram = dict(_fields(value)).get(3, 1) == 1
      elif field == 3:
        normal = dict(_fields(value)).get(2, b'')
    unknown = kinds.index(_UNKNOWN)
  except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
    raise UserError(f'{path} is no model of SentencePiece: {whose_kind(path, "damaged")}') from error
  if not unigram or not {*kinds} <= {_NORMAL, _UNKNOWN, _CONTROL, _BYTE}:
    raise UserError(f'{path} is a model of SentencePiece of a kind that is not read here; add its tokenizer.json')
  tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unknown, _BYTE in kinds))
  spaces = normalizers.Replace(tokenizers.Regex(' {2,}'), ' ')
  tokenizer.normalizer = normalizers.Sequence([*([normalizers.Precompiled(normal)] if normal else []), spaces])
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  return tokenizer


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
  """Yields number and value of the fields of a message of Protocol Buffers; IndexError or ValueError: it is none."""
  at = 0

  def number() -> int:
    nonlocal at
    value = shift = 0
    while True:
      byte, at = data[at], at + 1
      value |= (byte & 127) << shift
      shift += 7
      if byte < 128:
        return value

  while at < len(data):
    field, kind = divmod(number(), 8)
    if kind == 0:
      yield field, number()
      continue
    size = {1: 8, 5: 4}.get(kind)
    size = number() if kind == 2 else size
    if size is None or at + size > len(data):
      raise ValueError('no message')
    value, at = data[at : at + size], at + size
    yield field, value if kind == 2 else struct.unpack('<f' if size == 4 else '<d', value)[0]
