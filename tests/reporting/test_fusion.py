"""The sweep over fusion weights against metrics of explicit sums."""

import numpy as np
import pytest

from dlkd_jax.reporting import fusion
from dlkd_jax.retrieval.metrics import metrics_from_ranks


@pytest.fixture
def scores():
  random = np.random.default_rng(0)
  return {name: random.random((40, 25), np.float32) for name in ('inheritance', 'exploration', 'teacher')}


OWN = np.arange(40) % 25
PAPER = {'inheritance': 0.7, 'exploration': 0.3}


def plain_ranks(matrix):
  return np.array([sum(score >= row[own] for score in row) for row, own in zip(matrix, OWN, strict=True)])


def test_every_point_is_that_of_the_sum(scores):
  points = fusion.sweep(scores, OWN, PAPER)
  assert len(points) == 21 + 9 * 11 + 1
  for point in points[::7]:
    a, t = point.share, point.teacher
    student = a * scores['inheritance'].astype(float) + (1 - a) * scores['exploration']
    assert point.metrics == metrics_from_ranks(plain_ranks((1 - t) * student + t * scores['teacher']))


def test_ends_are_the_scorers_alone(scores):
  points = {(p.share, p.teacher): p for p in fusion.sweep(scores, OWN, PAPER)}
  for place, name in (((0.0, 0.0), 'exploration'), ((1.0, 0.0), 'inheritance'), ((1.0, 1.0), 'teacher')):
    assert points[place].metrics == metrics_from_ranks(plain_ranks(scores[name]))
    assert points[place].weights == {name: 1.0}


def test_the_best(scores):
  scores['exploration'][np.arange(40), OWN] += 1.0
  points = fusion.sweep(scores, OWN, PAPER)
  assert fusion.best(points, teacher=True).metrics.sum_r == max(p.metrics.sum_r for p in points)
  assert fusion.best(points, teacher=False).teacher == 0.0


def test_one_branch_and_no_teacher(scores):
  alone = fusion.sweep({'inheritance': scores['inheritance']}, OWN, {'inheritance': 1.0})
  assert [(p.share, p.teacher) for p in alone] == [(1.0, 0.0)]
  with_teacher = fusion.sweep({name: scores[name] for name in ('inheritance', 'teacher')}, OWN, {'inheritance': 1.0})
  assert [p.teacher for p in with_teacher] == [0.0, *(round(0.1 * i, 6) for i in range(1, 10)), 1.0]


def test_weights_sum_to_one():
  for a, t in ((0.7, 0.0), (0.3, 0.4), (1.0, 0.5), (0.0, 1.0)):
    assert sum(fusion.blend(PAPER, a, t).values()) == pytest.approx(1.0)


def test_several_other_branches_keep_their_proportion():
  three = {'first': 0.2, 'second': 0.6, 'third': 0.2}
  assert fusion.blend(three, 0.5, 0.2) == pytest.approx({'first': 0.4, 'second': 0.3, 'third': 0.1, 'teacher': 0.2})
  assert fusion.blend({'first': 1.0, 'second': 0.0, 'third': 0.0}, 0.5, 0.0)['third'] == 0.25
