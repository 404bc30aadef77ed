"""Windows: every video lies in exactly one, whole, and its two spans cover it."""

import numpy as np
import pytest

from dlkd_jax.gallery import windows


@pytest.mark.parametrize('devices', [1, 3, 8])
@pytest.mark.parametrize('block_rows', [1, 64, 1500, 10**6])
def test_every_video_lies_whole_in_one_window(devices, block_rows):
  rng = np.random.default_rng(devices)
  for lengths in ([1], [1] * 5, [5000], rng.integers(1, 90, 200), rng.integers(1, 2000, 9)):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    cut = windows.cut(offsets, block_rows, devices)
    seen = []
    for place in np.ndindex(cut.steps, devices):
      first, last = cut.videos[place]
      start = cut.starts[place]
      assert start == 0 or start + cut.rows <= offsets[-1]
      for slot, video in enumerate(range(first, last)):
        a, b, level = (int(x) for x in cut.spans[(*place, slot)])
        rows = {*range(a, a + 2**level), *range(b, b + 2**level)}
        assert rows == set(range(offsets[video] - start, offsets[video + 1] - start)) and max(rows) < cut.rows
        assert level < cut.levels
        seen.append(video)
      assert np.all(cut.spans[place][last - first :, 2] == -1)
    assert sorted(seen) == list(range(len(lengths)))


def test_devices_get_adjacent_shares_of_about_as_many_rows():
  offsets = np.arange(401) * 50
  cut = windows.cut(offsets, 2048, 4)
  found = [[cut.videos[:, device, 0].max(), cut.videos[:, device, 1].max()] for device in range(4)]
  assert [b for _, b in found] == [100, 200, 300, 400]
  assert np.all(cut.starts[0] % 64 == 0)


def test_sizes_stay_the_same_while_a_gallery_grows():
  sizes = {
    (cut.rows, cut.most_videos, cut.levels) for n in range(1000, 1020) for cut in [windows.cut(np.arange(n) * 9, 2048)]
  }
  assert len(sizes) == 1


@pytest.mark.parametrize(
  ('offsets', 'rows', 'message'),
  [
    (np.asarray([0, 2, 5]), {'a': 6}, 'offsets run from 0 to 5; expected 0 to 6'),
    (np.asarray([1, 2, 6]), {'a': 6}, 'offsets run from 1 to 6'),
    (np.asarray([0, 4, 2, 6]), {'a': 6}, r'video 1 has -2 rows \(4 to 2\)'),
    (np.asarray([0, 2, 2, 6]), {'a': 6}, 'video 1 has 0 rows'),
    (np.asarray([0.0, 6.0]), {'a': 6}, r'offsets are float64 \[2\]'),
    (np.zeros(0, int), {'a': 0}, r'expected \[V\+1\] ints'),
    (np.asarray([0]), {'a': 0}, 'the gallery is empty; add videos'),
    (np.asarray([0, 6]), {}, 'no stored rows'),
    (np.asarray([0, 6]), {'a': 6, 'b': 5}, "different numbers of rows: {'a': 6, 'b': 5}"),
  ],
)
def test_offsets_that_do_not_fit(offsets, rows, message):
  with pytest.raises(ValueError, match=message):
    windows.check_offsets(offsets, rows)


def test_blocks_of_no_rows_are_refused():
  with pytest.raises(ValueError, match='block_rows is 0'):
    windows.cut(np.asarray([0, 3]), 0)
