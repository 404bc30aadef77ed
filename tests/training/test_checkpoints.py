"""Checkpoints: what comes back, which are kept, onto which devices, and what is done about damage."""

import errno
import pathlib
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlkd_jax import sharding
from dlkd_jax.errors import UserError
from dlkd_jax.training import checkpoints as module
from dlkd_jax.training.checkpoints import CheckpointError, Checkpoints, Progress, read_best
from dlkd_jax.training.optimizer import bert_adam
from dlkd_jax.training.state import TrainState


def make_state(devices=1, width=3, value=1.0, name='kernel'):
  """A small state of the real kind, replicated over a mesh of the first devices."""
  params = {'inheritance': {name: value * np.arange(2 * width, dtype=np.float32).reshape(2, width)}}
  optimizer = bert_adam(optax.constant_schedule(1e-3), 0.01, 1.0)
  state = TrainState(jnp.asarray(int(value), jnp.int32), params, optimizer.init(params))
  return jax.device_put(state, sharding.replicated(sharding.make_mesh(jax.devices()[:devices])))


def steps_kept(workdir):
  return sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir() if p.name.isdigit())


def save(checkpoints, step, best_step, best=1.0):
  checkpoints.save(step, make_state(value=step), Progress({'at': step}, best_sum_r=best, best_step=best_step))
  checkpoints.wait()


def assert_same(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert a.dtype == b.dtype and a.sharding == b.sharding
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(('written', 'read'), [(1, 1), (8, 1), (1, 8), (8, 2)])
def test_state_and_progress_come_back_on_other_devices(tmp_path, written, read):
  progress = Progress({'next': [1, 2], 'nested': {'seed': 3}, 'name': 'x'}, 4, 51.25, 2, 20)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(40, make_state(written, value=7.0), progress)
  checkpoints.wait()
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.newest_whole() == 40
  state, restored = checkpoints.restore(40, make_state(read, value=0.0))
  assert restored == progress
  assert_same(state, make_state(read, value=7.0))


def test_nothing_saved(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.newest_whole() is None and checkpoints.best_whole() is None


def test_newest_two_and_the_best_are_kept(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  save(checkpoints, 5, best_step=0, best=-1.0)  # Within the first epoch: not rated.
  assert checkpoints.best_whole() is None
  save(checkpoints, 10, best_step=10, best=30.0)
  save(checkpoints, 20, best_step=20, best=40.0)
  for step in (30, 40, 50):
    save(checkpoints, step, best_step=20, best=40.0)
  assert checkpoints.best_whole() == 20 and checkpoints.newest_whole() == 50
  assert steps_kept(tmp_path) == [20, 40, 50]
  checkpoints = Checkpoints(tmp_path)  # The rating survives reopening.
  assert checkpoints.best_whole() == 20
  assert checkpoints.restore(20, make_state())[0].params['inheritance']['kernel'][0, 1] == 20
  save(checkpoints, 60, best_step=60, best=41.0)
  save(checkpoints, 70, best_step=60, best=41.0)
  save(checkpoints, 80, best_step=60, best=41.0)
  assert checkpoints.best_whole() == 60
  assert steps_kept(tmp_path) == [60, 70, 80]


def test_of_equal_ratings_the_newer_is_best(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  save(checkpoints, 10, best_step=10, best=30.0)
  save(checkpoints, 20, best_step=20, best=30.0)
  assert checkpoints.best_whole() == 20


def test_the_same_step_is_overwritten(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  save(checkpoints, 10, best_step=0)
  save(checkpoints, 10, best_step=10, best=9.0)
  assert checkpoints.best_whole() == 10
  assert checkpoints.restore(10, make_state())[1].best_sum_r == 9.0


@pytest.mark.parametrize('other', [{'width': 5}, {'width': 2}, {'name': 'weights'}])
def test_another_model_is_refused(tmp_path, other):
  checkpoints = Checkpoints(tmp_path)
  save(checkpoints, 10, best_step=10)
  with pytest.raises(ValueError, match=r'checkpoints.10 does not fit the configuration'):
    checkpoints.restore(10, make_state(**other))


def test_another_number_of_parameters_is_refused(tmp_path):
  more = make_state()
  more = more.replace(params=more.params | {'exploration': more.params['inheritance']})
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(10, more, Progress({}))
  with pytest.raises(ValueError, match='does not fit'):
    checkpoints.restore(10, make_state())
  save(checkpoints, 20, best_step=0)
  with pytest.raises(ValueError, match='does not fit'):
    checkpoints.restore(20, more)


def test_what_does_not_fit_is_listed(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  save(checkpoints, 10, best_step=10)
  with pytest.raises(ValueError, match=r'inheritance/kernel: found .2, 3., expected .2, 5.'):
    checkpoints.restore(10, make_state(width=5))


def three(tmp_path, best_step=0):
  """Opens a folder with checkpoints of steps 10 (the best, where asked), 20 and 30."""
  checkpoints = Checkpoints(tmp_path)
  for step in (10, 20, 30):
    save(checkpoints, step, best_step=best_step)
  return tmp_path / 'checkpoints'


def largest_file(folder):
  return max((path for path in folder.rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)


def flip(folder):
  path = largest_file(folder)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 16
  path.write_bytes(content)


def cut(folder):
  path = largest_file(folder)
  path.write_bytes(path.read_bytes()[:-7])


def lose(folder):
  largest_file(folder).unlink()


def lose_progress(folder):
  (folder / 'progress.json').unlink()


def lose_list(folder):
  (folder / 'manifest.json').unlink()


@pytest.mark.parametrize('damage', [flip, cut, lose, lose_progress, lose_list])
def test_a_damaged_checkpoint_is_put_aside_for_the_one_before(tmp_path, capsys, damage):
  folder = three(tmp_path)
  damage(folder / '30')
  assert Checkpoints(tmp_path, read_only=True).newest_whole() == 20
  assert (folder / '30').exists()  # A reader changes nothing.
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.newest_whole() == 20
  warning = capsys.readouterr().err
  assert 'warning: the checkpoint of step 30' in warning and 'it lies aside as 30.damaged' in warning
  assert (folder / '30.damaged').is_dir() and not (folder / '30').exists()
  assert int(checkpoints.restore(20, make_state())[0].step) == 20
  save(checkpoints, 30, best_step=0)  # The run gets there again.
  assert checkpoints.newest_whole() == 30


def test_a_damaged_best_gives_way_to_the_newest(tmp_path, capsys):
  folder = three(tmp_path, best_step=10)
  assert read_best(tmp_path)[1] == 10
  flip(folder / '10')
  assert read_best(tmp_path)[1] == 30
  assert Checkpoints(tmp_path).best_whole() is None
  assert '10.damaged' in capsys.readouterr().err


def test_nothing_is_touched_where_all_are_damaged(tmp_path):
  folder = three(tmp_path)
  for step in (20, 30):
    flip(folder / str(step))
  with pytest.raises(CheckpointError, match=r'no checkpoint in .* is whole: 30: .* 20: .*remove it to start anew'):
    print(Checkpoints(tmp_path).newest_whole())
  assert steps_kept(tmp_path) == [20, 30]


def test_what_a_killed_run_left_is_tidied(tmp_path):
  folder = three(tmp_path)
  (folder / '30.partial').touch()  # Killed while it was written or removed.
  (folder / '40.partial' / 'state').mkdir(parents=True)  # So a former version wrote.
  assert Checkpoints(tmp_path, read_only=True).newest_whole() == 20
  assert (folder / '30').exists() and (folder / '40.partial').exists()
  save(Checkpoints(tmp_path), 30, best_step=0)
  assert Checkpoints(tmp_path).newest_whole() == 30
  assert sorted(path.name for path in folder.iterdir()) == ['20', '30']


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
  folder = three(tmp_path)
  before = sorted(folder.rglob('*'))

  def full(path):
    raise OSError(errno.ENOSPC, 'No space left on device', str(path))

  monkeypatch.setattr(module.files, 'seal', full)
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(CheckpointError, match=r'step 40 .*newest whole one is of step 30.*No space left') as caught:
    save(checkpoints, 40, best_step=0)
  assert 'same command' in str(caught.value)
  assert sorted(folder.rglob('*')) == sorted([*before, folder / '40.partial'])  # It goes at the next start.
  monkeypatch.undo()
  checkpoints = Checkpoints(tmp_path)
  assert sorted(folder.rglob('*')) == before
  save(checkpoints, 40, best_step=0)
  assert checkpoints.newest_whole() == 40


def test_a_folder_that_cannot_be_made(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(OSError, match='Not a directory'):
    Checkpoints(tmp_path / 'file')


@pytest.mark.parametrize(('written', 'read'), [((8, 4), (1, 1)), ((1, 1), (8, 4)), ((8, 4), (8, 1)), ((8, 2), (2, 2))])
def test_a_state_split_over_devices_opens_on_others(tmp_path, written, read):
  def split(devices, model, scale):
    state = TrainState(np.int32(3), {'kernel': scale * np.arange(8192, dtype=np.float32).reshape(64, 128)}, ())
    mesh = sharding.make_mesh(jax.devices()[:devices], model=model)
    return jax.device_put(state, sharding.state_shardings(state, mesh))

  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(3, split(*written, scale=1.0), Progress({}))
  like = split(*read, scale=0.0)
  assert_same(checkpoints.restore(3, like)[0], split(*read, scale=1.0))


NAMES = [
  'exp[1]',
  '[!a]',
  'all*',
  'what?',
  'a ** b',
  ' a b ',
  '-rf',
  '~',
  'gs:',
  'a\nb',
  'a\\b',
  'küche 中文',
  'q"\'`$HOME',
  '\udcff',
]


@pytest.mark.parametrize('name', NAMES, ids=ascii)
def test_folders_of_any_name(tmp_path, name):
  workdir = tmp_path / name / 'run'
  for other in ('exp1', 'all1', 'whatx'):  # That a pattern would find.
    (tmp_path / other).mkdir()
  checkpoints = Checkpoints(workdir)
  save(checkpoints, 5, best_step=5)
  save(checkpoints, 6, best_step=5)
  again = Checkpoints(workdir)
  assert (again.newest_whole(), again.best_whole(), steps_kept(workdir)) == (6, 5, [5, 6])
  assert_same(again.restore(6, make_state())[0], make_state(value=6))
  params, step = read_best(workdir)
  assert step == 5
  np.testing.assert_array_equal(params['inheritance']['kernel'], make_state(value=5).params['inheritance']['kernel'])
  assert [path.name for path in workdir.iterdir()] == ['checkpoints']


def test_a_name_that_is_not_plain_needs_a_plain_temporary_folder(tmp_path, monkeypatch):
  (tmp_path / 'tmp[1]').mkdir()
  monkeypatch.setattr(module.tempfile, 'mkdtemp', lambda prefix: str(tmp_path / 'tmp[1]'))
  Checkpoints(tmp_path / 'plain')
  with pytest.raises(UserError, match=r'exp\[1\]/checkpoints has characters .* choose another --workdir'):
    Checkpoints(tmp_path / 'exp[1]')
  assert not (tmp_path / 'exp[1]').exists()


def test_what_was_written_must_be_there(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path)
  save(checkpoints, 5, best_step=0)
  write = module.ocp.save_async

  def lose_the_merged(folder, state):
    (response := write(folder, state)).result()
    for path in folder.rglob('manifest.ocdbt'):
      if not path.parent.name.startswith('ocdbt.process'):
        path.unlink()
    return response

  monkeypatch.setattr(module.ocp, 'save_async', lose_the_merged)
  with pytest.raises(CheckpointError, match='the arrays that were written cannot be read back'):
    save(checkpoints, 6, best_step=0)
  assert Checkpoints(tmp_path)._steps() == steps_kept(tmp_path) == [5]


def test_an_evaluation_is_marked_behind_the_checkpoint(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  save(checkpoints, 5, best_step=0, best=-1.0)
  assert checkpoints.best_whole() is None
  evaluated = Progress({'at': 5}, 1, 33.25, 1, 5)
  checkpoints.mark(5, evaluated)
  again = Checkpoints(tmp_path)
  assert again.progress(5) == evaluated and again.best_whole() == again.newest_whole() == 5
  path = tmp_path / 'checkpoints' / '5' / 'evaluated.json'
  for damaged in (path.read_text().replace('33.25', '93.25'), path.read_text()[:30], '[]', ''):
    path.write_text(damaged)  # The evaluation is made again then.
    assert Checkpoints(tmp_path).progress(5) == Progress({'at': 5}, best_sum_r=-1.0)
    assert Checkpoints(tmp_path).newest_whole() == 5


def test_what_is_marked_as_best_is_kept(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  for step in (5, 10, 15, 20):
    save(checkpoints, step, best_step=5 if step > 5 else 0, best=7.0)
    checkpoints.mark(step, Progress({'at': step}, step // 5, 7.0, 1, 5))
  assert steps_kept(tmp_path) == [5, 15, 20] and checkpoints.best_whole() == 5


def test_a_best_whose_mark_is_lost_is_known_from_later_ones(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  for step in (5, 10):
    checkpoints.save(step, make_state(), Progress({'at': step}))
    checkpoints.mark(step, Progress({'at': step}, step // 5, 7.0, 1, 5))
  (tmp_path / 'checkpoints' / '5' / 'evaluated.json').unlink()
  assert Checkpoints(tmp_path).best_whole() == 5


def test_checkpoints_of_former_versions_are_read(tmp_path):
  """Steps 5, the best, and 6, as they were written when each was written at once and renamed."""
  shutil.copytree(pathlib.Path(__file__).parent.parent / 'golden' / 'older_run', tmp_path, dirs_exist_ok=True)
  checkpoints = Checkpoints(tmp_path)
  assert (checkpoints.newest_whole(), checkpoints.best_whole()) == (6, 5)
  assert checkpoints.progress(5) == Progress({'at': 5}, 1, 33.25, 1, 5)
  state, progress = checkpoints.restore(6, make_state())
  assert_same(state, make_state(value=6))
  for step in (7, 8):
    checkpoints.save(step, state, progress)
  checkpoints.wait()
  assert steps_kept(tmp_path) == [5, 7, 8]


@pytest.fixture
def held(monkeypatch):
  """Holds what is written back until the event is set."""
  event, seal = threading.Event(), module.files.seal
  monkeypatch.setattr(module.files, 'seal', lambda folder: event.wait(60) and seal(folder))
  yield event
  event.set()


def test_the_training_goes_on_beside_the_writing(tmp_path, held):
  checkpoints, state = Checkpoints(tmp_path), make_state(value=5)
  progress = Progress({'at': 5})
  checkpoints.save(5, state, progress)
  jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0)(state)  # The next step takes the buffers.
  progress.evaluated_epochs = 1
  assert Checkpoints(tmp_path, read_only=True).newest_whole() is None  # What is being written is none yet.
  held.set()
  assert checkpoints.newest_whole() == 5
  restored, found = checkpoints.restore(5, make_state())
  assert_same(restored, make_state(value=5))
  assert found == Progress({'at': 5})


@pytest.mark.parametrize('opportunity', ['wait', 'save', 'mark', 'newest_whole'])
def test_a_write_that_fails_is_told_at_the_next_opportunity(tmp_path, monkeypatch, opportunity):
  checkpoints = Checkpoints(tmp_path)
  save(checkpoints, 5, best_step=0)
  monkeypatch.setattr(module.files, 'seal', None)
  checkpoints.save(6, make_state(), Progress({}))
  more = {'save': (7, make_state(), Progress({})), 'mark': (6, Progress({}))}.get(opportunity, ())
  with pytest.raises(CheckpointError, match=r'step 6 could not be written .*newest whole one is of step 5'):
    getattr(checkpoints, opportunity)(*more)
  assert Checkpoints(tmp_path)._steps() == steps_kept(tmp_path) == [5]


def test_a_run_that_ends_with_an_error_finishes_what_it_writes(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(5, make_state(), Progress({}))
  checkpoints.close()
  assert Checkpoints(tmp_path, read_only=True).newest_whole() == 5
