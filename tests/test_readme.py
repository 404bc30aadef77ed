"""What the READMEs say: what they name and link is there, and the newcomer's first command runs in a clone."""

import importlib.util
import os
import re
import shlex
import subprocess

import pytest

from tests.paths import repository
from tests.readmes import LINES, README, TEXTS, blocks


def test_modules_and_files_exist():
  """`tests/tools/test_command_pages.py` parses `dlkd` and its options; `test_readme_commands.py` runs them."""
  for line in LINES:
    if line.startswith('python -m dlkd_jax'):
      assert importlib.util.find_spec(shlex.split(line)[2]) is not None, line
    for config in re.findall(r'--config=(configs/\w+\.py)', line):
      assert (repository() / config).is_file(), line


def test_captions_are_shown_alike():
  assert blocks(README, 'json') == blocks(TEXTS['dlkd_jax/video/README.md'], 'json')


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
