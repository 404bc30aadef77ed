import json
import os

import pytest

from tests import forked
from tests.paths import repository

SMALL = (
  '--config.model.hidden=32',
  '--config.model.heads=2',
  "--config.model.branches=('inheritance',)",
  '--config.evaluation.weights=(1.0,)',
  '--config.similarity.form=blocked',
  '--features=48,24,16',
  '--gallery_videos=64',
  '--queries=128',
)


def plan(*arguments):
  environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
  command = ('--config=configs/tvr.py', *SMALL, *arguments)
  return forked.run('dlkd_jax.tools.plan', command, environment, repository())


@pytest.mark.slow
def test_plans_for_virtual_gpus(tmp_path):
  done = plan('--topology=gpu:2,h200:1', '--batch_videos=4,8', f'--json={tmp_path / "plan.json"}')
  assert done.returncode == 0, done.stderr
  assert 'gpu:2 (2 of NVIDIA H100): train step, 8 videos' in done.stdout
  assert 'not measurements' in done.stdout and 'of the CPU compiler' in done.stdout
  found = json.loads((tmp_path / 'plan.json').read_text())
  assert [(entry['topology'], entry['program'], entry['videos']) for entry in found] == [
    (name, *program)
    for name in ('gpu:2', 'h200:1')
    for program in (('train', 4), ('train', 8), ('encode', None), ('evaluate', None))
  ]
  train = {entry['topology']: entry['cost'] for entry in found if entry['videos'] == 8}
  assert train['h200:1']['collectives'] == []
  assert {each['kind'] for each in train['gpu:2']['collectives']} >= {'all-reduce', 'all-to-all', 'all-gather'}
  # Two devices share the operations of one, but for the room that each keeps for larger batches.
  one, two = (sum(train[name]['products'].values()) for name in ('h200:1', 'gpu:2'))
  assert 0.3 * one < two < 0.8 * one


def test_a_table_has_a_row_for_each_program():
  done = plan('--topology=gpu:1', '--programs=evaluate', '--table')
  assert done.returncode == 0, done.stderr
  table = done.stdout.split('\n\n')[1].splitlines()
  assert len(table) == 3
  assert len({line.count('|') for line in table}) == 1


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--topology=v1:2x2'], 'topology'),
    (['--topology=gpu:2', '--programs=fly'], 'unknown programs'),
    (['--topology=gpu:8', '--batch_videos=4'], 'leaves some of the 8 devices'),
  ],
  ids=str,
)
def test_errors_are_one_line(arguments, message):
  done = plan(*arguments)
  assert done.returncode == 1
  assert done.stderr.strip().splitlines()[-1].startswith('error: ')
  assert message in done.stderr
