"""Reading a training's log."""

import json

import numpy as np

from dlkd_jax.reporting.training_log import read_log


def write(folder, *records, tail=''):
  (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, records)) + '\n' + tail)


def step(number, **more):
  return {'step': number, 'loss/total': 2.0 / number, 'loss/distillation': 0.0, 'schedule/alpha': 0.8} | more


def test_series_are_in_epochs(tmp_path):
  write(tmp_path, step(2), step(4), {'step': 4, 'val/fused/SumR': 50.0}, step(8), {'step': 8, 'val/fused/SumR': 60.0})
  log = read_log(tmp_path)
  np.testing.assert_allclose(log.losses['total'], [[0.5, 1.0], [1, 0.5], [2, 0.25]])
  np.testing.assert_allclose(log.validation['fused'], [[1, 50], [2, 60]])
  np.testing.assert_allclose(log.coefficients['alpha'], [[0.5, 0.8], [1, 0.8], [2, 0.8]])
  assert 'distillation' not in log.losses and 'w' not in log.coefficients


def test_anchors_are_rated_before_the_first_epoch(tmp_path):
  rated = {'step': 0, 'val/fused/SumR': 40.0}
  write(tmp_path, rated, step(4), {'step': 4, 'val/fused/SumR': 50.0})
  np.testing.assert_allclose(read_log(tmp_path).validation['fused'], [[0, 40], [1, 50]])
  write(tmp_path, rated)
  np.testing.assert_allclose(read_log(tmp_path).validation['fused'], [[0, 40]])


def test_a_line_that_was_cut_off_is_passed_over(tmp_path):
  write(tmp_path, step(1), {'step': 1, 'val/fused/SumR': 50.0}, tail='{"step": 2, "loss/to')
  assert len(read_log(tmp_path).losses['total']) == 1


def test_no_log_and_no_epoch(tmp_path):
  assert read_log(tmp_path) is None
  write(tmp_path, step(1))
  assert read_log(tmp_path) is None
