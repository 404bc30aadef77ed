"""What a reader sees of an addition that runs."""

import json
import os
import subprocess
import sys
import time

import pytest

from dlkd_jax.gallery import progress_file


def test_it_is_there_while_it_runs(tmp_path, monkeypatch):
  monkeypatch.setattr(progress_file, '_EVERY', 0.0)
  assert progress_file.read(tmp_path) is None
  (tmp_path / '.progress.json.tmp').symlink_to(tmp_path / 'somebodys')
  with progress_file.ProgressFile(tmp_path, 4) as running:
    found = progress_file.read(tmp_path)
    assert (found['done'], found['total'], found['share'], found['pid']) == (0, 4, 0, os.getpid())
    running.show('lake.mp4', 0.125, 32)
    running.show('lake.mp4', 0.2, 8)
    found = progress_file.read(tmp_path)
    assert (found['film'], found['share'], found['frames']) == ('lake.mp4', 0.2, 40)
    assert found['started'] <= found['updated'] <= time.time()
    running.step()
    assert progress_file.read(tmp_path)['done'] == 1 and progress_file.read(str(tmp_path))['share'] == 0.25
  assert progress_file.read(tmp_path) is None and list(tmp_path.iterdir()) == []


def test_it_is_replaced_seldom_and_goes_with_an_error(tmp_path):
  with pytest.raises(ZeroDivisionError), progress_file.ProgressFile(tmp_path, 4) as running:
    running.step()
    assert progress_file.read(tmp_path)['done'] == 0
    raise ZeroDivisionError
  assert list(tmp_path.iterdir()) == []


def test_what_a_killed_one_left(tmp_path):
  with progress_file.ProgressFile(tmp_path, 4):
    content = progress_file.read(tmp_path)
  gone = subprocess.Popen([sys.executable, '-c', ''])
  gone.wait()
  late = content['updated'] - 1000
  for odd in ({'pid': gone.pid}, {'updated': late}, {'done': '3'}, {'share': None}, {'film': 3}, {'pid': 1 << 80}):
    (tmp_path / progress_file.NAME).write_text(json.dumps(content | odd))
    assert progress_file.read(tmp_path) is None, odd
  for text in ('', '[]', '{}', json.dumps(content)[:-1], b'\xff'):
    (tmp_path / progress_file.NAME).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert progress_file.read(tmp_path) is None, text
  (tmp_path / progress_file.NAME).write_text(json.dumps(content | {'host': 'another', 'pid': gone.pid}))
  assert progress_file.read(tmp_path)['done'] == 0
  with progress_file.ProgressFile(tmp_path / 'absent', 4):
    pass
