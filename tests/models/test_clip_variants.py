"""Every field of a CLIP's configuration files does what it does in transformers and OpenCLIP, or is refused by name.

The numbers in data/clip_variants.npz came from the folders of `clip_variants.write`, opened by transformers 5.24.0
(`CLIPModel.from_pretrained`, `CLIPImageProcessorPil.from_pretrained`, which resizes with Pillow 13.0,
`get_image_features` and `get_text_features`) and by open_clip 3.3.0 (`create_model_and_transforms('local-dir:…')` with
torchvision 0.29.1, `encode_image` and `encode_text`), torch 2.13.0 on a CPU: names `[V]`, image `[V, 5, 10]` of
`clip_variants.pictures()`, text `[V, 3, 10]` of `clip_variants.IDS`.
"""

import json
import pathlib
import re

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlkd_jax.errors import UserError
from dlkd_jax.models.clip_files import load_clip
from dlkd_jax.models.clip_inputs import parse_preprocess
from dlkd_jax.models.fields import read_fields
from tests.models import clip_variants, clips
from tests.models.clip_variants import merged, pictures, write

EXPECTED = np.load(pathlib.Path(__file__).parent / 'data' / 'clip_variants.npz')


def features(folder):
  model = load_clip(folder)
  pixels = np.stack([model.preprocess(picture) for picture in pictures()])
  image, text = clips.apply(model, pixels, clip_variants.IDS)
  return image.features, text.features


@pytest.mark.parametrize('name', clip_variants.VARIANTS)
def test_features_are_those_of_transformers_and_open_clip(tmp_path, name):
  image, text = features(write(tmp_path / 'clip', name))
  (row,) = np.flatnonzero(EXPECTED['names'] == name)
  np.testing.assert_allclose(text, EXPECTED['text'][row], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(image, EXPECTED['image'][row], rtol=1e-5, atol=1e-5)


def test_every_variant_shows():
  # A field that is passed over would leave the numbers of the plain folder.
  same = 'plain|defaults|float16|processor_config|crop_size 16|crop_size list|no fields|size shortest_edge|resample 3|'
  same += 'eos_token_id 2|image_size list|eos_id|written out|nonscalar_logit_scale|random'
  for kind in ('hf', 'open'):
    rows = [n for n, name in enumerate(EXPECTED['names']) if re.match(f'{kind} (?!({same})$)', name)]
    (plain,) = np.flatnonzero(EXPECTED['names'] == f'{kind} plain')
    for row in rows:
      far = max(np.abs(EXPECTED[side][row] - EXPECTED[side][plain]).max() for side in ('image', 'text'))
      assert far > 5e-5, EXPECTED['names'][row]


def _hf(side, **fields):
  return {'config': {side: fields}}


def _open(part, **fields):
  return {'model_cfg': {part: fields}}


REFUSED = [
  ('hf', _hf('text_config', hidden_act='relu'), 'config.json: text_config.hidden_act is "relu"'),
  ('hf', _hf('vision_config', hidden_act='gelu_fast'), 'config.json: vision_config.hidden_act is "gelu_fast"'),
  ('hf', _hf('vision_config', num_channels=4), 'config.json: vision_config.num_channels is 4'),
  ('hf', _hf('vision_config', image_size=[16, 24]), r'config.json: vision_config.image_size is [16, 24]'),
  ('hf', _hf('vision_config', patch_size=True), 'config.json: vision_config.patch_size is true'),
  ('hf', _hf('vision_config', model_type='siglip_vision_model'), 'config.json: vision_config.model_type'),
  ('hf', _hf('text_config', num_attention_heads=3), 'config.json: TowerConfig(width=8'),
  ('hf', _hf('text_config', hidden_size='8'), 'config.json: text_config.hidden_size is "8"'),
  ('hf', _hf('text_config', eos_token_id=[7, 10]), r'config.json: text_config.eos_token_id is [7, 10]'),
  ('hf', _hf('text_config', layer_norm_eps=0), 'config.json: text_config.layer_norm_eps is 0'),
  ('hf', {'config': {'text_config': [1]}}, r'config.json: text_config is [1]; expected an object'),
  ('hf', {'config': {'projection_dim': 10.0}}, 'config.json: projection_dim is 10.0'),
  ('hf', {'config': {'quantization_config': {'bits': 8}}}, 'config.json: quantization_config is {"bits": 8}'),
  ('hf', {'preprocessor': {'do_resize': False}}, 'preprocessor_config.json does not .* do_resize is off'),
  ('hf', {'preprocessor': {'do_center_crop': False}}, 'preprocessor_config.json .* do_center_crop is off'),
  ('hf', {'preprocessor': {'do_pad': True}}, 'preprocessor_config.json: do_pad is true'),
  ('hf', {'preprocessor': {'do_reduce_labels': True}}, 'preprocessor_config.json: do_reduce_labels is true'),
  ('hf', {'preprocessor': {'do_normalize': 'no'}}, 'preprocessor_config.json: do_normalize is "no"'),
  ('hf', {'preprocessor': {'resample': 6}}, 'preprocessor_config.json: resample is 6'),
  ('hf', {'preprocessor': {'resample': 'cubic'}}, 'preprocessor_config.json: resample is "cubic"'),
  ('hf', {'preprocessor': {'size': {'longest_edge': 16}}}, 'preprocessor_config.json .* size is {"longest_edge": 16}'),
  ('hf', {'preprocessor': {'size': {'shortest_edge': 16, 'longest_edge': 32}}}, 'preprocessor_config.json .* size is'),
  ('hf', {'preprocessor': {'size': 15}}, 'preprocessor_config.json: crop_size is .* more than size leaves'),
  ('hf', {'preprocessor': {'crop_size': [16, 12]}}, r'preprocessor_config.json: crop_size is [16, 12]'),
  ('hf', {'preprocessor': {'crop_size': {'shortest_edge': 16}}}, 'preprocessor_config.json: crop_size is'),
  ('hf', {'preprocessor': {'image_mean': [0.5]}}, r'preprocessor_config.json: image_mean is [0.5]'),
  ('hf', {'preprocessor': {'image_std': 0}}, 'preprocessor_config.json: the spread of colours'),
  ('hf', {'preprocessor': {'rescale_factor': -1}}, 'preprocessor_config.json: rescale_factor is -1'),
  ('hf', {'preprocessor': {'use_square_size': True}}, 'preprocessor_config.json: use_square_size is true'),
  (
    'hf',
    {'preprocessor': {'image_processor_type': 'ViTImageProcessor'}},
    'preprocessor_config.json: image_processor_type',
  ),
  (
    'open',
    {'preprocess_cfg': {'resize_mode': 'longest'}},
    'open_clip_config.json: preprocess_cfg.resize_mode is "longest"',
  ),
  ('open', {'preprocess_cfg': {'interpolation': 'nearest'}}, 'open_clip_config.json: preprocess_cfg.interpolation'),
  ('open', {'preprocess_cfg': {'mode': 'L'}}, 'open_clip_config.json: preprocess_cfg.mode is "L"'),
  ('open', {'preprocess_cfg': {'crop_pct': 0.9}}, 'open_clip_config.json: preprocess_cfg.crop_pct is 0.9'),
  ('open', {'model_cfg': {'custom_text': True}}, 'open_clip_config.json: model_cfg.custom_text is true'),
  ('open', {'model_cfg': {'multimodal_cfg': {}}}, 'open_clip_config.json: model_cfg.multimodal_cfg is'),
  ('open', {'model_cfg': {'quick_gelu': 1}}, 'open_clip_config.json: model_cfg.quick_gelu is 1'),
  ('open', _open('vision_cfg', image_size=[16, 24]), r'model_cfg.vision_cfg.image_size is [16, 24]'),
  ('open', _open('vision_cfg', layers=[3, 4, 6, 3]), r'model_cfg.vision_cfg.layers is [3, 4, 6, 3]'),
  ('open', _open('vision_cfg', pool_type='avg'), 'model_cfg.vision_cfg.pool_type is "avg"'),
  ('open', _open('vision_cfg', no_ln_pre=True), 'model_cfg.vision_cfg.no_ln_pre is true'),
  ('open', _open('vision_cfg', attentional_pool='parallel'), 'model_cfg.vision_cfg.attentional_pool is "parallel"'),
  ('open', _open('vision_cfg', ls_init_value=0.1), 'model_cfg.vision_cfg.ls_init_value is 0.1'),
  ('open', _open('vision_cfg', timm_model_name='vit'), 'model_cfg.vision_cfg.timm_model_name is "vit"'),
  ('open', _open('vision_cfg', pos_embed_type='sin_cos_2d'), 'model_cfg.vision_cfg.pos_embed_type'),
  ('open', _open('vision_cfg', norm_kwargs={'bias': False}), 'model_cfg.vision_cfg.norm_kwargs.bias is false'),
  ('open', _open('vision_cfg', act_kwargs={'approximate': 'sigmoid'}), 'model_cfg.vision_cfg.act_kwargs.approximate'),
  ('open', _open('vision_cfg', newest=1), 'model_cfg.vision_cfg.newest is 1; this field is not known'),
  ('open', _open('text_cfg', no_causal_mask=True), 'model_cfg.text_cfg.no_causal_mask is true'),
  ('open', _open('text_cfg', pool_type='last'), 'model_cfg.text_cfg.pool_type is "last"'),
  ('open', _open('text_cfg', embed_cls=True), 'model_cfg.text_cfg.embed_cls is true'),
  ('open', _open('text_cfg', proj_bias=True), 'model_cfg.text_cfg.proj_bias is true'),
  ('open', _open('text_cfg', proj_type='none'), 'model_cfg.text_cfg.proj_type is "none"'),
  ('open', _open('text_cfg', qk_norm=True), 'model_cfg.text_cfg.qk_norm is true'),
  ('open', _open('text_cfg', hf_model_name='roberta'), 'model_cfg.text_cfg.hf_model_name is "roberta"'),
  ('open', _open('text_cfg', tokenizer_kwargs={'clean': 'canonicalize'}), 'model_cfg.text_cfg.tokenizer_kwargs is'),
]


@pytest.mark.parametrize(('kind', 'changes', 'message'), REFUSED, ids=[str(row[1])[:60] for row in REFUSED])
def test_what_is_another_computation_is_refused_by_file_and_field(tmp_path, kind, changes, message):
  write(tmp_path / 'clip', kind, changes)
  parts = message.split('.*')
  with pytest.raises(UserError) as caught:
    load_clip(tmp_path / 'clip')
  assert all(part.strip() in str(caught.value) for part in parts), caught.value
  assert str(tmp_path / 'clip') in str(caught.value) and '\n' not in str(caught.value)


def test_what_a_config_dict_leaves_out(tmp_path):
  # transformers fills it with its defaults, which override the config, too: here 8 heads, which a width of 8 allows.
  sizes = ('hidden_size', 'intermediate_size', 'num_hidden_layers', 'vocab_size', 'max_position_embeddings')
  over = {name: clip_variants.HUGGING_FACE['config']['text_config'][name] for name in sizes} | {'hidden_act': 'gelu'}
  text = _hf('text_config', layer_norm_eps=0.5)['config'] | {'text_config_dict': over}
  tower = load_clip(write(tmp_path / 'whole', 'hf', {'config': text})).config.text
  assert (tower.tower.activation, tower.tower.epsilon, tower.tower.heads, tower.end) == ('gelu', 1e-5, 8, 49407)
  # Sizes by default would fit no weights here, so only what is written overrides.
  text = {'text_config_dict': {'hidden_act': 'gelu'}}
  tower = load_clip(write(tmp_path / 'part', 'hf', {'config': text})).config.text
  assert (tower.tower.activation, tower.tower.heads, tower.end) == ('gelu', 2, 10)


def test_processors_that_differ_are_refused(tmp_path):
  folder = write(tmp_path / 'clip', 'hf plain')
  content = clip_variants.HUGGING_FACE['preprocessor']
  (folder / 'processor_config.json').write_text(json.dumps({'processor_class': 'CLIPProcessor'}))  # Of transformers 4.
  assert load_clip(folder).preprocess == parse_preprocess(read_fields(folder / 'preprocessor_config.json'))
  (folder / 'processor_config.json').write_text(json.dumps({'image_processor': content}))
  assert load_clip(folder).preprocess.size == 16
  (folder / 'processor_config.json').write_text(json.dumps({'image_processor': content | {'resample': 2}}))
  with pytest.raises(UserError, match=r'processor_config\.json and preprocessor_config\.json prepare pictures diff'):
    load_clip(folder)


def test_a_scale_of_the_logits_is_needed_by_nothing(tmp_path):
  for kind, file in (('hf', 'model.safetensors'), ('open', 'open_clip_model.safetensors')):
    folder = write(tmp_path / kind, kind, {})
    arrays = safetensors.numpy.load_file(folder / file)
    for shape in ((), (1,), (1, 1)):
      safetensors.numpy.save_file(arrays | {'logit_scale': np.full(shape, 3, np.float32)}, folder / file)
      assert load_clip(folder).params['logit_scale'] == 3 and load_clip(folder).params['logit_scale'].shape == ()
    safetensors.numpy.save_file({name: x for name, x in arrays.items() if name != 'logit_scale'}, folder / file)
    assert load_clip(folder).params['logit_scale'] == np.float32(2.6592)
    safetensors.numpy.save_file(arrays | {'logit_scale': np.zeros(2, np.float32)}, folder / file)
    with pytest.raises(UserError, match=r'logit_scale: found \(2,\)'):
      load_clip(folder)


def test_numbers_that_are_no_weights_are_refused(tmp_path):
  folder = write(tmp_path / 'clip', 'hf', {})
  arrays = safetensors.numpy.load_file(folder / 'model.safetensors')
  name = 'text_projection.weight'
  for odd, message in (
    (arrays[name].astype(np.int8), f'{name}: found int8 numbers'),
    (np.full_like(arrays[name], np.nan), f'{name}: not all values are finite'),
  ):
    safetensors.numpy.save_file(arrays | {name: odd}, folder / 'model.safetensors')
    with pytest.raises(UserError, match=message):
      load_clip(folder)


POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 605157884\n'


@pytest.mark.parametrize(
  ('content', 'kind'),
  [
    (POINTER, 'Git LFS pointer'),
    (b'', 'an empty file'),
    (b'<!DOCTYPE html><p>', 'HTML page'),
    (b'PK\x03\x04' + b'x' * 99, 'zip'),
  ],
)
@pytest.mark.parametrize('name', ['model.safetensors', 'config.json', 'preprocessor_config.json', 'tokenizer.json'])
def test_files_of_another_kind_are_named(tmp_path, name, content, kind):
  folder = write(tmp_path / 'clip', 'hf', {})
  (folder / name).write_bytes(content)
  with pytest.raises(UserError) as caught:
    load_clip(folder)
  assert str(folder / name) in str(caught.value) and kind.lower() in str(caught.value).lower(), caught.value


def test_weights_of_other_libraries_are_named(tmp_path):
  for kind, file in (('hf', 'model.safetensors'), ('open', 'open_clip_model.safetensors')):
    folder = write(tmp_path / kind, kind, {})
    (folder / file).rename(folder / 'pytorch_model.bin')
    with pytest.raises(FileNotFoundError, match=rf'{file}; .* pytorch_model\.bin is of PyTorch'):
      load_clip(folder)
  (folder / 'pytorch_model.bin').rename(folder / 'open_clip_pytorch_model.safetensors')
  load_clip(folder)


def test_an_index_of_parts_that_lack_arrays(tmp_path):
  folder = write(tmp_path / 'clip', 'hf', {})
  (folder / 'model.safetensors').rename(folder / 'part.safetensors')
  index = folder / 'model.safetensors.index.json'
  index.write_text(
    json.dumps({'weight_map': {'text_projection.weight': 'part.safetensors', 'absent': 'part.safetensors'}})
  )
  with pytest.raises(UserError, match=r'index\.json: weight_map\.absent stands in no file'):
    load_clip(folder)
  index.write_text(json.dumps({'weight_map': {'text_projection.weight': 3}}))
  with pytest.raises(UserError, match=r'index\.json: weight_map\.text_projection\.weight is 3'):
    load_clip(folder)


def places(content, path=()):
  """Yields the path of every value inside of JSON."""
  yield path
  for name, value in content.items() if isinstance(content, dict) else ():
    yield from places(value, (*path, name))


ENORMOUS = st.sampled_from([10**5, 2**31, 10**10, 10**400])
ANYTHING = st.recursive(
  st.none() | st.booleans() | st.integers(-3, 70) | ENORMOUS | st.floats() | st.text(max_size=3) | st.just('bicubic'),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(['height', 'width', 'eps']), inner),
  max_leaves=3,
)


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_in_a_field_opens_or_is_refused_in_a_line(tmp_path, data):
  kind, name = data.draw(
    st.sampled_from([('hf', 'config.json'), ('hf', 'preprocessor_config.json'), ('open', 'open_clip_config.json')])
  )
  folder = tmp_path / kind
  if not folder.exists():
    write(folder, kind, {})
  plain = (folder / name).read_text()
  content = json.loads(plain)
  *way, last = data.draw(st.sampled_from([path for path in places(content) if path]))
  part = content
  for step in way:
    part = part[step]
  part[last] = data.draw(ANYTHING)
  (folder / name).write_text(json.dumps(content))
  try:
    load_clip(folder)
  except UserError as error:
    # Sizes that others than the file's weights would have are told array by array.
    assert 'arrays)' in str(error) or name in str(error), error
  finally:
    (folder / name).write_text(plain)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    *(('hidden_act', value) for value in ([1], {'a': 1})),
    *(('layer_norm_eps', value) for value in (10**400, 1e300)),
    *((name, value) for name in ('hidden_size', 'num_hidden_layers', 'eos_token_id') for value in (2**31, 10**400)),
    *((name, 10**8) for name in ('hidden_size', 'intermediate_size', 'num_hidden_layers', 'vocab_size')),
  ],
)
def test_enormous_sizes_take_no_memory_and_no_time(tmp_path, field, value):
  folder = tmp_path / 'hf'
  write(folder, 'hf', {'config': {'text_config': {field: value}}})
  with pytest.raises(UserError, match=rf'{field}|arrays\)'):
    load_clip(folder)


def test_a_length_without_end_is_that_of_the_model(tmp_path):
  """As transformers writes it of tokenizers that know none."""
  folder = write(tmp_path / 'hf', 'hf', {})
  context = load_clip(folder).config.text.context
  (folder / 'tokenizer_config.json').write_text(json.dumps({'model_max_length': int(1e30)}))
  model = load_clip(folder)
  assert model.config.text.context == context and not model.variant


def test_merging_of_changes():
  assert merged({'a': {'b': 1, 'c': 2}}, {'a': {'b': None, 'd': 3}}) == {'a': {'c': 2, 'd': 3}}
