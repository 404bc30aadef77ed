"""The notebook runs from its first cell to its last, on the smallest demonstration and a small pack."""

import dataclasses
import json
import pathlib
import re

import pytest

from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.results import Moment
from tests.page import browser, films
from tests.page.memory_gallery import MemoryGallery
from tests.paths import repository
from tests.tfds_builders import pack_writer

NOTEBOOK = repository() / 'dlkd_jax' / 'colab' / 'reproduce.ipynb'


def cells(kind):
  return [''.join(cell['source']) for cell in json.loads(NOTEBOOK.read_text())['cells'] if cell['cell_type'] == kind]


def test_it_is_kept_without_outputs():
  for cell in json.loads(NOTEBOOK.read_text())['cells']:
    assert not cell.get('outputs') and cell.get('execution_count') is None


def test_cells_compile():
  for source in cells('code'):
    compile(source, 'cell', 'exec')


def test_the_film_plays_from_the_second_that_was_found(tmp_path, monkeypatch):
  """What the cell shows, in a browser: the player stands at the moment before anybody touches it."""
  (source,) = (source for source in cells('code') if '<video' in source)
  made = films.write_films(tmp_path)
  gallery = MemoryGallery()
  films.add_films(gallery, made, tmp_path)
  monkeypatch.setattr(Gallery, 'open', lambda path: gallery)
  search, found = gallery.search, []

  def later(queries, **options):
    """As the search, with a moment that is not at the beginning."""
    (result,) = search(queries, **options)
    hits = [dataclasses.replace(hit, moments=(Moment(7.3, 9.0, 8.0, 0.5),)) for hit in result.hits]
    found.extend(hits)
    return [dataclasses.replace(result, hits=tuple(hits))]

  monkeypatch.setattr(gallery, 'search', later)
  shown = []
  exec(
    compile(source, 'cell', 'exec'),
    {'INDEX': 'index', 'sentence': 'a dog', 'pathlib': pathlib, 'display': shown.append},
  )
  (tmp_path / 'shown.html').write_text(f'<!doctype html>{shown[-1].data}')
  with browser.chromium() as chromium:
    chromium.get((tmp_path / 'shown.html').as_uri())
    script = 'const v = document.querySelector("video"); return v.readyState > 1 && !v.seeking ? v.currentTime : 0'
    assert browser.until(lambda: chromium.execute_script(script), 'a film that begins') == pytest.approx(7.3, abs=0.05)


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
  nbformat = pytest.importorskip('nbformat')
  nbclient = pytest.importorskip('nbclient')
  pytest.importorskip('ipykernel')
  pack_writer.write(tmp_path / 'packs', pack_writer.Variant('charades', 'i3d_rgb_lgi', videos=(40, 6, 8)))
  chosen = {
    'DLKD_DEMO_SIZE': 'tiny',
    'DLKD_PACKS': str(tmp_path / 'packs'),
    'DLKD_COLLECTION': 'charades',
    'DLKD_ARGUMENTS': ':debug',
    'PYTHONPATH': str(repository()),
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '',
  }
  for name, value in chosen.items():
    monkeypatch.setenv(name, value)
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  client = nbclient.NotebookClient(
    notebook, timeout=900, kernel_name='python3', resources={'metadata': {'path': str(tmp_path)}}
  )
  client.execute()
  outputs = [output for cell in notebook.cells if cell.cell_type == 'code' for output in cell.outputs]
  text = ''.join(output.get('text', '') for output in outputs)
  shown = [kind for output in outputs for kind in output.get('data', {})]
  assert 'image/png' in shown and shown.count('text/markdown') == 2
  assert re.search(r'\d\.\d{3}  \S+.* s to ', text), text[-3000:]
  assert 'charades_prvr, test' in text
  assert (
    (tmp_path / 'runs/index').is_dir()
    and (tmp_path / 'runs/demo/index').is_dir()
    and list((tmp_path / 'runs/demo/report').iterdir())
  )
