"""The command line: reuse, refusal, interruption, help, and what it imports."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time

import pytest
import tensorflow_datasets as tfds

from tests.paths import repository
from tests.tfds_builders import pack_writer
from tfds_builders import base_builder, build, errors

# Slow on purpose: the first record of the second split waits until the test has seen the temporary folder.
_SLOW_BUILD = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # Where the tests run in the background it is ignored.
from tfds_builders import build, pack_source
read = pack_source.PackSource.record
def slow(self, split, video):
  if split == 'val':
    time.sleep(0.5)
  return read(self, split, video)
pack_source.PackSource.record = slow
sys.exit(build.main(sys.argv[1:]))
"""


def _flags(written: pack_writer.Written, data_dir: pathlib.Path) -> list[str]:
  return ['tvr', f'--manual_dir={written.root}', f'--data_dir={data_dir}']


def _temporary(data_dir: pathlib.Path) -> list[pathlib.Path]:
  return list((data_dir / 'tvr_prvr').glob('incomplete.*')) if data_dir.exists() else []


def test_second_run_finds_the_set(tmp_path, capsys):
  written = pack_writer.write(tmp_path / 'pack')
  assert build.main(_flags(written, tmp_path / 'data')) == 0
  assert 'is built' in capsys.readouterr().out
  files = {path: path.stat().st_mtime_ns for path in (tmp_path / 'data').rglob('*') if path.is_file()}
  assert build.main(_flags(written, tmp_path / 'data')) == 0
  output = capsys.readouterr().out
  for word in ('already built', str(tmp_path / 'data' / 'tvr_prvr' / '1.0.0'), 'Dv 6', 'Dq 5', 'Dt 4', 'float16'):
    assert word in output
  names = {path for path in files if path.name != '.build.lock'}
  assert all(path.stat().st_mtime_ns == files[path] for path in names)


@pytest.mark.parametrize('flag', ['--dtype=float32', '--no_teacher', '--num_shards=1', '--splits=train,val'])
def test_other_options_are_refused(flag, tmp_path, capsys):
  written = pack_writer.write(tmp_path / 'pack')
  assert build.main(_flags(written, tmp_path / 'data')) == 0
  assert build.main([*_flags(written, tmp_path / 'data'), flag]) == 1
  assert 'built here, but differently' in capsys.readouterr().err


def test_another_pack_is_refused(tmp_path, capsys):
  first = pack_writer.write(tmp_path / 'first')
  second = pack_writer.write(tmp_path / 'second', seed=1)
  assert build.main(_flags(first, tmp_path / 'data')) == 0
  assert build.main(_flags(second, tmp_path / 'data')) == 1
  assert 'bytes of' in capsys.readouterr().err
  first.root.rename(tmp_path / 'moved')  # The same files elsewhere are the same pack.
  assert build.main(['tvr', f'--manual_dir={tmp_path / "moved"}', f'--data_dir={tmp_path / "data"}']) == 0
  assert build.main(_flags(first, tmp_path / 'data')) == 0  # And a pack may go once its set is built.


@pytest.mark.parametrize('stop', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_build_leaves_nothing_that_looks_finished(stop, tmp_path):
  written = pack_writer.write(tmp_path / 'pack')
  data_dir = tmp_path / 'data'
  command = [sys.executable, '-c', _SLOW_BUILD, *_flags(written, data_dir)]
  process = subprocess.Popen(command, cwd=repository(), stderr=subprocess.PIPE, text=True)
  deadline = time.monotonic() + 30
  while not any(list(folder.glob('*val*')) for folder in _temporary(data_dir)):
    assert process.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.02)
  process.send_signal(stop)
  _, message = process.communicate(timeout=30)
  assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGKILL: -signal.SIGKILL}[stop]
  assert not (data_dir / 'tvr_prvr' / '1.0.0').exists()
  assert not tfds.builder('tvr_prvr', data_dir=data_dir).is_built()
  if stop != signal.SIGKILL:
    assert 'interrupted' in message
    assert 'Traceback' not in message
    assert not _temporary(data_dir)
  assert build.main(_flags(written, data_dir)) == 0
  assert not _temporary(data_dir)
  assert tfds.builder('tvr_prvr', data_dir=data_dir).info.splits['val'].num_examples == 3


def test_two_builds_at_once_are_refused(tmp_path):
  lock = base_builder.only_builder
  with lock(tmp_path), pytest.raises(errors.BusyError, match='another process'), lock(tmp_path):
    pass
  with lock(tmp_path):
    pass


@pytest.mark.parametrize('collection', ['tvr', 'activitynet', 'charades', 'synthetic'])
def test_help_teaches(collection, capsys):
  with pytest.raises(SystemExit) as stop:
    build.main([collection, '--help'])
  assert stop.value.code == 0
  output = capsys.readouterr().out
  assert f'python -m tfds_builders.build {collection} --' in output
  assert '--data_dir' in output
  assert ('--manual_dir' in output) == (collection != 'synthetic')


def test_general_help_names_the_collections(capsys):
  with pytest.raises(SystemExit):
    build.main(['--help'])
  output = capsys.readouterr().out
  assert all(name in output for name in ('tvr', 'activitynet', 'charades', 'synthetic'))


def test_bad_option_values(tmp_path, capsys):
  written = pack_writer.write(tmp_path / 'pack')
  assert build.main([*_flags(written, tmp_path / 'data'), '--num_shards=0']) == 1
  assert build.main([*_flags(written, tmp_path / 'data'), '--splits=']) == 1
  assert 'expected' in capsys.readouterr().err
  with pytest.raises(SystemExit) as stop:
    build.main(['tvr', '--manual_dirr=x'])
  assert stop.value.code == 1 and capsys.readouterr().err.startswith('error: the following arguments are required')


def test_neither_tensorflow_nor_torch_is_imported(tmp_path):
  program = (
    'import sys, tensorflow_datasets as tfds\n'
    'from tfds_builders import build\n'
    f'assert build.main(["synthetic", "--data_dir={tmp_path}", "--num_train=8"]) == 0\n'
    f'path = next(__import__("pathlib").Path({str(tmp_path)!r}).rglob("features.json")).parent\n'
    'print(len(tfds.builder_from_directory(path).as_data_source("train")[0]))\n'
    'print([name for name in ("tensorflow", "torch", "jax") if name in sys.modules])\n'
  )
  done = subprocess.run([sys.executable, '-c', program], cwd=repository(), capture_output=True, text=True, check=True)
  assert done.stdout.splitlines()[-2:] == ['10', '[]']
