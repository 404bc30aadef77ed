"""EfficientNet-Lite0: one block and a small network against plain loops, its files, its view of a picture."""

import jax
import numpy as np
import pytest
from PIL import Image

from dlkd_jax.models import efficientnet
from dlkd_jax.models.efficientnet import Block, EfficientNetLite0, MBConv, Preprocess, Stage
from dlkd_jax.models.parameter_files import network_shapes, save_arrays


def plain_convolution(x, kernel, bias, stride, depthwise=False):
  """A convolution `[S, S, C]` with TensorFlow's padding, as sums over the window of each position."""
  side, size = x.shape[0], kernel.shape[0]
  out = -(-side // stride)
  missing = max((out - 1) * stride + size - side, 0)
  before = missing // 2
  padded = np.pad(x, ((before, missing - before), (before, missing - before), (0, 0)))
  result = np.empty((out, out, kernel.shape[-1]))
  for row in range(out):
    for column in range(out):
      window = padded[row * stride : row * stride + size, column * stride : column * stride + size]
      products = window * kernel[:, :, 0] if depthwise else np.tensordot(window, kernel, 3)
      result[row, column] = (products.sum((0, 1)) if depthwise else products) + bias
  return result


def relu6(x):
  return np.minimum(np.maximum(x, 0), 6)


def plain_block(x, params, block):
  y = x
  if block.expansion != 1:
    y = relu6(plain_convolution(y, params['expand']['kernel'], params['expand']['bias'], 1))
  y = relu6(plain_convolution(y, params['depthwise']['kernel'], params['depthwise']['bias'], block.stride, True))
  y = plain_convolution(y, params['project']['kernel'], params['project']['bias'], 1)
  return y + x if block.residual else y


def random_params(module, pixels, seed=0):
  """Parameters large enough that both ends of ReLU6 are met."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), pixels)['params']
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: rng.normal(0, 1.0, x.shape).astype(np.float32), shapes)


@pytest.mark.parametrize(
  'block', [Block(3, 1, 1, 4, True), Block(3, 2, 6, 5, False), Block(5, 2, 2, 4, False), Block(5, 1, 3, 4, True)]
)
@pytest.mark.parametrize('side', [7, 8])
def test_block_agrees_with_plain_loops(block, side):
  pixels = np.random.default_rng(1).normal(0, 1, (2, side, side, 4)).astype(np.float32)
  module = MBConv(block)
  params = random_params(module, pixels)
  found = module.apply({'params': params}, pixels)
  expected = [plain_block(x.astype(np.float64), params, block) for x in pixels]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_small_network_agrees_with_plain_loops():
  module = EfficientNetLite0(stages=(Stage(1, 3, 1, 1, 4), Stage(2, 5, 2, 2, 6)), stem=4, features=9, classes=3)
  pixels = np.random.default_rng(2).normal(0, 1, (2, 11, 11, 3)).astype(np.float32)
  params = random_params(module, pixels)
  features, logits = module.apply({'params': params}, pixels)
  for index, x in enumerate(pixels.astype(np.float64)):
    x = relu6(plain_convolution(x, params['stem']['kernel'], params['stem']['bias'], 2))
    for number, block in enumerate(efficientnet.blocks(module.stages, 4)):
      x = plain_block(x, params[f'block_{number:02}'], block)
    x = relu6(plain_convolution(x, params['head']['kernel'], params['head']['bias'], 1)).mean((0, 1))
    np.testing.assert_allclose(features[index], x, rtol=1e-4, atol=1e-4)
    expected = x @ params['classifier']['kernel'] + params['classifier']['bias']
    np.testing.assert_allclose(logits[index], expected, rtol=1e-3, atol=1e-3)


def test_size_is_that_of_the_published_network():
  shapes = network_shapes(EfficientNetLite0(), efficientnet.PIXELS)
  assert len(shapes) == 2 * 50
  # 4,652,008 parameters are published; folding leaves one number a channel where normalisation has two.
  channels = sum(shape[0] for name, shape in shapes.items() if name.endswith('bias') and 'classifier' not in name)
  assert sum(map(np.prod, shapes.values())) + channels == 4_652_008


def test_picture_is_cut_in_the_middle_and_scaled():
  image = np.zeros((300, 500, 3), np.uint8)
  image[:, 250:] = 255
  found = Preprocess()(image)
  assert found.shape == (224, 224, 3) and found.dtype == np.float32
  assert found[:, :100].max() == np.float32(-127 / 128) and found[:, 124:].min() == 1.0
  # A picture of 256 by 256 is cut, not resampled.
  image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
  np.testing.assert_array_equal(Preprocess()(image), (image[16:240, 16:240].astype(np.float32) - 127) / 128)


@pytest.mark.parametrize('resampling', ['bilinear', 'bicubic'])
def test_picture_is_near_resizing_first_and_cutting_then(resampling):
  noise = np.random.default_rng(3).integers(0, 256, (12, 16, 3), np.uint8)
  image = np.asarray(Image.fromarray(noise).resize((600, 400)))
  whole = Image.fromarray(image).resize((384, 256), getattr(Image.Resampling, resampling.upper()))
  left, top = (whole.width - 224) // 2, (whole.height - 224) // 2
  expected = (np.asarray(whole.crop((left, top, left + 224, top + 224)), np.float32) - 127) / 128
  assert np.abs(Preprocess(resampling=resampling)(image) - expected).mean() < 0.01


@pytest.mark.parametrize(
  'image', [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(image):
  with pytest.raises(ValueError, match=r'expected a picture \[H, W, 3\] of uint8, found'):
    Preprocess()(image)


def test_files_are_checked(tmp_path):
  with pytest.raises(FileNotFoundError, match='convert_backbone'):
    efficientnet.load_efficientnet(tmp_path / 'absent.safetensors')
  shapes = network_shapes(EfficientNetLite0(), efficientnet.PIXELS)
  arrays = {name: np.zeros(shape) for name, shape in shapes.items()}
  path = tmp_path / 'file.safetensors'
  save_arrays(arrays, path, {'format': 'dlkd_jax'})
  with pytest.raises(ValueError, match="format is 'dlkd_jax', expected"):
    efficientnet.load_efficientnet(path)
  save_arrays(arrays, path, {'format': efficientnet.FORMAT})
  module, params, _ = efficientnet.load_efficientnet(path)
  assert module == EfficientNetLite0() and params['block_15']['project']['kernel'].shape == (1, 1, 1152, 320)
  del arrays['stem/bias']
  arrays['head/bias'] = np.zeros(3)
  arrays['classifier/bias'][7] = np.nan
  save_arrays(arrays, path, {'format': efficientnet.FORMAT})
  with pytest.raises(ValueError) as error:
    efficientnet.load_efficientnet(path)
  assert 'stem/bias: found nothing, expected (32,)' in str(error.value)
  assert 'head/bias: found (3,), expected (1280,)' in str(error.value)
  assert 'classifier/bias: not finite' in str(error.value)
