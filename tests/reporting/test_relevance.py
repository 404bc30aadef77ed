"""Recall over several relevant videos against plain loops, and the errors of the file."""

import json

import numpy as np
import pytest

from dlkd_jax.reporting import bootstrap, relevance
from dlkd_jax.retrieval.metrics import rank_own_videos

CAPTIONS, VIDEOS = ['c0', 'c1', 'c2'], ['v0', 'v1', 'v2', 'v3']
OWN = np.array([0, 1, 3])


def write(tmp_path, *lines):
  path = tmp_path / 'relevant.jsonl'
  path.write_text('\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines))
  return path


def test_captions_not_named_have_their_own_video(tmp_path):
  path = write(tmp_path, {'caption': 'c1', 'videos': ['v3', 'v1', 'v3']}, '', {'caption': 'other', 'videos': ['x']})
  found = relevance.read_relevant(path, CAPTIONS, VIDEOS, OWN)
  assert [x.tolist() for x in found.columns] == [[0], [1, 3], [3]] and found.given == 1


def plain(line, relevant):
  """Ranks one by one: a video's rank counts every wrong video that is not below it, and relevant ones before it."""
  ranks = []
  for video in sorted(relevant, key=lambda v: -line[v]):
    wrong = sum(line[v] >= line[video] for v in range(len(line)) if v not in relevant)
    ranks.append(wrong + len(ranks) + 1)
  return np.array(ranks)


def test_values_are_those_of_plain_loops():
  random = np.random.default_rng(0)
  scores = random.integers(0, 30, (50, 200)).astype(np.float32)  # Many ties.
  columns = [random.choice(200, random.integers(1, 8), replace=False) for _ in range(50)]
  values = relevance.multiple_values({'a': scores}, {'a': 1.0}, relevance.Relevance(columns, 50))
  for row, relevant in enumerate(columns):
    ranks = plain(scores[row], set(relevant.tolist()))
    for k in (1, 5, 10, 100):
      assert values[f'R@{k}'][row] == pytest.approx(100 * sum(r <= k for r in ranks) / len(ranks))
    precision = [sum(r <= rank for r in ranks) / rank for rank in ranks]
    assert values['mAP'][row] == pytest.approx(np.mean(precision))
    assert values['first_rank'][row] == ranks[0]


def test_one_relevant_video_gives_the_usual_metrics():
  random = np.random.default_rng(1)
  scores, own = random.random((30, 60), np.float32), random.integers(0, 60, 30)
  values = relevance.multiple_values(
    {'a': scores}, {'a': 1.0}, relevance.Relevance([own[i : i + 1] for i in range(30)], 0)
  )
  usual = bootstrap.caption_values(rank_own_videos(scores, own))
  for name in ('R@1', 'R@5', 'R@10', 'R@100', 'SumR', 'mAP'):
    np.testing.assert_allclose(values[name], usual[name])


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{"caption": "c0"', ':2: not JSON'),
    ({'caption': 'c0', 'videos': []}, ':2: expected .* with a video at least'),
    ({'caption': 'c0', 'videos': 'v1'}, ':2: expected'),
    ({'caption': 'c2', 'videos': ['v1']}, ":2: caption 'c2' was named in line 1"),
    ({'caption': 'c0', 'videos': ['v1', 'v9']}, "relevant videos of caption 'c0' are not among the 4 .* as 'v9'"),
  ],
)
def test_bad_lines_are_named(tmp_path, line, message):
  path = write(tmp_path, {'caption': 'c2', 'videos': ['v0']}, line)
  with pytest.raises(ValueError, match=message):
    relevance.read_relevant(path, CAPTIONS, VIDEOS, OWN)


def test_marks_and_separators_of_other_systems(tmp_path):
  path = tmp_path / 'relevant.jsonl'
  line = json.dumps({'caption': 'c0', 'videos': ['v1'], 'note': 'a\u2028b\x85c'}, ensure_ascii=False)
  path.write_bytes(('\ufeff' + line + '\r\n\r\n').encode())
  assert relevance.read_relevant(path, CAPTIONS, VIDEOS, OWN).given == 1


def test_a_file_of_another_split_is_refused(tmp_path):
  path = write(tmp_path, {'caption': 'else', 'videos': ['v0']})
  with pytest.raises(ValueError, match="none of them among the 3 of this split, which are called 'c0'"):
    relevance.read_relevant(path, CAPTIONS, VIDEOS, OWN)
