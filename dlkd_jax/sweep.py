"""Ablations of a recipe: trains its variants over several seeds and makes one table of them.

  dlkd sweep --config=configs/charades.py --workdir=runs/sweep
  dlkd sweep --config=configs/charades.py --workdir=runs/sweep --epochs=6 --only=recipe,single
  dlkd sweep --config=configs/charades.py --workdir=runs/sweep --list
  dlkd sweep --config=configs/charades.py --workdir=runs/ladder --ladder

Variants are changes of the recipe that --config names, with its own arguments and fields
(`--config=configs/charades.py:uniform_negatives --config.data.data_dir=/data`): hard or soft labels, one
branch, no teacher, shapes of the distillation's decay, hard or uniform negatives, forms of the
divergence, how rows are split. What the recipe does already is left out. --list shows them, and how far
each run is.

With --ladder the variants are the pieces of the argument `plus` instead: added to the recipe one after
the other, each row compared with the one before it, and all of them but one, compared with all.

Every run is an ordinary training in `<workdir>/<variant>/seed_<n>`, seed after seed. The same command
leaves finished runs alone, goes on with one that was stopped, and prints the table again; it is kept in
`sweep.txt`, `sweep.md` and `sweep.json`, and shows all finished runs of the folder. Compiled programs are
kept in `<workdir>/compiled`, or in $JAX_COMPILATION_CACHE_DIR. The exit code is 1 where a run failed.
"""

import sys

from absl import flags
from ml_collections import config_flags

from dlkd_jax import doors

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Recipe, as configs/charades.py.', lock_config=True)
_WORKDIR = doors.DEFINE_path('workdir', None, 'Folder of the runs and the table; made where absent.')
_SEEDS = flags.DEFINE_integer('seeds', 3, "How many seeds, from the recipe's own on.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer('epochs', None, "Length of each training; default: the recipe's.", lower_bound=1)
_ONLY = flags.DEFINE_list('only', [], 'Variants to train; default: all.')
_LADDER = flags.DEFINE_bool('ladder', False, 'Train with the pieces of `plus`, instead of the ablations.')
_LIST = flags.DEFINE_bool('list', False, 'Show the variants and how far they are, and train nothing.')


def _list(config, variants, runs):
  width = max(len(variant.name) for variant in variants)
  for variant in variants:
    states = ', '.join(f'seed {run.seed} {run.state}' for run in runs if run.variant.name == variant.name)
    changes = ', '.join(f'{field}={value}' for field, value in variant.changes.items()) or 'no change'
    print(f'{variant.name:{width}}  {variant.about} ({changes})\n{"":{width}}  {states}')
  print(f'{len(runs)} runs of {config.training.epochs} epochs')


def _sweep(stop):
  from dlkd_jax import config as config_lib
  from dlkd_jax.reporting import sweep_table, sweeping, variants
  from dlkd_jax.training import recipe

  workdir = _WORKDIR.value
  config = variants.prepare(doors.config_of(_CONFIG), _EPOCHS.value)
  config_lib.validate(config)
  every = variants.ladder_of(config) if _LADDER.value else variants.variants_of(config)
  chosen = variants.choose(every, _ONLY.value)
  seeds = range(config.seed, config.seed + _SEEDS.value)
  runs = sweeping.plan(config, chosen, seeds, workdir)
  if _LIST.value:
    _list(config, chosen, runs)
    return []
  doors.keep_compiled(workdir / 'compiled')  # Runs that differ in their seeds alone share programs.
  split = recipe.names(config, ('test', 'val'))[0]
  videos = len(recipe.open_split(config, split))

  def table():
    finished = sweeping.finished_runs(config, every, workdir)
    return sweep_table.write(workdir, config, sweep_table.summarise(every, finished, split, videos))

  failed = sweeping.train_all(runs, stop, table)
  print(f'\n{table()}')
  return failed


def main(names):
  """Dispatches."""
  doors.collect_seldom()
  # Imported here, so that --help answers at once.
  from dlkd_jax import multihost

  stop = multihost.StopRequest()
  try:
    with stop:
      failed = _sweep(stop)
  except multihost.Stopped as stopped:
    doors.ignore_terminations()
    print(stop.describe(stopped), file=sys.stderr)
    return stop.code
  except KeyboardInterrupt:
    print('interrupted before anything was changed', file=sys.stderr)
    return multihost.INTERRUPTED
  if failed:
    print('\n'.join(['', f'error: {len(failed)} runs failed:', *failed]), file=sys.stderr)
  return int(bool(failed))


if __name__ == '__main__':
  doors.run(main, required=['config', 'workdir'])
