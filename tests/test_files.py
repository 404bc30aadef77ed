"""Text, JSON lines and paths as people write them; files that appear whole or not at all."""

import bz2
import errno
import json
import os
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlkd_jax import file_kinds, files
from dlkd_jax.data import sources
from dlkd_jax.errors import UserError
from dlkd_jax.models import parameter_files
from dlkd_jax.video import backbones


def test_home_folders_are_expanded(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert files.expand('~') == tmp_path
  assert files.expand('~/a b/[1]') == tmp_path / 'a b' / '[1]'
  monkeypatch.chdir(tmp_path)
  assert files.expand('./~') == files.expand('./~').expanduser() == tmp_path / '~'
  for odd in ('', 'a\0b', '~no-such-person-here/x'):
    with pytest.raises(UserError):
      files.expand(odd)


def test_home_folders_of_specs_and_configurations_are_expanded(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  for spec in ('clip:~/model', 'efficientnet_lite0:~/model.safetensors'):
    with pytest.raises(FileNotFoundError, match=f'{tmp_path}/model'):
      backbones.open_frame_backbone(spec)
  with pytest.raises(FileNotFoundError, match=f'{tmp_path}/data'):
    sources.open_set('~/data', 'tvr_prvr')


@pytest.mark.parametrize('mask', [0o022, 0o027, 0o077])
def test_what_is_written_is_as_readable_as_any_new_file(tmp_path, mask):
  before = os.umask(mask)
  try:
    files.write_text(tmp_path / 'a.txt', 'a')
    parameter_files.save_arrays({'a': np.zeros(3)}, tmp_path / 'a.safetensors', {})
  finally:
    os.umask(before)
  for path in tmp_path.iterdir():
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask, path


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
  seen = []
  monkeypatch.setattr(files, 'sync', lambda path: seen.append((path.name, (tmp_path / 'a.safetensors').exists())))
  parameter_files.save_arrays({'a': np.zeros(3)}, tmp_path / 'a.safetensors', {})
  assert seen == [('a.safetensors.tmp', False), (tmp_path.name, True)]


@pytest.mark.parametrize('error', [OSError('full'), KeyboardInterrupt(), ValueError('odd')])
def test_after_an_error_all_is_as_it_was(tmp_path, error):
  path = tmp_path / 'a.txt'
  path.write_text('before')
  with pytest.raises(type(error)), files.replacing(path) as temporary:
    temporary.write_text('half')
    raise error
  assert path.read_text() == 'before'
  assert [file.name for file in tmp_path.iterdir()] == ['a.txt']


def test_a_byte_order_mark_is_no_part_of_a_line(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_bytes('\ufeff{"a": "x\u2028y\x85z"}\r\n \r\n\n{"a": 2}\r\n'.encode())
  assert list(files.json_lines(path)) == [(f'{path}, line 1', {'a': 'x\u2028y\x85z'}), (f'{path}, line 4', {'a': 2})]


@pytest.mark.parametrize(
  ('content', 'expected'),
  [
    (b'{"a": 1}\n{"a": "caf\xe9"}\n', 'line 2: byte 19 is 0xe9'),
    (b'\xef\xbb\xbf{"a": "caf\xe9"}\n', 'line 1: byte 13 is 0xe9'),
    ('{"a": 1}'.encode('utf-16'), 'UTF-16'),
    ('{"a": 1}'.encode('utf-32'), 'UTF-32'),
    (b'{"a": "smile \\ud83d"}', 'line 1: holds half of a character'),
    (b'{"\\udc00": 1}', 'line 1: holds half of a character'),
    (b'\n{"a": }', 'line 2: not JSON'),
    (b'[1]', 'line 1: expected an object'),
    (b'[' * 100_000, 'line 1: not JSON'),
    (b'{"a": ' + b'1' * 5000 + b'}', 'line 1: not JSON'),
  ],
)
def test_odd_lines_are_named(tmp_path, content, expected):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(content)
  with pytest.raises(UserError, match=expected) as caught:
    list(files.json_lines(path))
  assert str(path) in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=['Cs'])), max_size=4))
def test_every_sentence_is_read_as_it_was_written(tmp_path_factory, sentences):
  path = tmp_path_factory.mktemp('lines') / 'a.jsonl'
  path.write_text('\n'.join(json.dumps({'text': each}, ensure_ascii=False) for each in sentences), encoding='utf-8')
  assert [content['text'] for _, content in files.json_lines(path)] == sentences


KINDS = {
  b'': 'empty file',
  b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n': 'git lfs pull',
  b'/annex/objects/SHA256E-s1--a.hdf5\n': 'git annex get',
  b'\n<!DOCTYPE html>\n<html>': 'HTML page',
  b'\xef\xbb\xbf<html lang="en">': 'HTML page',
  b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>': 'XML',
  b'PK\x03\x04rest': 'zip archive',
  b'\x1f\x8b\x08rest': 'gzip',
  b'\x80\x02}q\x00.': 'pickle',
  b'\x89HDF\r\n\x1a\nrest': 'HDF5',
  bytes(10_000): 'zero bytes',
}


@pytest.mark.parametrize('content', KINDS, ids=KINDS.values())
def test_what_a_file_of_another_kind_is(tmp_path, content):
  path = tmp_path / 'model.safetensors'
  path.write_bytes(content)
  assert KINDS[content] in file_kinds.kind_of(path, 'safetensors')


def test_what_a_file_of_the_right_kind_or_none_is(tmp_path):
  path = tmp_path / 'a'
  parameter_files.save_arrays({'a': np.zeros(3)}, path, {})
  assert file_kinds.kind_of(path, 'safetensors') is None and 'safetensors' in file_kinds.kind_of(path, 'HDF5')
  path.write_bytes(b'\x89HDF\r\n\x1a\n' + bytes(10_000))
  assert file_kinds.kind_of(path, 'HDF5') is None
  np.savez(tmp_path / 'b.npz', a=np.zeros(3))
  assert file_kinds.kind_of(tmp_path / 'b.npz', '.npz') is None
  path.write_bytes(b'some text')
  assert file_kinds.kind_of(path, 'HDF5') is None
  path.write_bytes(b'BZhYA 1 2')
  assert file_kinds.kind_of(path) is None
  path.write_bytes(bz2.compress(b'some text'))
  assert 'bzip2' in file_kinds.kind_of(path)
  assert file_kinds.kind_of(tmp_path / 'c') == 'absent'
  assert file_kinds.kind_of(tmp_path) == 'a folder'
  (tmp_path / 'd').symlink_to('e')
  assert 'a link to e' in file_kinds.kind_of(tmp_path / 'd')
  os.mkfifo(tmp_path / 'pipe')
  assert file_kinds.kind_of(tmp_path / 'pipe') == 'no regular file'


@pytest.mark.parametrize('number', [errno.EINVAL, errno.ENOTSUP])
def test_file_systems_that_cannot_wait_for_a_folder_are_written_to(tmp_path, monkeypatch, number):
  real = os.fsync

  def fsync(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
      raise OSError(number, os.strerror(number))
    real(descriptor)

  monkeypatch.setattr(os, 'fsync', fsync)
  files.write_text(tmp_path / 'a.txt', 'a')
  assert (tmp_path / 'a.txt').read_text() == 'a'
  monkeypatch.setattr(os, 'fsync', lambda _: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
  with pytest.raises(OSError, match=os.strerror(number)):  # Of a file it is an error.
    files.write_text(tmp_path / 'b.txt', 'b')


@pytest.fixture
def sealed(tmp_path):
  (tmp_path / 'a' / 'b').mkdir(parents=True)
  (tmp_path / 'a' / 'b' / 'large').write_bytes(bytes(range(256)) * 9000)  # Several pieces.
  (tmp_path / 'a' / 'small').write_bytes(b'xyz')
  (tmp_path / 'empty').touch()
  files.seal(tmp_path)
  assert files.problem(tmp_path) is None
  return tmp_path


@pytest.mark.parametrize('where', [0, 1 << 20, -1])
def test_one_flipped_bit_is_found(sealed, where):
  path = sealed / 'a/b/large'
  content = bytearray(path.read_bytes())
  content[where] ^= 4
  path.write_bytes(content)
  assert files.problem(sealed) == 'a/b/large is damaged: its check sum differs'


@pytest.mark.parametrize('name', ['a/b/large', 'a/small', 'empty', 'manifest.json'])
def test_files_that_are_missing_or_cut_are_found(sealed, name):
  (sealed / 'a/small').write_bytes(b'x')
  assert files.problem(sealed) == 'a/small has 1 bytes, expected 3'
  (sealed / 'a/small').write_bytes(b'xyz')
  (sealed / name).unlink()
  assert files.problem(sealed) == f'{name} is missing'


@pytest.mark.parametrize('content', ['', '[]', '{"a": 1}', '{"a/small": {}}', 'x'])
def test_a_damaged_list_is_found(sealed, content):
  (sealed / 'manifest.json').write_text(content)
  assert files.problem(sealed)
