"""What happens between opening a gallery and the first visitor."""

import types

import pytest
from starlette.testclient import TestClient

from dlkd_jax.page import opening
from dlkd_jax.page.settings import Settings


def caption(video, text):
  return types.SimpleNamespace(video_id=video, text=text)


def test_examples_are_of_different_videos():
  captions = {f'v{n // 3}#{n}': caption(f'v{n // 3}', f'sentence {n}') for n in range(60)}
  found = opening.examples(types.SimpleNamespace(captions=captions), 4)
  assert len(set(found)) == 4
  assert len({int(text.split()[1]) // 3 for text in found}) == 4


def test_examples_are_short_and_may_be_few():
  captions = {'a': caption('v', 'x' * 91), 'b': caption('w', 'short'), 'c': caption('x', 'short')}
  assert opening.examples(types.SimpleNamespace(captions=captions)) == ('short',)
  assert opening.examples(types.SimpleNamespace()) == ()


def test_the_first_searches_are_made_before(gallery):
  settings = Settings(batch=16, threshold=0.1)
  with TestClient(opening.prepare(gallery, settings), base_url='http://127.0.0.1') as client:
    assert [len(queries) for queries, _ in gallery.calls] == [1, 2, 16]
    assert client.get('/api/search?q=x').status_code == 200


def test_what_is_wrong_shows_before(gallery):
  gallery.error = ValueError('sentences cannot be typed')
  with pytest.raises(ValueError, match='cannot be typed'):
    opening.prepare(gallery, Settings())
