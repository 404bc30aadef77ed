"""Benchmark of CLIP's towers as the extraction runs them: images/s and texts/s, and the share of the matmul rate.

python -m dlkd_jax.tools.benchmark_clip
python -m dlkd_jax.tools.benchmark_clip --size=ViT-L/14 --batch=128 --json=clip.json

Weights are random: they change no time. Products are bfloat16 on accelerators and float32 on a CPU, over all devices of
the process; the rate is that of a plain product of the same type in the same run, on one device, times their number.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlkd_jax.files import expand
from dlkd_jax.models.clip import SIZES, Clip, ClipConfig
from dlkd_jax.tools import rates
from dlkd_jax.video.clip_backbone import product_dtype
from dlkd_jax.video.in_batches import InBatches


def measure(config: ClipConfig, batch: int, repeats: int) -> dict[str, Any]:
  """Times both towers, and a plain product before each of their runs.

  Returns:
    For `images` and `texts`: median seconds of a batch, how many a second, GFLOP each, share of the product rate.
  """
  dtype = product_dtype()
  clip, rng = Clip(config, dtype), np.random.default_rng(0)
  pixels = rng.normal(size=(batch, config.image.size, config.image.size, 3)).astype(np.float32)
  ids = rng.integers(0, config.text.vocabulary, (batch, config.text.context)).astype(np.int32)
  params = jax.jit(clip.init)(jax.random.key(0), pixels[:1], ids[:1])['params']
  product = rates.MatmulRate(dtype=dtype)

  def encode(method):
    return lambda params, rows: clip.apply({'params': params}, rows, method=method).features

  found = {}
  for name, method, rows in (('images', 'encode_image', pixels), ('texts', 'encode_text', ids)):
    flops = rates.product_flops(encode(method), params, jnp.asarray(rows[:1]))
    run = InBatches(encode(method), params)
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
  parser.add_argument('--size', choices=SIZES, default='ViT-B/32', help='(default %(default)s)')
  parser.add_argument('--batch', type=int, default=32, help='images, and texts, at once (default %(default)s)')
  parser.add_argument('--repeats', type=int, default=5, help='(default %(default)s)')
  parser.add_argument('--json', type=expand, help='file to write the numbers to')
  flags = parser.parse_args(arguments)
  found = {'size': flags.size} | measure(SIZES[flags.size], flags.batch, flags.repeats)
  for name in ('images', 'texts'):
    r = found[name]
    print(
      f'{flags.size}, {found["dtype"]}, {found["device"]}: {r["a_second"]:,.1f} {name}/s in batches of {flags.batch}, '
      f'{r["gflop_each"]:.2f} GFLOP each, {r["share_of_product_rate"]:.0%} of the product rate'
    )
  if flags.json:
    flags.json.write_text(json.dumps(found, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
  main()
