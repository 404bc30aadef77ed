"""Runs side by side: grouping by seeds, and what is compared with what."""

import dataclasses

import numpy as np
import pytest

from configs import charades
from dlkd_jax.reporting import bootstrap, comparison
from dlkd_jax.reporting.bootstrap import Interval
from dlkd_jax.reporting.findings import Estimate, RunFindings
from dlkd_jax.training import recipe
from tests.reporting import worlds


def findings(name, seed, captions=60):
  data = worlds.split(captions=captions, seed=seed)
  metrics = {
    scorer: {m: Estimate(v, Interval(v - 1, v + 1)) for m, v in values.items()}
    for scorer, values in data.metrics().items()
  }
  empty = {field.name: None for field in dataclasses.fields(RunFindings)}
  values = {scorer: bootstrap.caption_values(ranks) for scorer, ranks in data.ranks.items()}
  some = {'about': {'dataset': 'made_up'}, 'captions': data.caption_ids, 'clusters': data.own, 'values': values}
  return RunFindings(**(empty | {'name': name, 'primary': 'fused', 'metrics': metrics} | some))


def compare(names_and_arguments):
  found = [findings(name, seed) for seed, (name, _) in enumerate(names_and_arguments)]
  return found, comparison.compare_runs(found, [charades.get_config(x) for _, x in names_and_arguments], worlds.QUICK)


def test_runs_that_differ_in_their_seed_alone_are_a_group():
  found, result = compare([('soft_0', 'seed=0'), ('hard_0', 'hard'), ('soft_1', 'seed=1'), ('soft_2', 'seed=2')])
  assert [(group.name, group.runs) for group in result.groups] == [
    ('soft (3 seeds)', ['soft_0', 'soft_1', 'soft_2']),
    ('hard_0', ['hard_0']),
  ]
  assert result.groups[0].values['SumR'] == [found[i].metrics['fused']['SumR'].value for i in (0, 2, 3)]
  assert result.differences['hard_0'] == ['loss.soft_labels: True → False'] and not result.differences['soft_0']
  # Seeds of a group are not compared with each other, but where there is nothing else.
  assert len(result.runs) == 3 * 4 and len(result.of_groups) == 4
  assert all('hard_0' in (x.first, x.second) for x in result.runs)


def test_what_changes_rounding_alone_parts_no_seeds():
  configs = [charades.get_config(f'seed={seed}') for seed in range(4)]
  configs[1:] = [recipe.resolved(config, 'cpu') for config in configs[1:]]  # Runs of before kept 'auto', as the first.
  for config in configs[2:]:
    config.similarity.form, config.data.slots, config.training.checkpoint_every_steps = 'pallas', 3, 7
  configs[3].training.patience = 3
  found = [findings(f'run_{seed}', seed) for seed in range(4)]
  result = comparison.compare_runs(found, configs, worlds.QUICK)
  assert [group.runs for group in result.groups] == [['run_0', 'run_1', 'run_2'], ['run_3']]


def test_group_differences_are_those_of_means():
  found, result = compare([('a_0', 'seed=0'), ('a_1', 'seed=1'), ('b', 'hard')])
  (sum_r,) = [x for x in result.of_groups if x.metric == 'SumR']
  values = [x.metrics['fused']['SumR'].value for x in found]
  assert sum_r.difference == pytest.approx(np.mean(values[:2]) - values[2])


def test_many_runs_are_compared_with_the_first():
  _, result = compare([(f'r{i}', f'epochs={i + 1}') for i in range(7)])
  assert len(result.runs) == 6 * 4 and {x.first for x in result.runs} == {'r0'} and not result.of_groups


def test_other_captions_are_not_compared():
  found = [findings('a', 0), findings('b', 1, captions=40)]
  result = comparison.compare_runs(found, [charades.get_config(), charades.get_config('hard')], worlds.QUICK)
  assert not result.runs and 'b was evaluated on 40 captions' in result.obstacle


def test_groups_have_names_of_their_own():
  _, result = compare([('r1', 'seed=0'), ('r2', 'seed=1'), ('r3', 'hard'), ('r4', 'hard,seed=1')])
  assert [group.name for group in result.groups] == ['r1, r2', 'r3, r4'] and len(result.of_groups) == 4


def test_seeds_alone_are_compared():
  _, result = compare([('a_0', 'seed=0'), ('a_1', 'seed=1')])
  assert len(result.runs) == 4 and not result.of_groups
