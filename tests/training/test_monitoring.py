"""What a run records: windows of steps, progress lines, the writer on resuming, memory, compilations, traces."""

import errno
import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.training import metrics as metrics_lib
from dlkd_jax.training import monitoring
from dlkd_jax.training.checkpoints import Progress
from dlkd_jax.training.monitoring import MetricWriter, StepTracer

SUMMARY = {'loss/total': 1.25, 'loss/inheritance/triplet': 0.5, 'loss/inheritance/distillation': 0.125}


@pytest.mark.parametrize(('step', 'epoch'), [(1, 1), (10, 1), (11, 2), (30, 3)])
def test_progress_line(step, epoch):
  seconds = 3723 / (30 - step) if step < 30 else 0.25
  summary = SUMMARY | {'time/step': seconds, 'time/data_wait': 0.2 * seconds}
  line = monitoring.progress_line(step, 10, 3, summary, Progress({}, best_sum_r=12.5, best_epoch=1))
  assert line == (
    f'epoch   {epoch}/3 | step {step}/30 | loss 1.2500 trip_I 0.500 kl_I 0.125 | {1 / seconds:.2f} steps/s, '
    f'data wait 20.0% | left {"1:02:03" if step < 30 else "00:00"} | val SumR best 12.5 (epoch 1)'
  )
  assert monitoring.progress_line(step, 10, 3, summary, Progress({})).endswith('val SumR -')


@jax.jit
def of_step(loss):
  return metrics_lib.of_step({'loss/total': loss, 'schedule/alpha': 0.5})


def make_records(workdir, writer, monkeypatch, every=4, per_epoch=6):
  """Records, and the clock by which they measure, as a list of one number."""
  now = [100.0]
  monkeypatch.setattr(monitoring.time, 'perf_counter', lambda: now[0])
  arguments = writer, monitoring.Compilations(), Progress({}), workdir
  return monitoring.Records(*arguments, every=every, per_epoch=per_epoch, epochs=2), now


def test_means_are_recorded_every_so_many_steps_and_where_an_epoch_ends(tmp_path, monkeypatch, capsys):
  with MetricWriter(tmp_path) as writer:
    records, now = make_records(tmp_path, writer, monkeypatch)
    for step in range(1, 13):
      now[0] += 2.0
      if step == 3:
        with records.pause('time/checkpoint'):
          now[0] += 50.0
      records.add(step, of_step(float(step)), waited=0.5 * step)
    assert [line['step'] for line in lines(tmp_path)] == [4, 6, 8]  # The last is fetched behind the next dispatch.
    records.flush()
  found = lines(tmp_path)
  assert [line['step'] for line in found] == [4, 6, 8, 12]
  assert [line['loss/total'] for line in found] == [2.5, 5.5, 7.5, 10.5]
  assert {line['schedule/alpha'] for line in found} == {0.5}
  assert [line['time/step'] for line in found] == [2.5, 2.0, 2.0, 1.5]  # From one fetch to the next.
  assert [line['time/data_wait'] for line in found] == [0.5] * 4
  assert capsys.readouterr().out.count('| step ') == 4


def test_metrics_that_are_not_finite_end_the_run_before_anything_is_saved(tmp_path, monkeypatch):
  with MetricWriter(tmp_path) as writer:
    records, _ = make_records(tmp_path, writer, monkeypatch)
    for step, loss in enumerate((1.0, np.nan, 1.0), 1):
      records.add(step, of_step(loss), 0.0)
    with pytest.raises(monitoring.NonFiniteLossError, match=r'steps 1 to 3: loss/total became NaN or infinite.*newest'):
      records.flush()  # In the middle of a window, too.
  assert not lines(tmp_path)


def test_a_window_is_one_small_transfer():
  window = metrics_lib.merge(of_step(1.0), of_step(3.0))
  assert metrics_lib.fetch(window) == {'loss/total': 2.0, 'schedule/alpha': 0.5}
  assert sum(leaf.nbytes for leaf in jax.tree.leaves(window)) <= 16 and len(jax.tree.leaves(window)) == 3


def lines(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def write(workdir, steps, resumed=0):
  with MetricWriter(workdir, resumed) as writer:
    for step in steps:
      writer.write(step, {'loss/total': step / 2})


def test_one_json_line_a_record_and_tensorboard_files(tmp_path):
  write(tmp_path, [1, 2])
  assert lines(tmp_path) == [{'step': 1, 'loss/total': 0.5}, {'step': 2, 'loss/total': 1.0}]
  assert len(list((tmp_path / 'tensorboard').iterdir())) == 1


def test_lines_are_there_before_closing(tmp_path):
  with MetricWriter(tmp_path) as writer:
    writer.write(3, {'a': 1})
    assert lines(tmp_path) == [{'step': 3, 'a': 1.0}]


def test_resuming_drops_later_lines(tmp_path):
  write(tmp_path, [10, 20, 30, 40])
  write(tmp_path, [30, 40, 50], resumed=20)
  assert [r['step'] for r in lines(tmp_path)] == [10, 20, 30, 40, 50]


@pytest.mark.parametrize('cut', [1, 5, 12, 25, 28])
def test_resuming_drops_a_line_that_was_cut(tmp_path, cut):
  write(tmp_path, [10, 20])
  path = tmp_path / 'metrics.jsonl'
  line = '{"step": 21, "loss/total": 10.5}'
  path.write_text(path.read_text() + line[:cut])
  write(tmp_path, [21], resumed=20)
  assert [r['step'] for r in lines(tmp_path)] == [10, 20, 21]


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
  write(tmp_path, [10, 20])
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text().rstrip('\n'))
  write(tmp_path, [30], resumed=20)
  assert [r['step'] for r in lines(tmp_path)] == [10, 20, 30]


def test_an_evaluation_that_is_made_again_is_dropped(tmp_path):
  with MetricWriter(tmp_path) as writer:
    for step in (10, 20):
      writer.write(step, {'loss/total': 1})
      writer.write(step, {'val/fused/SumR': step})
  with MetricWriter(tmp_path, 20, evaluated_step=10) as writer:
    writer.write(20, {'val/fused/SumR': 21})
  found = [(r['step'], r.get('val/fused/SumR')) for r in lines(tmp_path)]
  assert found == [(10, None), (10, 10.0), (20, None), (20, 21.0)]


def test_tensorboard_reads_the_events(tmp_path):
  reader = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
  write(tmp_path, [10, 20])
  write(tmp_path, [20, 30], resumed=10)
  events = reader.EventAccumulator(str(tmp_path / 'tensorboard'))
  events.Reload()
  assert [(e.step, e.value) for e in events.Scalars('loss/total')] == [(10, 5.0), (20, 10.0), (30, 15.0)]


class FullDisk:
  """A file that nothing can be written to."""

  def write(self, text):
    raise OSError(errno.ENOSPC, 'No space left on device')

  def close(self):
    pass


def test_a_full_disk_is_told_at_once(tmp_path):
  with MetricWriter(tmp_path) as writer:
    writer._lines.close()
    writer._lines = FullDisk()
    with pytest.raises(OSError, match=r'No space left on device.*metrics.jsonl'):
      writer.write(1, {'a': 1})


def test_a_new_run_in_a_used_folder_starts_over(tmp_path):
  write(tmp_path, [10, 20])
  write(tmp_path, [5])
  assert [r['step'] for r in lines(tmp_path)] == [5]


def test_compilations_are_counted_once_a_shape():
  triple = jax.jit(lambda x: 3 * x)
  small, large = np.ones(3, np.float32), np.ones(4, np.float32)
  with monitoring.Compilations() as compilations:
    triple(small)
    assert compilations.count == 1 and compilations.seconds > 0
    triple(small)
    assert compilations.count == 1
    triple(large)
    assert compilations.scalars() == {'compile/programs': 2.0, 'compile/seconds': compilations.seconds}
  jax.jit(lambda x: 5 * x)(jnp.asarray(small))
  assert compilations.count == 2  # It listens no more.


def test_memory_is_that_of_this_process():
  before = monitoring.memory()['memory/host_peak']
  assert 50 < before < 1e6
  block = np.ones(300 << 20, np.uint8)
  assert monitoring.memory()['memory/host_peak'] >= max(before, block.nbytes / 2**20)


def test_memory_of_the_fullest_device(monkeypatch):
  class Device:
    def __init__(self, **stats):
      self.stats = stats

    def memory_stats(self):
      return self.stats or None

  devices = [Device(bytes_in_use=1 << 20, peak_bytes_in_use=8 << 20), Device(bytes_in_use=2 << 20), Device()]
  monkeypatch.setattr(monitoring.jax, 'local_devices', lambda: devices)
  scalars = monitoring.memory()
  assert (scalars['memory/device'], scalars['memory/device_peak']) == (2.0, 8.0)


double = jax.jit(lambda x: 2 * x)


def run(tracer, steps):
  records = monitoring.Records(None, None, None, None, every=1, per_epoch=1, epochs=1)
  for step in steps:
    tracer.before(step, records)
    with jax.profiler.StepTraceAnnotation('train', step_num=step):
      out = double(jnp.ones(3))
    tracer.after(step, out, records)


def traced_steps(workdir):
  (path,) = (workdir / 'profile').rglob('*.trace.json.gz')
  events = json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
  return sorted({int(e['args']['step_num']) for e in events if e.get('name') == 'train'})


def test_traces_the_steps_asked_for(tmp_path):
  with StepTracer(tmp_path, (3, 2)) as tracer:
    run(tracer, range(1, 9))
  assert traced_steps(tmp_path) == [3, 4]
  assert len(list((tmp_path / 'profile').rglob('*.xplane.pb'))) == 1


def test_a_run_that_ends_or_begins_within_the_range(tmp_path):
  with StepTracer(tmp_path / 'ends', (3, 100)) as tracer:
    run(tracer, range(1, 5))
  assert traced_steps(tmp_path / 'ends') == [3, 4]
  with StepTracer(tmp_path / 'begins', (3, 4)) as tracer:
    run(tracer, range(5, 9))
  assert traced_steps(tmp_path / 'begins') == [5, 6]


@pytest.mark.parametrize('steps', [(), (20, 3)])
def test_nothing_is_written_otherwise(tmp_path, steps):
  with StepTracer(tmp_path, steps) as tracer:
    run(tracer, range(1, 5))
  assert not list(tmp_path.iterdir())
