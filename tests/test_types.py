"""What others call or fulfil has the types that it says; `pyproject.toml` lists the files."""

import subprocess
import sys
import tomllib

import pytest

from tests import readmes
from tests.paths import repository


def test_types(tmp_path):
  """Those files, the README's Python, and that with a mistake, which is the only one that is found."""
  pytest.importorskip('mypy', reason="mypy is not installed: pip install 'dlkd_jax[test]'")
  files = tomllib.loads((repository() / 'pyproject.toml').read_text())['tool']['mypy']['files']
  (block,) = {each for text in readmes.TEXTS.values() for each in readmes.blocks(text, 'python') if 'Gallery' in each}
  (tmp_path / 'right.py').write_text(block)
  (tmp_path / 'wrong.py').write_text(block.replace('top=5', "top='5'"))
  command = [sys.executable, '-m', 'mypy', f'--cache-dir={tmp_path / "cache"}', *files]
  command += [tmp_path / 'right.py', tmp_path / 'wrong.py']
  done = subprocess.run(command, cwd=repository(), capture_output=True, text=True, check=False)
  found = [line for line in done.stdout.splitlines() if ': error: ' in line]
  assert len(found) == 1 and 'wrong.py' in found[0] and '[arg-type]' in found[0], done.stdout + done.stderr
