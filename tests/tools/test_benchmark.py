"""The benchmarks: they run, count what they say they count, and end in one table."""

import functools
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax import sharding
from dlkd_jax.tools import benchmark, benchmark_backbones, benchmark_step, rates
from dlkd_jax.tools import lengths as models
from dlkd_jax.tools.random_data import RandomSource, random_batch
from tests import options as made
from tests.models import clips, test_i3d


def test_flops_count_loops_branches_and_devices():
  a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
  once = 2 * 3 * 4 * 5
  assert rates.product_flops(jnp.dot, a, b) == once
  assert rates.product_flops(lambda a, b: jax.lax.map(lambda _: a @ b, jnp.arange(6)), a, b) == 6 * once
  assert (
    rates.product_flops(lambda a, b: jax.lax.cond(a.sum() > 0, lambda: a @ b, lambda: jnp.zeros((3, 5))), a, b) == once
  )
  mesh = sharding.make_mesh(jax.devices()[:2])
  split = jax.shard_map(
    jnp.dot, mesh=mesh, in_specs=(sharding.rows(mesh).spec, None), out_specs=sharding.rows(mesh).spec
  )
  assert rates.product_flops(split, jnp.ones((6, 4)), b) == 2 * once
  assert rates.MatmulRate(64, 64, 64).measure() > 0


def test_flops_count_convolutions():
  convolve = functools.partial(
    jax.lax.conv_general_dilated, window_strides=(2, 2), padding='VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  # 2 images, 3 by 3 windows, each a product of 2·2·3 numbers for each of 5 channels; or of 2·2 with a group a channel.
  images = jnp.ones((2, 6, 6, 3))
  assert rates.product_flops(convolve, images, jnp.ones((2, 2, 3, 5))) == 2 * (2 * 3 * 3 * 5) * 12
  grouped = functools.partial(convolve, feature_group_count=3)
  assert rates.product_flops(grouped, images, jnp.ones((2, 2, 1, 3))) == 2 * (2 * 3 * 3 * 3) * 4


def test_clip_benchmark_counts_its_products():
  config = clips.tiny_config()
  found = benchmark_backbones.measure(benchmark_backbones.towers(config, 4), batch=4, repeats=1)
  tower = config.image.tower
  tokens = 1 + config.image.patches
  block = 2 * tokens * tower.width * (4 * tower.width + 2 * tower.hidden) + 4 * tokens**2 * tower.width
  patches = 2 * config.image.patches * config.image.patch**2 * 3 * tower.width
  expected = patches + tower.layers * block + 2 * tower.width * config.features
  assert found['images']['gflop_each'] * 1e9 == pytest.approx(expected)
  assert found['images']['a_second'] > 0 and found['texts']['share_of_product_rate'] > 0


def test_products_of_a_clip_are_counted(monkeypatch):
  monkeypatch.setitem(benchmark_backbones._CONVOLUTIONAL, 'i3d', lambda: test_i3d.SMALL)
  timed = benchmark_backbones.network('i3d', batch=2, side=12)
  found = benchmark_backbones.measure(timed, batch=2, repeats=1)['clips']
  # The first convolution alone: 8 · 6 · 6 places of 7 · 7 · 7 · 3 numbers for each of 2 channels.
  assert found['gflop_each'] * 1e9 > 2 * 8 * 6 * 6 * 7**3 * 3 * 2 and found['share_of_product_rate'] > 0


def test_random_records_are_the_same_each_time_and_fit_their_lengths():
  lengths = models.tvr_like(5)
  source = RandomSource(lengths, models.SIZES['tvr'])
  first, again = source[2], source[2]
  np.testing.assert_array_equal(first['student_frames'], again['student_frames'])
  assert len(first['student_frames']) == lengths.student[2] and first['teacher_text'].shape == (5, 512)
  with pytest.raises(IndexError):
    source[5]


def test_all_forms_of_a_random_batch_hold_the_same_videos():
  packed = random_batch('tvr', made.pipeline_options(batch_videos=4))
  padded = random_batch('tvr', made.pipeline_options(batch_videos=4, packing=False, frame_sizes=(128,)))
  assert packed.student_frames.shape[0] < padded.student_frames.shape[0] == 4
  for batch in (packed, padded):
    assert np.sum(batch.video_mask) == 4 and np.sum(batch.caption_mask) == 20
  sums = [np.sort(batch.student_frames[np.asarray(batch.frame_layout.mask)].sum(axis=-1)) for batch in (packed, padded)]
  np.testing.assert_array_equal(*sums)


@pytest.mark.slow
def test_step_benchmark_measures_both_forms(monkeypatch):
  result = benchmark_step.measure('tvr', ('packed', 'baseline'), videos=8, repeats=1)
  packed, baseline = result['packed'], result['baseline']
  assert packed['flops'] < 0.7 * baseline['flops'] and packed['padding_frames'] < baseline['padding_frames']
  assert packed['temporary_bytes'] < baseline['temporary_bytes']
  assert 'packed over baseline' in benchmark_step.table(result)


def test_one_table_and_json_of_the_sections_asked_for(tmp_path, capfd, monkeypatch):
  def here(command):
    importlib.import_module(f'dlkd_jax.tools.{command[0]}').main([*command[1:], f'--json={tmp_path / "one.json"}'])
    return json.loads((tmp_path / 'one.json').read_text())

  monkeypatch.setattr(benchmark, 'run', here)  # A process of its own is for a user's measurements.
  benchmark.main(['--sections=checkpoint', '--quick', f'--json={tmp_path / "found.json"}'])
  assert '| checkpoint, tvr,' in capfd.readouterr().out
  (found,) = json.loads((tmp_path / 'found.json').read_text())['checkpoint']
  # The optimiser's moments are zeros still, and take no room on disk.
  assert found['save_seconds'] > 0 and found['disk_bytes'] > found['state_bytes'] * 0.2


def test_unknown_sections_are_refused(capsys):
  with pytest.raises(SystemExit):
    benchmark.main(['--sections=speed'])
  assert "unknown section(s) ['speed']" in capsys.readouterr().err


@pytest.mark.slow
def test_all_sections_run_at_tiny_sizes(tmp_path):
  benchmark.main(['--quick', f'--json={tmp_path / "found.json"}'])
  assert set(json.loads((tmp_path / 'found.json').read_text())) == set(benchmark.SECTIONS)
