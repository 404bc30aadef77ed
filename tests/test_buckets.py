"""Work directories and data sets in a bucket, `gs://…`: what is written there, read back, copied here and refused."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs import synthetic
from dlkd_jax import doors, files
from dlkd_jax.errors import UserError
from dlkd_jax.files import local_copy
from dlkd_jax.multihost import Stopped, StopRequest
from dlkd_jax.tools import convert_checkpoint
from dlkd_jax.training import evaluate_run
from dlkd_jax.training.checkpoints import Checkpoints, Progress, read_best
from dlkd_jax.training.train import train
from tests.buckets import Bucket, bucket
from tests.runs import commands, logged_steps

__all__ = ['bucket', 'commands']  # The fixtures.


def test_what_is_missing_is_named():
  with pytest.raises(UserError, match=r'gs://films/run: gs:// needs the package gcsfs.*pip install gcsfs'):
    files.expand_any('gs://films/run')


def test_where_files_of_this_machine_are_needed_a_bucket_is_refused(bucket):
  for path in ('gs://films/run', 's3://films/run', 'https://films.org'):
    with pytest.raises(UserError, match=rf'{path}: expected a file or a folder of this machine'):
      doors._PathParser().parse(path)
  assert doors._PathParser(bucket=True).parse('gs://films/run') == bucket / 'run'
  with pytest.raises(UserError, match='s3://films/run: expected a file or a folder of this machine'):
    doors._PathParser(bucket=True).parse('s3://films/run')


def test_files(bucket):
  path = bucket / 'run' / 'a.json'
  assert files.listing(path.parent) == []
  files.write_json(path, {'x': 1})
  files.write_json(path, {'x': 2})
  assert files.read_text(path) == '{\n  "x": 2\n}\n' and files.listing(path.parent) == [path]
  with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
    temporary.write_text(str(1 / 0))
  assert Bucket.writes == ['films/run/a.json'] * 2
  files.remove(bucket / 'run')
  assert not path.exists()
  files.remove(bucket / 'run')


def test_checkpoints(bucket):
  checkpoints, state = Checkpoints(bucket / 'run'), {'params': {'k': jax.device_put(np.arange(6.0, dtype=np.float32))}}
  for step in (5, 10, 15, 20):
    checkpoints.save(step, state, Progress({'at': step}, 1, 3.0, 1, 5))
  checkpoints.mark(20, Progress({'at': 20}, 2, 3.5, 2, 20))
  folder = bucket / 'run' / 'checkpoints'
  assert [path.name for path in files.listing(folder)] == ['15', '20']
  params, step = read_best(bucket / 'run')
  assert step == 20
  np.testing.assert_array_equal(params['k'], state['params']['k'])
  (folder / '15.partial').write_text('')  # Killed while it was written or removed.
  (folder / '20' / 'progress.json').write_text('{}')
  assert Checkpoints(bucket / 'run', read_only=True)._steps() == [20]
  (folder / '15.partial').unlink()
  assert Checkpoints(bucket / 'run').newest_whole() == 15
  assert [path.name for path in files.listing(folder)] == ['15', '20.damaged']


@pytest.fixture
def data(bucket, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  folder = bucket / 'data' / 'films_prvr' / '1.0.0'
  (folder / 'a.array_record').write_bytes(bytes(300))
  (folder / 'more' / 'b.json').write_text('{}')
  return folder


def test_a_data_set_is_copied_once(data, capsys):
  copy = local_copy(data)
  assert copy.name == '1.0.0' and (copy / 'a.array_record').read_bytes() == bytes(300)
  assert (copy / 'more' / 'b.json').read_text() == '{}'
  assert f'copying {data} once to {copy}: 2 files' in capsys.readouterr().out
  assert local_copy(data) == copy and local_copy(copy) is copy
  assert capsys.readouterr().out == ''
  (data / 'a.array_record').write_bytes(bytes(299))  # Built anew.
  other = local_copy(data)
  assert other != copy and (other / 'a.array_record').read_bytes() == bytes(299)
  assert len(list(copy.parent.parent.iterdir())) == 2  # Nothing else is left.


def test_a_copy_that_fails_leaves_nothing(data, tmp_path, monkeypatch):
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: type('Usage', (), {'free': 310}))
  with pytest.raises(UserError, match=r'gs://films/data/films_prvr/1.0.0 has .* GiB are free; make room, or set XDG_C'):
    local_copy(data)
  assert list((tmp_path / 'cache' / 'dlkd_jax' / 'data').iterdir()) == []


class StopAt(StopRequest):
  """A request to stop at a step."""

  def __init__(self, step):
    super().__init__()
    self._step = step

  def agreed(self, step):
    return step == self._step


def test_a_run_in_a_bucket(bucket, commands, tmp_path, monkeypatch, capsys):
  """Trained, stopped, resumed, evaluated and exported; nothing of it is written to the folder at hand."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  shutil.copytree(commands.data_dir, Bucket.root / 'films' / 'data')
  # Of the sizes of other trainings, so that what one of them compiled is found.
  config, workdir = synthetic.get_config('single,no_teacher'), bucket / 'run'
  config.update_from_flattened_dict(
    {
      'data.dataset': 'synthetic_prvr/small',
      'data.data_dir': 'gs://films/data',
      'data.batch_videos': 16,
      'model.hidden': 16,
      'training.epochs': 3,
      'training.average': 0.8,
      'logging.every_steps': 1,
    }
  )
  with pytest.raises(Stopped, match='at step 5;'):
    train(config, workdir, StopAt(5))
  assert logged_steps(Bucket.root / 'films' / 'run') == [1, 2, 3, 4, -4, 5]
  results = train(config, workdir)
  output = capsys.readouterr().out
  assert output.count('copying gs://films/data/') == 1
  assert 'resumed from the checkpoint of step 5 in gs://films/run' in output
  assert logged_steps(Bucket.root / 'films' / 'run') == [*range(1, 5), -4, *range(5, 9), -8, *range(9, 13), -12]
  there = {path.name for path in files.listing(workdir)}
  assert there >= {'config.json', 'parameters.txt', 'metrics.jsonl', 'tensorboard', 'checkpoints', 'results.json'}
  assert len(files.listing(workdir / 'tensorboard')) == 2

  metrics = evaluate_run.evaluate(None, workdir, 'test')
  assert metrics == json.loads((workdir / 'eval_test.json').read_text())
  assert metrics == pytest.approx({name: results[name] for name in metrics})
  convert_checkpoint.main([f'--workdir={workdir}', 'gs://films/student.safetensors'])
  assert (Bucket.root / 'films' / 'student.safetensors').stat().st_size > 1000
  assert list((tmp_path / 'here').iterdir()) == []
