"""The console's progress line and its window of steps."""

import pytest

from dlkd_jax.training import console

SUMMARY = {'loss/total': 1.25, 'loss/inheritance/triplet': 0.5, 'loss/distillation': 0.125}


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [(0, '00:00'), (59.9, '00:59'), (61, '01:01'), (3599, '59:59'), (3723, '1:02:03'), (90000, '25:00:00')],
)
def test_clock(seconds, text):
  assert console.clock(seconds) == text


def test_window(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(console.time, 'perf_counter', lambda: now[0])
  window = console.StepWindow()
  for value in (1.0, 2.0, 6.0):
    window.waited(0.25)
    window.add({'loss/total': value, 'schedule/alpha': 0.8})
  now[0] += 6.0
  summary = window.summary()
  assert summary == pytest.approx(
    {'loss/total': 3.0, 'schedule/alpha': 0.8, 'time/steps_per_second': 0.5, 'time/step': 2.0, 'time/data_wait': 0.25}
  )


def test_a_pause_is_left_out(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(console.time, 'perf_counter', lambda: now[0])
  window = console.StepWindow()
  window.add({})
  now[0] += 5.0
  window.paused(3.0)
  assert window.summary()['time/step'] == 2.0


def test_empty_window_is_finite():
  summary = console.StepWindow().summary()
  assert summary['time/data_wait'] == 0.0 and summary['time/steps_per_second'] > 0


@pytest.mark.parametrize(('step', 'epoch'), [(1, 1), (10, 1), (11, 2), (30, 3)])
def test_progress_line(step, epoch):
  line = console.progress_line(
    step=step,
    steps_per_epoch=10,
    epochs=3,
    summary=SUMMARY | {'time/steps_per_second': 4.0, 'time/data_wait': 0.05},
    seconds_left=3723,
    validation='val SumR best 12.5 (epoch 1)',
  )
  assert line == (
    f'epoch   {epoch}/3 | step {step}/30 | loss 1.2500 trip_I 0.500 kl 0.125 | '
    '4.00 steps/s, data wait 20.0% | left 1:02:03 | val SumR best 12.5 (epoch 1)'
  )
