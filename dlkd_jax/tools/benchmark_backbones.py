"""Benchmark of backbones as the extraction runs them: how many a second, and the share of the matmul rate.

python -m dlkd_jax.tools.benchmark_backbones
python -m dlkd_jax.tools.benchmark_backbones --network=ViT-L/14 --batch=128 --json=clip.json
python -m dlkd_jax.tools.benchmark_backbones --network=i3d --batch=2

Weights are random: they change no time. CLIP's products are bfloat16 on accelerators and float32 on a CPU, all others
float32, over all devices of the process; the rate is that of a plain product of the same type in the same run, on one
device, times their number. A clip of I3D is 16 pictures.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlkd_jax import files
from dlkd_jax.files import expand
from dlkd_jax.models.clip import SIZES, Clip, ClipConfig
from dlkd_jax.models.efficientnet import EfficientNetLite0
from dlkd_jax.models.i3d import I3D
from dlkd_jax.models.resnet import ResNet
from dlkd_jax.tools import rates
from dlkd_jax.video.clip_backbone import product_dtype
from dlkd_jax.video.in_batches import InBatches

_CONVOLUTIONAL = {'efficientnet_lite0': EfficientNetLite0, 'resnet152': ResNet, 'i3d': I3D}
_CLIP_PICTURES = 16
NETWORKS = (*SIZES, *_CONVOLUTIONAL)

# What is timed: its name, a function of parameters and rows, the parameters, the rows.
_Timed = tuple[str, Callable[[Any, jax.Array], jax.Array], Any, np.ndarray]


def towers(config: ClipConfig, batch: int) -> Iterator[_Timed]:
  """Yields both towers of a CLIP with `batch` images, and texts."""
  clip, rng = Clip(config, product_dtype()), np.random.default_rng(0)
  pixels = rng.normal(size=(batch, config.image.size, config.image.size, 3)).astype(np.float32)
  ids = rng.integers(0, config.text.vocabulary, (batch, config.text.context)).astype(np.int32)
  params = jax.jit(clip.init)(jax.random.key(0), pixels[:1], ids[:1])['params']
  for name, method, rows in (('images', 'encode_image', pixels), ('texts', 'encode_text', ids)):
    encode = lambda params, rows, method=method: clip.apply({'params': params}, rows, method=method).features  # noqa: E731
    yield name, encode, params, rows


def network(name: str, batch: int, side: int = 224) -> Iterator[_Timed]:
  """Yields a convolutional network with `batch` images, or clips."""
  module = _CONVOLUTIONAL[name]()
  shape = (batch, *((_CLIP_PICTURES,) if name == 'i3d' else ()), side, side, 3)
  pixels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), pixels[:1])['params']
  params = jax.tree.map(lambda x: jnp.full(x.shape, 0.01), shapes)
  yield 'clips' if name == 'i3d' else 'images', lambda params, x: module.apply({'params': params}, x)[0], params, pixels


def measure(timed: Iterator[_Timed], batch: int, repeats: int, dtype: Any = jnp.float32) -> dict[str, Any]:
  """Times each function, and a plain product of the type before each of its runs.

  Returns:
    For `images`, `clips` and `texts`: median seconds of a batch, how many a second, GFLOP each, share of the product
    rate.
  """
  product, found = rates.MatmulRate(dtype=dtype), {}
  for name, encode, params, rows in timed:
    flops = rates.product_flops(encode, params, jnp.asarray(rows[:1]))
    run = InBatches(encode, params)
    run(rows)  # Compiles.
    pairs = [(product.measure(), rates.seconds(run, rows)) for _ in range(repeats)]
    peak, taken = (statistics.median(column) for column in zip(*pairs, strict=True))
    found[name] = {
      'seconds': taken,
      'a_second': batch / taken,
      'gflop_each': flops / 1e9,
      'share_of_product_rate': flops * batch / taken / (peak * jax.local_device_count()),
    }
  return found | {'batch': batch, 'dtype': jnp.dtype(dtype).name, 'device': jax.devices()[0].device_kind}


def main(arguments: list[str] | None = None) -> None:
  """Runs the benchmark and prints what it measured."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--network', choices=NETWORKS, default='ViT-B/32', help='(default %(default)s)')
  parser.add_argument('--batch', type=int, default=32, help='images, clips or texts at once (default %(default)s)')
  parser.add_argument('--repeats', type=int, default=5, help='(default %(default)s)')
  parser.add_argument('--json', type=expand, help='file to write the numbers to')
  flags = parser.parse_args(arguments)
  if flags.network in SIZES:
    found = measure(towers(SIZES[flags.network], flags.batch), flags.batch, flags.repeats, product_dtype())
  else:
    found = measure(network(flags.network, flags.batch), flags.batch, flags.repeats)
  found = {'network': flags.network} | found
  for name in ('images', 'clips', 'texts'):
    if r := found.get(name):
      print(
        f'{flags.network}, {found["dtype"]}, {found["device"]}: {r["a_second"]:,.1f} {name}/s in batches of '
        f'{flags.batch}, {r["gflop_each"]:.2f} GFLOP each, {r["share_of_product_rate"]:.0%} of the product rate'
      )
  if flags.json:
    files.write_json(flags.json, found)


if __name__ == '__main__':
  main()
