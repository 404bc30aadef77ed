"""Weights: how they are written, and which are refused."""

import pytest

from dlkd_jax.gallery import weights

SCORERS = ('inheritance', 'exploration', 'teacher')


def test_written_and_chosen():
  given = weights.parse('inheritance=0.5, teacher=.5')
  assert given == {'inheritance': 0.5, 'teacher': 0.5}
  assert weights.choose(SCORERS, given, {}) == {'inheritance': 0.5, 'exploration': 0.0, 'teacher': 0.5}
  assert weights.choose(SCORERS, None, {'teacher': 1}) == {'inheritance': 0.0, 'exploration': 0.0, 'teacher': 1.0}


@pytest.mark.parametrize('text', ['', 'teacher', 'teacher=', 'teacher=x', '=1', 'teacher=1,teacher=2', 'teacher=1;b=2'])
def test_badly_written(text):
  with pytest.raises(ValueError, match='expected scorers'):
    weights.parse(text)


@pytest.mark.parametrize(
  'given', [{'teacher': 0.0}, {'teacher': -1.0}, {'teacher': float('nan')}, {'teacher': float('inf')}]
)
def test_refused(given):
  with pytest.raises(ValueError, match='expected numbers from 0'):
    weights.choose(SCORERS, given, {})
