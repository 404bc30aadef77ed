"""A bucket without a network: `gs://` paths are files below a folder, with the manners of an object store."""

import pathlib
import shutil
import typing

import pytest
from etils import epath
from fsspec.registry import _registry
from fsspec.spec import AbstractFileSystem
from orbax.checkpoint._src.path import gcs_utils


class Bucket(AbstractFileSystem):
  """Folders are there as long as a file is in them; files are written whole, and never appended to."""

  protocol = ('gs', 'gcs')
  cachable = False
  root = pathlib.Path()  # Of the test at hand.
  writes: typing.ClassVar[list[str]] = []

  def _real(self, path):
    return self.root / self._strip_protocol(path)

  def _info(self, real):
    stat = real.stat()
    kind = 'directory' if real.is_dir() else 'file'
    name = str(real.relative_to(self.root))
    return {'name': name, 'size': None if real.is_dir() else stat.st_size, 'type': kind, 'mtime': stat.st_mtime}

  def _there(self, real):
    return real.is_file() or any(each.is_file() for each in real.rglob('*'))

  def info(self, path, **_):
    if not self._there(self._real(path)):
      raise FileNotFoundError(path)
    return self._info(self._real(path))

  def ls(self, path, detail=True, **_):
    real = self._real(path)
    self.info(path)
    found = [self._info(each) for each in (sorted(real.iterdir()) if real.is_dir() else [real]) if self._there(each)]
    return found if detail else [each['name'] for each in found]

  def _open(self, path, mode='rb', **_):
    if mode == 'rb':
      return self._real(path).open('rb')
    if mode != 'wb':
      raise NotImplementedError(f'no object is opened with {mode}')
    self.writes.append(path)
    self._real(path).parent.mkdir(parents=True, exist_ok=True)
    return self._real(path).open('wb')

  def cp_file(self, path1, path2, **_):
    if self._real(path1).is_file():
      self._real(path2).parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(self._real(path1), self._real(path2))

  def rm_file(self, path):
    if self._real(path).is_file():
      self._real(path).unlink()

  def mkdir(self, path, create_parents=True, **_):
    pass

  def makedirs(self, path, exist_ok=False):
    pass


def _slash(path):
  return '' if path.endswith('_sharding') else '/'  # All but that are folders of array files.


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """An empty bucket, `gs://films`; what is stored there lies in `Bucket.root / 'films'`, too."""
  monkeypatch.setattr(Bucket, 'root', tmp_path / 'cloud')
  monkeypatch.setattr(Bucket, 'writes', [])
  for name in Bucket.protocol:
    monkeypatch.setitem(_registry, name, Bucket)
  # Orbax writes arrays by a library of its own, which is told to write files instead.
  monkeypatch.setattr(
    gcs_utils,
    'get_kvstore_for_gcs',
    lambda path: {'driver': 'file', 'path': f'{Bucket.root}/{path.removeprefix("gs://")}' + _slash(path)},
  )
  monkeypatch.setattr(gcs_utils, 'is_hierarchical_namespace_enabled', lambda path: False)
  return epath.Path('gs://films')
