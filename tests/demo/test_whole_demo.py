"""The whole demonstration in miniature: every stage, and nothing twice."""

import dataclasses
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from dlkd_jax.demo import demonstration
from dlkd_jax.demo.settings import SIZES
from dlkd_jax.gallery.gallery import Gallery


@pytest.mark.slow
def test_from_nothing_to_a_table(tmp_path, capsys):
  settings = dataclasses.replace(SIZES['tiny'], students=1)
  seconds = demonstration.demonstrate(settings, tmp_path / 'demo')
  assert list(seconds) == ['films', 'clip', 'features', 'students', 'index', 'results']
  text = (tmp_path / 'demo' / 'results.md').read_text()
  printed = capsys.readouterr().out
  assert text in printed
  assert np.asarray(Image.open(tmp_path / 'demo' / 'found.png')).ndim == 3
  index = pathlib.Path(re.search(r'dlkd search ".*" --index=(\S+)', printed)[1])
  (result,) = Gallery.open(index).search(demonstration.EXAMPLE)
  assert result.hits and all(pathlib.Path(hit.path).is_file() for hit in result.hits)
  before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'demo').rglob('*')}
  assert demonstration.demonstrate(settings, tmp_path / 'demo') == seconds
  assert {path: path.stat().st_mtime_ns for path in (tmp_path / 'demo').rglob('*')} == before
