"""The order in which the processes encode a split."""

import numpy as np
import pytest

from dlkd_jax.data.sources import Lengths
from dlkd_jax.training.splits import gallery_order
from tests import options as made


def _lengths(student, teacher):
  ones = np.ones(len(student), np.int64)
  return Lengths(np.array(student), np.array(teacher), ones, ones)


def test_the_longest_come_first_and_ties_keep_their_order():
  lengths = _lengths([5, 300, 40, 128, 7], [5, 60, 90, 10, 7])
  without = gallery_order(lengths, 5, made.pipeline_options(teacher=False), 2, 0, 1)
  assert without.tolist() == [1, 3, 2, 4, 0]  # 300 frames are brought to 128.
  assert gallery_order(lengths, 5, made.pipeline_options(), 2, 0, 1).tolist() == [1, 3, 2, 4, 0]
  lengths = _lengths([5, 30, 40], [100, 30, 40])
  assert gallery_order(lengths, 3, made.pipeline_options(), 2, 0, 1).tolist() == [0, 2, 1]


def test_without_lengths_the_order_is_the_source_s():
  assert gallery_order(None, 5, made.pipeline_options(), 2, 0, 1).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('videos', [1, 7, 8, 64, 65])
@pytest.mark.parametrize('processes', [1, 2, 3])
def test_every_video_is_taken_once_and_shares_are_even(videos, processes):
  lengths = _lengths(np.random.default_rng(0).integers(1, 200, videos), np.zeros(videos, np.int64))
  orders = [gallery_order(lengths, videos, made.pipeline_options(), 4, index, processes) for index in range(processes)]
  assert sorted(np.concatenate(orders)) == list(range(videos))
  blocks = [-(-len(order) // 4) for order in orders]
  assert max(blocks) - min(blocks) <= 1
