"""The metric writer, above all what it does on resuming."""

import errno
import json

import pytest

from dlkd_jax.training.writers import MetricWriter


def records(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def write(workdir, steps, resumed=0):
  with MetricWriter(workdir, resumed) as writer:
    for step in steps:
      writer.write(step, {'loss/total': step / 2})


def test_one_json_line_a_record_and_tensorboard_files(tmp_path):
  write(tmp_path, [1, 2])
  assert records(tmp_path) == [{'step': 1, 'loss/total': 0.5}, {'step': 2, 'loss/total': 1.0}]
  assert len(list((tmp_path / 'tensorboard').iterdir())) == 1


def test_lines_are_there_before_closing(tmp_path):
  with MetricWriter(tmp_path) as writer:
    writer.write(3, {'a': 1})
    assert records(tmp_path) == [{'step': 3, 'a': 1.0}]


def test_resuming_drops_later_records(tmp_path):
  write(tmp_path, [10, 20, 30, 40])
  write(tmp_path, [30, 40, 50], resumed=20)
  assert [r['step'] for r in records(tmp_path)] == [10, 20, 30, 40, 50]


@pytest.mark.parametrize('cut', [1, 5, 12, 25, 28])
def test_resuming_drops_a_line_that_was_cut(tmp_path, cut):
  write(tmp_path, [10, 20])
  path = tmp_path / 'metrics.jsonl'
  line = '{"step": 21, "loss/total": 10.5}'
  path.write_text(path.read_text() + line[:cut])
  write(tmp_path, [21], resumed=20)
  assert [r['step'] for r in records(tmp_path)] == [10, 20, 21]


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
  write(tmp_path, [10, 20])
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text().rstrip('\n'))
  write(tmp_path, [30], resumed=20)
  assert [r['step'] for r in records(tmp_path)] == [10, 20, 30]


def test_an_evaluation_that_is_made_again_is_dropped(tmp_path):
  with MetricWriter(tmp_path) as writer:
    for step in (10, 20):
      writer.write(step, {'loss/total': 1})
      writer.write(step, {'val/fused/SumR': step})
  with MetricWriter(tmp_path, 20, evaluated_step=10) as writer:
    writer.write(20, {'val/fused/SumR': 21})
  found = [(r['step'], r.get('val/fused/SumR')) for r in records(tmp_path)]
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
  assert [r['step'] for r in records(tmp_path)] == [5]
