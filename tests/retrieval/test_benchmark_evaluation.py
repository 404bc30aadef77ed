"""The benchmark of evaluation runs, prints and writes what it measured; its count of FLOPs is right."""

import json

import jax
import jax.numpy as jnp

from dlkd_jax.tools import benchmark_evaluation, rates


def test_it_runs(capsys, tmp_path):
  path = tmp_path / 'found.json'
  arguments = ['--size=tiny', '--hidden=16', '--videos=40', '--captions=100', '--repeat=2', f'--json={path}']
  benchmark_evaluation.main(arguments)
  printed = capsys.readouterr().out
  assert 'queries/s' in printed and 'peak memory' in printed and 'share of the rate' in printed
  found = json.loads(path.read_text())
  assert len(found['seconds']) == 2 and found['share_of_matmul_rate'] > 0 and found['dtype'] == 'float32'
  assert all(0 < some < whole for some, whole in zip(found['ranking_seconds'], found['seconds'], strict=True))
  assert found['gallery_bytes'] == 64 * 16 * 16 * 4 * 2  # Blocks of 32 videos, 40 of them real.
  assert found['feature_bytes'] == 40 * 16 * 16 * 4 * 2


def test_flops_are_counted_inside_of_loops_and_calls():
  def function(a, b):
    return jax.lax.map(lambda row: jax.jit(jnp.matmul)(row, b), a) + 1

  shapes = jax.ShapeDtypeStruct((5, 2, 3), jnp.float32), jax.ShapeDtypeStruct((3, 7), jnp.float32)
  assert rates.product_flops(function, *shapes) == 5 * 2 * (2 * 3 * 7)
