"""What the READMEs say: their commands exist as written, and the path from a pack to an evaluation runs."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess

import PIL.Image
import pytest

from dlkd_jax.gallery.film_encoding import DEFAULT_CLIP
from dlkd_jax.models import clip_files
from tests import forked
from tests.environment import environment
from tests.models import clips, served_hub
from tests.paths import repository
from tests.tfds_builders import pack_writer
from tests.video import films

ROOMS = sorted((repository() / 'dlkd_jax').glob('*/README.md'))
OTHERS = [repository() / room / 'README.md' for room in ('configs', 'tfds_builders')]
FILES = [repository() / 'README.md', *ROOMS, *OTHERS]
TEXTS = {str(path.relative_to(repository())): path.read_text(encoding='utf-8') for path in FILES}
README = TEXTS['README.md']


def commands(text):
  """Every command line of a document's shell blocks, with continued lines joined and comments cut."""
  blocks = re.findall(r'```sh\n(.*?)```', text, re.DOTALL)
  lines = ''.join(blocks).replace('\\\n', ' ').splitlines()
  return [line.split('  #')[0].strip() for line in lines if line.strip() and not line.startswith('#')]


LINES = [line for text in TEXTS.values() for line in commands(text)]
PYTHON = [line for line in LINES if line.startswith('python -m ') and ' venv ' not in line]


def run(line, cwd, *more, **variables):
  """Runs a line `dlkd …` as `python -m dlkd_jax …`."""
  program, *arguments = shlex.split(line)
  assert program == 'dlkd', line
  return forked.run('dlkd_jax', (*arguments, *more), environment(**variables), cwd)


def checked(line, cwd, *more, **variables):
  """Runs a line as `run` does; returns what it printed."""
  done = run(line, cwd, *more, **variables)
  assert done.returncode == 0, line + done.stdout[-3000:] + done.stderr[-3000:]
  return done.stdout


def test_modules_and_files_exist():
  """`dlkd` and its options are parsed by `tests/tools/test_command_pages.py`."""
  assert len([line for line in LINES if line.startswith('dlkd ')]) >= 30 and len(PYTHON) >= 10
  for line in PYTHON:
    assert importlib.util.find_spec(shlex.split(line)[2]) is not None, line
  for line in LINES:
    for config in re.findall(r'--config=(configs/\w+\.py)', line):
      assert (repository() / config).is_file(), line


def _anchor(heading):
  """The anchor that GitHub gives a heading."""
  return re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


@pytest.mark.parametrize('name', TEXTS)
def test_linked_files_and_headings_exist(name):
  here = repository() / name
  for target, anchor in re.findall(r'\]\((?!http)([^)#]*)#?([^)]*)\)', TEXTS[name]):
    path = (here.parent / target).resolve() if target else here
    assert path.exists(), target
    if anchor:
      headings = re.findall(r'^#+ (.*)$', path.read_text(encoding='utf-8'), re.MULTILINE)
      assert anchor in map(_anchor, headings), (target, anchor)


def test_the_door_is_short():
  assert len(README.splitlines()) <= 200


def test_from_a_pack_to_an_evaluation(tmp_path):
  """The commands of "Reproduce the paper", on a tiny pack and with the debug model."""
  pack_writer.write(tmp_path / 'packs', pack_writer.Variant('charades', 'i3d_rgb_lgi', videos=(40, 6, 8)))
  shutil.copytree(repository() / 'configs', tmp_path / 'configs')
  chosen = commands(README.split('## Reproduce the paper')[1].split('\n## ')[0])
  assert len(chosen) == 4
  outputs = []
  for line in chosen:
    done = run(line.replace('charades.py', 'charades.py:debug'), tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    outputs.append(done.stdout)
  assert (tmp_path / 'runs/charades/results.md').exists() and (tmp_path / 'runs/charades/eval_test.json').exists()
  assert 'fused' in outputs[1] and 'teacher alone' in outputs[2]
  assert list((tmp_path / 'runs/charades').rglob('*.html'))


def test_your_own_videos(tmp_path):
  """The commands of that section as they stand, on the captions that it shows and more; the model is the debug one."""
  section = TEXTS['dlkd_jax/video/README.md'].split('## A data set of your own films')[1].split('\n## ')[0]
  (example,) = re.findall(r'```json\n(.*?)```', section, re.DOTALL)
  shown = [json.loads(line) for line in example.splitlines()]
  more = [
    {'video': f'{n}.mp4', 'text': f'film number {n}', 'split': split}
    for n, split in enumerate(['train'] * 8 + ['val'] * 3 + ['test'] * 3)
  ]
  for caption in [*shown, *more]:
    path = tmp_path / 'films' / caption['video']
    path.parent.mkdir(parents=True, exist_ok=True)
    films.render(path, films.steady(100, 5))
  (tmp_path / 'captions.jsonl').write_text('\n'.join(map(json.dumps, [*shown, *more])))
  clip_files.save_clip(clips.tiny_model(), tmp_path / 'clip-vit-base-patch32')
  shutil.copytree(repository() / 'configs', tmp_path / 'configs')

  short = README.split('## Train on your captions')[1].split('\n## ')[0]
  assert example in short
  extract, train, index = commands(short)
  assert commands(section)[:2] == [extract, train]
  small = ('--config.data.batch_videos=8', '--config.training.epochs=1')
  done = [
    checked(extract, tmp_path),
    checked(train.replace('custom.py', 'custom.py:debug'), tmp_path, *small),
    checked(index, tmp_path),
  ]
  assert 'custom_prvr, test: 4 captions, 4 videos' in done[1] and 'teacher alone' in done[1] and 'prefer ' in done[1]
  assert (tmp_path / 'trained' / 'manifest.json').is_file()


def test_search_your_films(tmp_path):
  """The commands of that section as they stand, with a hub that has the model; the page has tests of its own."""
  (tmp_path / 'films' / 'city').mkdir(parents=True)
  films.render(tmp_path / 'films' / 'lake.mp4', films.steady(70, 5))
  films.render(tmp_path / 'films' / 'city' / 'tram.mkv', films.steady(20, 5))
  (tmp_path / 'films' / 'lake.srt').write_text('1\n00:00:02,000 --> 00:00:04,000\nA dog jumps into a lake.\n')
  PIL.Image.fromarray(films.draw(3)).save(tmp_path / 'dog.jpg')
  clip_files.save_clip(clips.tiny_model(), tmp_path / 'clip')
  add, say, serve, where, *others, info = commands(README.split('## Search your films')[1].split('\n## ')[0])
  assert serve == 'dlkd serve'
  with served_hub.serve() as (hub, address):
    hub.models = {DEFAULT_CLIP.removeprefix('hf:'): {x.name: x.read_bytes() for x in (tmp_path / 'clip').iterdir()}}
    fetched = {'HF_ENDPOINT': address, 'HF_HOME': str(tmp_path / 'cache')}
    assert '2' in checked(add, tmp_path, **fetched)
  offline = {'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path / 'cache')}
  found = checked(say, tmp_path, **offline)
  assert re.search(r'lake\.mp4, 0:02: .*dog', found), found
  assert json.loads(checked(where, tmp_path, **offline))['hits'] == []  # Nothing is known of a year.
  for line in others:
    assert 'tram' in checked(line, tmp_path, **offline), line
  assert re.search(r'videos +2,', checked(info, tmp_path, **offline))


@pytest.mark.slow
def test_run_sh_from_a_clone(tmp_path):
  """Both commands of the newcomer, in a fresh clone; installs packages, so it needs a package index."""
  subprocess.run(['git', 'clone', '-q', str(repository()), str(tmp_path / 'clone')], check=True)
  variables = {name: value for name, value in os.environ.items() if name not in ('XLA_FLAGS', 'VIRTUAL_ENV')}
  for _ in range(2):  # The second run reuses everything.
    done = subprocess.run(
      ['./run.sh'], cwd=tmp_path / 'clone', env=variables, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert 'fused' in done.stdout and 'chance' in done.stdout and 'teacher alone' in done.stdout
