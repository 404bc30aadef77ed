"""Stages are made once, and a work directory keeps to its settings."""

import dataclasses

import pytest

from dlkd_jax.demo import demonstration, stages
from dlkd_jax.demo.settings import SIZES


def test_a_stage_is_made_once_and_a_stopped_one_again(tmp_path):
  made, said = [], []

  def fail():
    made.append('second')
    raise OSError('full')

  first = stages.Stage('first', 'the first', lambda: made.append('first'))
  with pytest.raises(OSError, match='full'):
    stages.run([first, stages.Stage('second', 'the second', fail)], tmp_path, said.append)
  seconds = stages.run([first, stages.Stage('second', 'the second', lambda: made.append('2'))], tmp_path, said.append)
  assert made == ['first', 'second', '2']
  assert seconds.keys() == {'first', 'second'}
  assert any('there already' in line for line in said)


def test_a_stage_of_students_is_done_again_for_more_seeds(tmp_path):
  made = []
  for seeds in (1, 1, 3, 3):
    stages.run([stages.Stage('students', '', lambda n=seeds: made.append(n), seeds)], tmp_path, lambda line: None)
  assert made == [1, 3]
  settings = SIZES['tiny']
  stages.claim(tmp_path, settings)
  stages.claim(tmp_path, dataclasses.replace(settings, students=7))


def test_other_settings_are_refused(tmp_path):
  settings = SIZES['tiny']
  stages.claim(tmp_path, settings)
  stages.claim(tmp_path, settings)
  with pytest.raises(ValueError, match='steps: 4 → 5'):
    stages.claim(tmp_path, dataclasses.replace(settings, steps=5))
  (tmp_path / 'settings.json').write_text('{')
  with pytest.raises(ValueError, match='damaged'):
    stages.claim(tmp_path, settings)


def test_an_unknown_stage_is_refused(tmp_path):
  with pytest.raises(ValueError, match='there is no stage'):
    demonstration.demonstrate(SIZES['tiny'], tmp_path / 'w', 'filmz')
  assert not (tmp_path / 'w').exists()
