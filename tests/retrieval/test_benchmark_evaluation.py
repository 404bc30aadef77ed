"""The benchmark of evaluation runs and prints what it measured."""

from dlkd_jax.tools import benchmark_evaluation


def test_it_runs(capsys):
  benchmark_evaluation.main(['--size=tiny', '--hidden=16', '--videos=40', '--caption_block=64'])
  printed = capsys.readouterr().out
  assert 'queries/s' in printed and 'peak' in printed
  assert printed.splitlines()[-1].startswith('chance')
