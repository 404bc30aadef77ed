"""The benchmark of search: it runs on made-up and on given vectors, counts recall, and says what it cannot read."""

import json

import numpy as np
import pytest

from dlkd_jax.tools import benchmark_search, random_gallery


def write_pack(folder, rows=600, hidden=16):
  rng = np.random.default_rng(0)
  features = rng.standard_normal((rows, hidden)).astype(np.float16)
  np.savez(folder / 'frames.npz', features=features, offsets=np.arange(0, rows + 1, 10))
  np.save(folder / 'texts.npy', rng.standard_normal((7, hidden)))


def test_one_table_of_made_up_and_given_vectors(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(benchmark_search, '_HIDDEN', 16)
  pack, folder = tmp_path / 'pack', tmp_path / 'made_up'
  pack.mkdir()
  folder.mkdir()
  write_pack(pack)
  path = tmp_path / 'found.json'
  benchmark_search.main(
    ['--rows=3000', '--queries=3', '--repeats=2', f'--pack={pack}', f'--folder={folder}', f'--json={path}']
  )
  printed, found = capsys.readouterr().out, json.loads(path.read_text())
  for text in (
    'exact search, 3,000 x 2 x 16, int8',
    'the same by NumPy in blocks, 3,000 x 2 x 16, float16',
    'two stages, random, 3,000',
    'int8 against float32, real frames, 600',
  ):
    assert f'| {text}' in printed
  assert set(found['exact']) == {'int8', 'float16'} and set(found['two_stage']) == set(random_gallery.KINDS)
  assert found['exact']['float16']['stored_bytes'] == 3000 * 2 * 16 * 2
  assert found['pack']['queries'] == 7 and found['pack']['int8']['recall'] > 0.8
  recalls = [r['recall'] for r in found['pack']['int8']['two_stage']['candidates'].values()]
  assert recalls == sorted(recalls) and recalls[-1] == 1
  assert not list(folder.iterdir())


def test_recall_is_the_share_of_the_expected():
  found, expected = np.asarray([[1, 2, 3], [4, 5, 6]]), np.asarray([[3, 1, 9], [6, 5, 4]])
  assert benchmark_search.recall(found, expected) == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize('kind', random_gallery.KINDS)
def test_made_up_galleries_are_the_same_each_time(tmp_path, kind):
  offsets = random_gallery.random_offsets(900, 10)
  assert offsets[0] == 0 and offsets[-1] == 900 and np.all(np.diff(offsets) > 0)
  first, again = (random_gallery.make(tmp_path, kind, 'int8', offsets, 8, ('a', 'b'), 4) for _ in range(2))
  for name in 'ab':
    np.testing.assert_array_equal(first.queries[name], again.queries[name])
    np.testing.assert_array_equal(first.stored[name].decode(), again.stored[name].decode())
  assert first.nbytes == 2 * 900 * (8 + 4) and not np.array_equal(first.queries['a'], first.queries['b'])


def test_frames_of_a_structured_video_are_alike(tmp_path):
  offsets = np.arange(0, 401, 10)
  rows = random_gallery.make(tmp_path, 'structured', 'float16', offsets, 64, ('a',), 4).stored['a'].decode()
  products = rows @ rows.T
  same = np.kron(np.eye(40), np.ones((10, 10))) > 0
  near = products[np.arange(399), np.arange(1, 400)][np.arange(399) % 10 != 9]
  assert near.mean() > products[same].mean() > products[~same].mean() + 0.2 > 0.3


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--rows=5'], '--rows is 5; expected 2,000 or more'),
    (['--rows=0'], 'nothing to measure but a pack'),
    (['--queries=1'], '--queries is 2 or more'),
    (['--rows=0', '--pack=.'], 'files .npz and'),
  ],
)
def test_wrong_arguments_are_errors_of_one_line(arguments, message, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit):
    benchmark_search.main(arguments)
  assert message in capsys.readouterr().err


def test_packs_without_what_they_need(tmp_path):
  write_pack(tmp_path)
  np.savez(tmp_path / 'frames.npz', features=np.zeros((3, 4)))
  with pytest.raises(ValueError, match=r"has no \['offsets'\]; it has \['features'\]"):
    benchmark_search.read_pack(tmp_path)
