"""The demonstration: its stages in their order."""

from __future__ import annotations

import functools
import pathlib
import shutil
import sys

from dlkd_jax import files
from dlkd_jax.demo import films, pretraining, sheet, stages, students, table
from dlkd_jax.demo.settings import DemoSettings
from dlkd_jax.errors import UserError
from dlkd_jax.gallery import building
from dlkd_jax.gallery.collection import Collection, Knowledge
from dlkd_jax.video import extraction

# A sentence as a person would type it.
EXAMPLE = 'a big red ball on the grass'


def all_stages(settings: DemoSettings, workdir: pathlib.Path) -> list[stages.Stage]:
  """Returns the stages, each of which reads what those before it wrote below `workdir`."""
  count = sum(settings.films)
  render = functools.partial(films.render_corpus, settings, workdir / 'corpus')
  pretrain = functools.partial(pretraining.pretrain, settings, workdir / 'clip')
  return [
    stages.Stage('films', f'rendering {count} untrimmed films', render),
    stages.Stage('clip', 'pretraining a small CLIP on single moments of other scenes', pretrain),
    stages.Stage('features', 'features of films and captions', functools.partial(_extract, settings, workdir)),
    stages.Stage(
      'students',
      f'training {settings.students * len(students.KINDS)} students',
      functools.partial(_train, settings, workdir),
      settings.students,
    ),
    stages.Stage('index', 'index of the test films', functools.partial(_index, workdir)),
    stages.Stage(
      'results', 'table and contact sheet', functools.partial(_report, settings, workdir), settings.students
    ),
  ]


def _extract(settings: DemoSettings, workdir: pathlib.Path) -> None:
  """Makes the data set custom_prvr of the films: the small CLIP is the teacher.

  The teacher sees single pictures. The student has the CLIP's states of them, too, and statistics of what moves.

  Raises:
    ValueError: a film could not be extracted.
  """
  clip = workdir / 'clip'
  request = extraction.Request(
    videos=workdir / 'corpus' / 'videos',
    data_dir=workdir / 'data',
    captions=workdir / 'corpus' / 'captions.jsonl',
    teacher=f'clip:{clip}',
    student=f'clip:{clip}@layer=-2+motion',
    tokens='words:256',
    rate=settings.sampled,
    readers=settings.processes,
    settle_seconds=0,  # The films are whole: an earlier stage wrote them.
  )
  result = extraction.extract(request)
  if result.builder is None or result.outcomes.usable != sum(settings.films):
    raise UserError(f'not every film could be extracted; {result.report_file} says which, and why:\n{result.outcomes}')


def _train(settings: DemoSettings, workdir: pathlib.Path) -> None:
  students.train_all(settings, workdir / 'data', workdir / 'students')


def _index(workdir: pathlib.Path) -> None:
  """Makes an index of the test split, which the first student with a teacher searches."""
  collection = Collection.open(str(workdir / 'data'), 'custom_prvr', ['test'])
  knowledge = Knowledge.read(str(workdir / 'corpus' / 'videos'), None)
  settings = building.IndexSettings(clip=str((workdir / 'clip').absolute()))
  building.build(workdir / 'index', collection, workdir / 'students' / 'distilled_0', settings, knowledge)


def _report(settings: DemoSettings, workdir: pathlib.Path) -> None:
  """Writes `results.md` and `found.png`."""
  runs = workdir / 'students'
  text = table.markdown(students.read_results(settings, runs), students.read_ranks(settings, runs), settings.films[2])
  sheet.write_sheet(workdir / 'index', workdir / 'found.png')
  files.write_text(workdir / 'results.md', text + '\n')


def demonstrate(settings: DemoSettings, workdir: pathlib.Path, until: str | None = None) -> dict[str, float]:
  """Runs the stages that are not done.

  Args:
    settings: sizes.
    workdir: where everything goes.
    until: name of the last stage to run; None: all.

  Returns:
    Name → seconds of each stage.

  Raises:
    ValueError: there is no such stage, or the work directory was begun with other settings.
    OSError: something cannot be written.
  """
  planned = all_stages(settings, workdir)
  names = [stage.name for stage in planned]
  if until is not None and until not in names:
    raise UserError(f'there is no stage {until!r}; expected one of {", ".join(names)}')
  stages.claim(workdir, settings)
  last = len(names) if until is None else names.index(until) + 1
  seconds = stages.run(planned[:last], workdir, functools.partial(print, flush=True))
  if last == len(names):
    print(f'\n{(workdir / "results.md").read_text(encoding="utf-8")}\ncontact sheet: {workdir / "found.png"}')
    index = workdir / 'index'
    print(f'search the test films: {_dlkd()} search "{EXAMPLE}" --index={index}')
    print(f'or on a page:          {_dlkd()} serve --index={index}')
    print('seconds: ' + ', '.join(f'{name} {value:.0f}' for name, value in seconds.items()), flush=True)
  return seconds


def _dlkd() -> str:
  """Returns how `dlkd` is called here; off the path with the folder of this interpreter, as short as can be."""
  path, here = pathlib.Path(sys.executable).with_name('dlkd'), pathlib.Path.cwd()
  if not path.is_file() or shutil.which('dlkd') == str(path):
    return 'dlkd'
  return str(path.relative_to(here) if path.is_relative_to(here) else path)
