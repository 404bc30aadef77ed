"""What a training or an evaluation would cost on devices that are not here, by their real compiler.

    python -m dlkd_jax.tools.plan --config=configs/tvr.py --topology=v5e:16x16
    python -m dlkd_jax.tools.plan --config=configs/tvr.py --topology=v5e:1x1,v5e:2x4 --batch_videos=512,1024 --table
    python -m dlkd_jax.tools.plan --config=configs/tvr.py --topology=gpu:8

For a TPU (`v4`, `v5e`, `v5p`, `v6e`) the program is compiled ahead of time by the compiler of the package `libtpu`
(`pip install -e '.[train,tpu]'`); neither a TPU nor Google Cloud is needed. Memory is the compiler's own account, and a
program that does not fit is refused as it would be there. `gpu:8` (an H100; also `h200:8`) compiles for so many virtual
devices of the CPU: arguments, operations and what the partitioner exchanges are right, but temporaries, fusion and
memory traffic are those of the CPU's compiler and only hint at a GPU's.

Times are bounds by the published peak rates of the chip, as if everything overlapped; they are not measurements, and
no program reaches them. Any field of the recipe can be overridden (`--config.similarity.form=blocked`).
"""

import pathlib

from absl import app, flags
from ml_collections import config_flags

from dlkd_jax import files
from dlkd_jax.config_defaults import RECIPES

_CONFIG = config_flags.DEFINE_config_file('config', str(RECIPES / 'tvr.py'), 'Recipe.', lock_config=True)
_TOPOLOGY = flags.DEFINE_list('topology', ['v5e:16x16'], 'Devices; several are planned for one after another.')
_BATCH = flags.DEFINE_list(
  'batch_videos', [], 'Videos a batch, over all devices; several are planned for. Empty: what the recipe says.'
)
_GROW = flags.DEFINE_bool('grow', False, 'After the given batches, double the last one until it does not fit.')
_PROGRAMS = flags.DEFINE_list('programs', ['train', 'encode', 'evaluate'], 'Which of these three to plan for.')
_LENGTHS = flags.DEFINE_enum('lengths', 'tvr', ['tvr', 'activitynet', 'full'], 'What videos and captions are like.')
_CAPTIONS = flags.DEFINE_float('captions_per_video', None, 'Mean; unset: as in that data set.')
_SIZES = flags.DEFINE_list('features', [], 'Feature sizes Dv,Dq,Dt; empty: as in that data set.')
_VIDEOS = flags.DEFINE_integer('gallery_videos', 2179, 'Videos of the split to evaluate.')
_QUERIES = flags.DEFINE_integer('queries', 10895, 'Captions of the split to evaluate.')
_TABLE = flags.DEFINE_bool('table', False, 'Print one Markdown table instead of an account of each program.')
_JSON = flags.DEFINE_string('json', None, 'File to write everything to.')


def main(argv):
  """Plans all programs on all topologies; errors of the user's input end with one message."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  # Imported here, so that --help answers at once.
  import jax

  from dlkd_jax.tools.planning import planner, topologies
  from dlkd_jax.tools.planning.programs import Gallery
  from dlkd_jax.tools.planning.workload import Workload

  jax.config.update('jax_platforms', 'cpu')
  if count := topologies.virtual_devices(_TOPOLOGY.value):
    jax.config.update('jax_num_cpu_devices', count)
  workload = Workload(_LENGTHS.value, _CAPTIONS.value, tuple(map(int, _SIZES.value)) or None)
  try:
    plans, found = planner.Planner(_CONFIG.value, workload, Gallery(_VIDEOS.value, _QUERIES.value)), []
    batches = [int(batch) for batch in _BATCH.value] or [_CONFIG.value.data.batch_videos]
    for name in _TOPOLOGY.value:
      for planned in plans.plan(topologies.find(name), _PROGRAMS.value, batches, _GROW.value):
        found.append(planned)
        print(' | '.join(planner.row(planned)) if _TABLE.value else planner.describe(planned), flush=True)
  except ValueError as error:
    raise SystemExit(f'error: {error}') from error
  if _TABLE.value:
    print('\n' + planner.table(found))
  print('\n' + planner.assumptions(found))
  if _JSON.value:
    files.write_json(pathlib.Path(_JSON.value), [planned.as_dict() for planned in found])


if __name__ == '__main__':
  app.run(main)
