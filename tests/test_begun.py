"""What a folder was begun with."""

import json

import pytest

from dlkd_jax import begun
from dlkd_jax.errors import UserError


def test_differences_are_those_of_nested_fields():
  saved, current = {'a': {'x': 1, 'y': None}, 'b': 2}, {'a': {'x': 3, 'y': None}, 'c': None}
  assert begun.differences(saved, current) == ['a.x: 1 → 3', "b: 2 → '(absent)'", "c: '(absent)' → None"]
  assert begun.differences(begun.given({'b': None}), begun.given({})) == []


def test_settings_are_noted_once_and_others_are_refused(tmp_path):
  path = tmp_path / 'settings.json'
  begun.note(path, {'sizes': (1, 2), 'seeds': 3}, grows='seeds')
  assert json.loads(path.read_text()) == {'sizes': [1, 2]}
  begun.note(path, {'sizes': (1, 2), 'seeds': 4}, grows='seeds')
  with pytest.raises(UserError, match=r'begun with other settings.*sizes: \[1, 2\] → \[1, 3\]'):
    begun.note(path, {'sizes': (1, 3)}, grows='seeds')
  for content in ('{', '[1]'):
    path.write_text(content)
    with pytest.raises(UserError, match='damaged'):
      begun.note(path, {})
