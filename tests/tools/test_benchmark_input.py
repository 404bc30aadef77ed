"""The benchmark of the input pipeline measures both forms."""

import json

import numpy as np
import pytest

from dlkd_jax.tools import benchmark_input, lengths


def test_it_runs_small(tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(lengths.SIZES, 'tvr', (8, 6, 4))
  monkeypatch.setitem(lengths.MODELS, 'tvr', lambda videos=200: lengths.tvr_like(videos))
  path = tmp_path / 'numbers.json'
  flags = ['--videos=24', '--batch_videos=8', '--batches=2', '--steps', '0.001', '--shards=2', f'--json={path}']
  benchmark_input.main(flags)
  out = capsys.readouterr().out
  assert 'packed: pipeline alone' in out and 'padded: step of 0.001 s sleeping' in out
  packed, padded = json.loads(path.read_text())
  assert packed['form'] == 'packed' and packed['padding_frames'] < padded['padding_frames']
  assert packed['shapes'] <= 4 and packed['batch_ms'] > 0


def test_the_full_model_leaves_nothing_to_pack():
  found = lengths.full(10)
  assert set(found.student) == set(found.teacher) == {128} and set(found.tokens) == {30} and len(found) == 10


@pytest.mark.parametrize('model', ['tvr', 'activitynet'])
def test_models_are_as_described(model):
  found = lengths.MODELS[model]()
  frames = np.minimum(found.student, 128).mean()
  assert (48 < frames < 52) if model == 'tvr' else (85 < frames < 105)
  assert abs(found.captions.mean() - (5 if model == 'tvr' else 3.73)) < 0.05
  assert 12.5 < found.tokens.mean() < 13.5 and found.tokens.min() >= 3
