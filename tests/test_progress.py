"""The bar on a terminal, and the lines elsewhere."""

import io
import sys
import time

from dlkd_jax.progress import Progress


def stderr(monkeypatch, terminal):
  stream = io.StringIO()
  stream.isatty = lambda: terminal
  monkeypatch.setattr(sys, 'stderr', stream)
  return stream


def test_little_is_written_where_nobody_looks(monkeypatch):
  stream = stderr(monkeypatch, terminal=False)
  with Progress(3, 'videos') as bar:
    for _ in range(3):
      bar.step('train')
  assert not stream.getvalue()  # It is done before a line would be due.
  with Progress(3, 'videos', every=0.01) as bar:
    for _ in range(3):
      time.sleep(0.02)
      bar.step('train')
  *_, last = stream.getvalue().strip().split('\r')
  assert last.startswith('train ') and '3/3 videos' in last


def test_parts_of_a_step_count_on_a_terminal(monkeypatch):
  stream = stderr(monkeypatch, terminal=True)
  with Progress(2, 'videos') as bar:
    bar.mininterval = bar.delay = 0
    bar.part('lo\nng', 0.5)
    assert ' 25%|' in stream.getvalue() and '0/2 videos' in stream.getvalue()
    bar.step('train')
    assert bar.n == 1 and ' 50%|' in stream.getvalue() and 'left' in stream.getvalue()


def test_no_line_for_nothing(monkeypatch):
  stream = stderr(monkeypatch, terminal=True)
  with Progress(0, 'videos', disable=True) as bar:
    assert bar.n == 0
  assert not stream.getvalue()
