"""Long runs are safe: stopped or killed at any moment, on a full disk, with damaged files, a run goes on as if not."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import pytest

from dlkd_jax import files
from dlkd_jax.training.checkpoints import Checkpoints
from tests.runs import SINGLE, Commands, assert_same_end, logged_steps, records, shared_folder, wait_until

# Blocks of two make an evaluation that lasts.
BLOCKS = ('--config.evaluation.block_videos=2', '--config.evaluation.block_captions=2')
KILLS = 20


@pytest.fixture(scope='module')
def commands(tmp_path_factory):
  return Commands(shared_folder(tmp_path_factory), *SINGLE)


@pytest.fixture(scope='module')
def undisturbed(commands, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('undisturbed')
  commands.run(*commands.training(workdir, *BLOCKS))
  return workdir


def steps_saved(workdir):
  folder = workdir / 'checkpoints'
  names = {path.name for path in folder.iterdir()} if folder.exists() else set()
  return sorted(int(name) for name in names if name.isdigit() and f'{name}.partial' not in names)


def is_saving(workdir):
  return any(path.suffix == '.partial' for path in (workdir / 'checkpoints').glob('*'))


MOMENTS = {
  'at first': lambda workdir: (workdir / 'config.json').exists(),
  'training': lambda workdir: 2 in logged_steps(workdir),
  'saving': is_saving,
  'evaluation': lambda workdir: 4 in logged_steps(workdir),
  'later': lambda workdir: 6 in logged_steps(workdir),
  'final evaluation': lambda workdir: (workdir / 'checkpoints' / '12' / 'evaluated.json').exists(),
}


# The others are slow: each is two runs.
QUICK = ('training', 'saving')


@pytest.mark.parametrize(
  'moment', [moment if moment in QUICK else pytest.param(moment, marks=pytest.mark.slow) for moment in MOMENTS]
)
def test_sigterm_stops_within_a_step_and_loses_nothing(commands, undisturbed, tmp_path, moment):
  process = commands.start(tmp_path, *BLOCKS)
  wait_until(lambda: MOMENTS[moment](tmp_path), process)
  before = max(map(abs, logged_steps(tmp_path)), default=0)
  process.send_signal(signal.SIGTERM)
  time.sleep(0.05)
  process.send_signal(signal.SIGTERM)  # Does nothing worse.
  _, error = process.communicate(timeout=200)
  assert process.returncode == 75, error
  assert 'stopped on request (SIGTERM)' in error and 'Traceback' not in error
  assert not is_saving(tmp_path) and not (tmp_path / 'results.json').exists()
  after = max(map(abs, logged_steps(tmp_path)), default=0)
  # Polling the log takes a while: a step may have ended before the signal was sent, one was at hand when it came.
  assert after - before <= 2
  if after:
    assert steps_saved(tmp_path)[-1] == after or moment == 'final evaluation'
    assert f'at step {after};' in error or 'in the evaluation, after' in error

  output = commands.run(*commands.training(tmp_path, *BLOCKS))
  assert not after or f'resumed from the checkpoint of step {after}' in output
  assert_same_end(tmp_path, undisturbed)


def test_ctrl_c_is_the_same_with_its_own_code(commands, undisturbed, tmp_path):
  process = commands.start(tmp_path, *BLOCKS)
  wait_until(lambda: 2 in logged_steps(tmp_path), process)
  process.send_signal(signal.SIGINT)
  _, error = process.communicate(timeout=200)
  assert process.returncode == 130 and 'stopped on request (SIGINT) at step' in error
  assert steps_saved(tmp_path)[-1] == max(logged_steps(tmp_path))


def test_a_second_ctrl_c_ends_at_once_and_loses_only_the_steps_since_the_last_save(commands, undisturbed, tmp_path):
  process = commands.start(tmp_path, *BLOCKS)
  wait_until(lambda: (tmp_path / 'metrics.jsonl').exists(), process)
  time.sleep(1)  # The first step is traced and compiled now.
  process.send_signal(signal.SIGINT)
  time.sleep(0.1)
  process.send_signal(signal.SIGINT)
  process.communicate(timeout=30)
  # The second where a run was leaving already ends it as the system does.
  assert process.returncode in (130, -signal.SIGINT)
  commands.run(*commands.training(tmp_path, *BLOCKS))
  assert_same_end(tmp_path, undisturbed)


def test_a_kill_within_the_validation_loses_no_step(commands, undisturbed, tmp_path):
  ends_only = (*BLOCKS, '--config.training.checkpoint_every_steps=0')
  process = commands.start(tmp_path, *ends_only)
  wait_until(lambda: 4 in steps_saved(tmp_path), process)
  process.kill()
  process.communicate()
  # A short validation may end with the writing, which goes on beside it.
  (tmp_path / 'checkpoints' / '4' / 'evaluated.json').unlink(missing_ok=True)
  assert steps_saved(tmp_path) == [4], 'it was too late'
  output = commands.run(*commands.training(tmp_path, *ends_only))
  assert 'resumed from the checkpoint of step 4 ' in output and 'step 4/12' not in output
  assert output.index('epoch   1 | validation') < output.index('step 5/12')
  assert_same_end(tmp_path, undisturbed)


def listens(process):
  """Whether a process catches SIGTERM already, as the system tells."""
  status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
  (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith('SigCgt:')]
  return int(caught, 16) >> (signal.SIGTERM - 1) & 1


def test_evaluation_alone_stops_too(commands, undisturbed):
  process = commands.start(undisturbed, *BLOCKS, '--mode=eval', '--split=train')
  wait_until(lambda: listens(process), process)
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=200)
  assert process.returncode == 75 and 'stopped on request (SIGTERM) in the evaluation, after' in error
  assert not (undisturbed / 'eval_train.json').exists()


def test_a_damaged_newest_checkpoint_is_not_used(commands, undisturbed, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(undisturbed, workdir)
  newest = workdir / 'checkpoints' / '12'
  largest = max((path for path in newest.rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 3] ^= 1
  largest.write_bytes(content)
  done = commands.try_to(*commands.training(workdir, *BLOCKS))
  assert done.returncode == 0, done.stderr
  assert 'the checkpoint of step 12' in done.stderr and 'check sum differs' in done.stderr
  assert 'resumed from the checkpoint of step 9' in done.stdout
  assert (workdir / 'checkpoints' / '12.damaged').is_dir()
  assert_same_end(workdir, undisturbed)


def test_where_every_checkpoint_is_damaged_nothing_is_overwritten(commands, undisturbed, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(undisturbed, workdir)
  for path in (workdir / 'checkpoints').glob('*/manifest.json'):
    path.unlink()
  done = commands.try_to(*commands.training(workdir, *BLOCKS))
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  assert 'no checkpoint in' in done.stderr and 'remove it to start anew' in done.stderr
  assert steps_saved(workdir) == steps_saved(undisturbed)


@pytest.mark.parametrize('workdir', ['{file}/run', '/sys/run'], ids=['below a file', 'no permission'])
def test_a_work_directory_that_cannot_be_written(commands, tmp_path, workdir):
  (tmp_path / 'file').touch()
  done = commands.try_to(*commands.training(workdir.format(file=tmp_path / 'file')))
  assert done.returncode == 1
  (line,) = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
  assert 'run' in line and 'Traceback' not in done.stderr


@pytest.fixture
def small_disk(tmp_path):
  """A file system of its own, too small for a run; only the root user can make one."""
  done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', tmp_path], capture_output=True, check=False)
  if done.returncode:
    pytest.skip(f'no file system can be mounted here: {done.stderr.decode()}')
  yield tmp_path
  subprocess.run(['umount', tmp_path], check=True)


def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(commands, undisturbed, small_disk):
  (small_disk / 'other').write_bytes(bytes(500 << 10))
  done = commands.try_to(*commands.training(small_disk, *BLOCKS))
  assert done.returncode == 1 and 'Traceback' not in done.stderr, done.stderr
  assert 'No space left on device' in done.stderr or 'RESOURCE_EXHAUSTED' in done.stderr
  assert not list(small_disk.glob('*.tmp'))
  for step in steps_saved(small_disk):
    assert files.problem(small_disk / 'checkpoints' / str(step)) is None
  (small_disk / 'other').unlink()
  subprocess.run(['mount', '-o', 'remount,size=50m', small_disk], check=True)
  commands.run(*commands.training(small_disk, *BLOCKS))
  assert_same_end(small_disk, undisturbed)


def test_a_damaged_shard_is_named(commands, tmp_path):
  data = tmp_path / 'data'
  shutil.copytree(commands.data_dir, data)
  for shard in data.rglob('*-train.array_record*'):
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
  done = commands.try_to(*commands.training(tmp_path / 'run', f'--config.data.data_dir={data}'))
  assert done.returncode == 1, done.stderr
  assert 'Traceback' not in done.stderr and 'train' in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_steps_are_traced_on_request(commands, tmp_path):
  commands.run(*commands.training(tmp_path, '--config.logging.profile_steps=(2,2)', '--config.training.epochs=1'))
  assert len(list((tmp_path / 'profile').rglob('*.trace.json.gz'))) == 1
  assert len(list((tmp_path / 'profile').rglob('*.xplane.pb'))) == 1


def test_nothing_is_compiled_after_the_first_epoch(undisturbed):
  counts = [record['compile/programs'] for record in records(undisturbed) if 'compile/programs' in record]
  assert len(counts) == 12 and counts[0] == counts[1] > 0  # Before the first step, and with the first checkpoint.
  assert len(set(counts[4:])) == 1


@pytest.mark.slow
def test_twenty_kills_at_random_moments(commands, tmp_path):
  """SIGKILL, again and again: no checkpoint is ever broken, no step is lost beyond the last save or made twice."""
  longer = ('--config.training.epochs=40', '--config.training.patience=40')
  expected, workdir = tmp_path / 'expected', tmp_path / 'killed'
  start = time.monotonic()
  process = commands.start(expected, *longer)
  wait_until(lambda: logged_steps(expected), process)
  seconds = time.monotonic() - start  # To the first step.
  assert process.communicate() and process.returncode == 0
  rng, newest, kills = random.Random(0), 0, 0
  while kills < KILLS:
    process = commands.start(workdir, *longer)
    # Half of the kills come before the first step or at it, the others soon behind one: so the run is long enough.
    reached, until = max(logged_steps(workdir), default=0), time.monotonic() + rng.uniform(0.0, seconds)
    early = kills % 2 == 0
    wait_until(
      lambda: (
        max(logged_steps(workdir), default=0) not in (0, reached) or (early and time.monotonic() > until)  # noqa: B023
      ),
      process,
    )
    if not early:
      time.sleep(rng.uniform(0.0, 0.2))
    if process.poll() is not None:
      assert process.returncode == 0, process.communicate()
      break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kills += 1
    saved = steps_saved(workdir)
    for step in saved:
      assert files.problem(workdir / 'checkpoints' / str(step)) is None, f'broken by kill {kills}'
    assert max(saved, default=0) >= newest
    newest = max(saved, default=0)
    trained = [step for step in logged_steps(workdir) if step > 0]
    assert trained == list(range(1, len(trained) + 1)) and len(trained) >= newest
  assert kills == KILLS, f'the run ended after {kills} kills; make it longer'
  commands.run(*commands.training(workdir, *longer))
  assert_same_end(workdir, expected)
  assert Checkpoints(workdir).newest_whole() == 160


@pytest.mark.slow
def test_the_undisturbed_run_does_not_depend_on_the_cache_of_programs(commands, undisturbed, tmp_path):
  options = commands.options(*commands.training(tmp_path, *BLOCKS))
  options['env']['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
  subprocess.run(**options, capture_output=True, check=True)
  assert_same_end(tmp_path, undisturbed)
