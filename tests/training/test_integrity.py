"""Sealed folders: every kind of damage to any of their files is found."""

import pytest

from dlkd_jax.training import integrity


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'a' / 'b').mkdir(parents=True)
  (tmp_path / 'a' / 'b' / 'large').write_bytes(bytes(range(256)) * 9000)  # Several pieces.
  (tmp_path / 'a' / 'small').write_bytes(b'xyz')
  (tmp_path / 'empty').touch()
  integrity.seal(tmp_path)
  return tmp_path


def flip(path, where):
  content = bytearray(path.read_bytes())
  content[where] ^= 4
  path.write_bytes(content)


def test_as_it_was_sealed(folder):
  assert integrity.problem(folder) is None
  assert integrity.problem(folder.rename(folder.with_name('moved'))) is None


@pytest.mark.parametrize('where', [0, 1 << 20, -1])
def test_one_flipped_bit(folder, where):
  flip(folder / 'a/b/large', where)
  assert integrity.problem(folder) == 'a/b/large is damaged: its check sum differs'


@pytest.mark.parametrize('name', ['a/b/large', 'a/small', 'empty'])
def test_a_missing_file(folder, name):
  (folder / name).unlink()
  assert integrity.problem(folder) == f'{name} is missing'


def test_a_cut_file(folder):
  (folder / 'a/small').write_bytes(b'x')
  assert integrity.problem(folder) == 'a/small has 1 bytes, expected 3'


@pytest.mark.parametrize('content', ['', '[]', '{"a": 1}', '{"a/small": {}}', 'x'])
def test_a_damaged_list(folder, content):
  (folder / 'manifest.json').write_text(content)
  assert integrity.problem(folder)


def test_a_missing_list(folder):
  (folder / 'manifest.json').unlink()
  assert integrity.problem(folder) == 'manifest.json is missing'
  assert integrity.problem(folder / 'nothing') == 'manifest.json is missing'
