"""Requests to stop: noted, not obeyed at once, and nothing worse when repeated. Several processes: `test_cluster`."""

import os
import signal

import pytest

from dlkd_jax.training import shutdown


@pytest.mark.parametrize(
  ('number', 'code'), [(signal.SIGTERM, shutdown.STOPPED), (signal.SIGINT, shutdown.INTERRUPTED)]
)
def test_a_signal_is_noted(number, code):
  before = signal.getsignal(number)
  with shutdown.StopRequest() as stop:
    assert not stop() and not stop.answer(stop.ask())
    for again in (number, number, signal.SIGTERM, signal.SIGINT):
      os.kill(os.getpid(), again)
    assert stop() and stop.answer(stop.ask())
    assert stop.signal == number and stop.code == code
    error = stop.stopped('at step 3')
    assert error.code == code and str(error) == f'stopped on request ({signal.Signals(number).name}) at step 3'
  assert signal.getsignal(number) is before


def test_a_signal_between_question_and_answer_counts():
  with shutdown.StopRequest() as stop:
    question = stop.ask()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.answer(question)


def test_codes_are_distinct():
  assert len({0, 1, 2, shutdown.STOPPED, shutdown.INTERRUPTED}) == 5
