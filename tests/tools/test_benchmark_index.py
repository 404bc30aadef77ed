"""The benchmark of an index that grows: it runs, and an addition writes what is added and no more."""

import json

import numpy as np
import pytest

from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.tools import benchmark_index


def test_one_table(tmp_path, capsys):
  found = tmp_path / 'found.json'
  benchmark_index.main(['--frames=3000', '--queries=3', '--additions=2', f'--folder={tmp_path}', f'--json={found}'])
  printed, rows = capsys.readouterr().out, json.loads(found.read_text())
  assert set(rows) > {'building, 3,000 x 512', 'exact search', 'search', 'opening'}
  assert all(f'| {name} | {text} |' in printed for name, text in rows.items())
  with pytest.raises(SystemExit):
    benchmark_index.main(['--frames=5'])


def test_an_addition_writes_what_is_added_whatever_is_there(tmp_path):
  """The bytes of an addition are those of its frames, and about a thousand a video of the whole, for the catalog."""
  written = []
  for frames in (2_000, 20_000):
    index = tmp_path / str(frames)
    benchmark_index.create(index)
    benchmark_index.add(index, benchmark_index.made_up(frames, 0), 'first', segment_frames=1_000)
    some = list(benchmark_index.made_up(200, 1))
    work = benchmark_index.measured(
      lambda index=index, some=some: benchmark_index.add(index, iter(some), 'more', 1_000)
    )
    written.append((work, len(IndexFolder.open(index).contents()[1])))
  (small, few), (large, many) = written
  a_video = 50 * 512 * 2
  for what in ('read', 'written'):
    more = getattr(large, what) - getattr(small, what)
    assert more <= (many - few) * a_video / 25, what
  assert small.written >= 200 * 512 * 2


def test_made_up_videos_are_the_same_each_time():
  one, other = (np.concatenate(list(benchmark_index.made_up(900, 4))) for _ in range(2))
  np.testing.assert_array_equal(one, other)
  assert len(one) == 900 and not np.array_equal(one, np.concatenate(list(benchmark_index.made_up(900, 5))))
