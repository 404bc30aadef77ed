"""An evaluation to publish, of one trained run or of several: a page that opens offline, Markdown and JSON.

  dlkd report --workdir=runs/charades
  dlkd report --workdir=runs/soft_0 --workdir=runs/soft_1 --workdir=runs/hard_0 --output=runs/compared
  dlkd report --workdir=runs/charades --split=test --relevant=relevant.jsonl

It evaluates the best checkpoint again and writes, to --output, `report.html` (one file, figures in it),
`report.md` with `figures/`, and `report.json`: all metrics of every branch, fused and of the teacher
alone, with bootstrap intervals over videos and over captions; slices; whether the best frame lies in the
annotated moment; fusion weights chosen on validation; curves of the training; best and worst queries with
their frame curves. Several runs are set side by side, with paired tests; runs that differ in their seed
alone are also averaged.

--relevant names a file of captions with several relevant videos, JSON, one a line:

  {"caption": "vid7#3", "videos": ["vid7", "vid9"]}

Nothing in the work directories is changed, but for the folder `report` of the first where --output is not
given.
"""

from absl import flags

from dlkd_jax import doors
from dlkd_jax.errors import UserError

_WORKDIR = doors.DEFINE_multi_path('workdir', 'Folder of a training; may be given several times.')
_SPLIT = flags.DEFINE_enum('split', 'test', ['train', 'val', 'test'], 'Split to report.')
_OUTPUT = doors.DEFINE_path('output', None, 'Folder of the report; default: report in the first --workdir.')
_RELEVANT = doors.DEFINE_path('relevant', None, 'JSON lines that name all relevant videos of captions.')
_DATA_DIR = doors.DEFINE_path('data_dir', None, 'Where the data set lies; default: where it lay in training.')
_SAMPLES = flags.DEFINE_integer('samples', 2000, 'Bootstrap samples of each interval.', lower_bound=100)
_PERMUTATIONS = flags.DEFINE_integer('permutations', 10_000, 'Permutations of each test.', lower_bound=100)
_EXAMPLES = flags.DEFINE_integer('examples', 4, 'Best, and worst, queries to show.', lower_bound=0)


def _names(workdirs):
  """Returns what to call each run: the end of its path, as much as tells them apart."""
  for count in range(1, max(len(path.parts) for path in workdirs) + 1):
    names = ['/'.join(path.parts[-count:]) for path in workdirs]
    if len(set(names)) == len(names):
      return names
  raise UserError(f'a --workdir is given twice: {", ".join(map(str, workdirs))}')


def _report():
  from dlkd_jax.reporting import analysis, comparison, report_document, trained_run

  def say(text):
    print(text, flush=True)

  workdirs = [path.absolute() for path in _WORKDIR.value]
  names = _names(workdirs)
  options = analysis.Options(
    split=_SPLIT.value,
    relevant=_RELEVANT.value,
    samples=_SAMPLES.value,
    permutations=_PERMUTATIONS.value,
    examples=_EXAMPLES.value,
  )
  data_dir = str(_DATA_DIR.value) if _DATA_DIR.value else None
  # All are opened before any is evaluated, which takes a while.
  runs = [trained_run.open_run(path, name, _SPLIT.value, data_dir) for path, name in zip(workdirs, names, strict=True)]
  findings = [analysis.analyse(run, options, say) for run in runs]
  compared = comparison.compare_runs(findings, [run.config for run in runs], options) if len(runs) > 1 else None
  output = _OUTPUT.value or workdirs[0] / 'report'
  content = report_document.build(findings, compared, options)
  return report_document.write(output, content, report_document.as_json(findings, compared, options))


def main(names):
  """Reports."""
  for path in _report():
    print(path)


if __name__ == '__main__':
  doors.run(main, required=['workdir'], stopped='interrupted; nothing was written')
