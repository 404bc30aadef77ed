"""Queries of the command line: sentences and captions, mixed, from a file; and what is said where nothing is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dlkd_jax import files
from dlkd_jax.errors import UserError
from dlkd_jax.gallery import account
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.results import SearchResult

# ('text', a sentence) or ('caption', the id of one), and an id to be repeated.
Query = tuple[str, str, Any]
_KEYS = ('text', 'caption')


def parse(text: str, origin: str) -> list[Query]:
  """Reads queries, one a line: a sentence, or an object as {"text": "a dog", "id": 7} or {"caption": "lake.mp4#0"}.

  Raises:
    UserError: a line begins with { and is no such object; `origin` and the line are named.
  """
  found: list[Query] = []
  for number, line in files.lines(text):
    line, where = line.strip(), f'{origin}, line {number}'
    if not line.startswith('{'):
      files.check_characters(line, where)
      found.append(('text', line, None))
      continue
    content = files.parse_object(line, where)
    kinds = [key for key in _KEYS if isinstance(content.get(key), str)]
    if len(kinds) != 1 or (odd := set(content) - {*_KEYS, 'id'}):
      wrong = f'has {sorted(odd)}' if len(kinds) == 1 else f'has {sorted(content)}'
      raise UserError(f'{where} {wrong}; expected "text" or "caption", and "id" if wanted')
    if not content[kinds[0]].strip():
      raise UserError(f'{where}: "{kinds[0]}" is empty')
    found.append((kinds[0], content[kinds[0]], content.get('id')))
  return found


def search(gallery: Gallery, queries: Sequence[Query], wishes: Mapping[str, Any]) -> list[SearchResult]:
  """Searches with sentences and captions together; returns a result a query. Errors are those of `Gallery.search`."""
  results: list[SearchResult | None] = [None] * len(queries)
  for kind, ask in (('text', gallery.search), ('caption', gallery.search_captions)):
    places = [number for number, query in enumerate(queries) if query[0] == kind]
    found = ask([queries[number][1] for number in places], **wishes)
    for number, result in zip(places, found, strict=True):
      results[number] = result
  return results


def describe(gallery: Gallery, result: SearchResult, query: Query, wishes: Mapping[str, Any]) -> str:
  """Returns a result as a table, or why it is empty; and its notes."""
  return '\n'.join([_found(gallery, result, query, wishes), *(f'note: {note}' for note in result.notes)])


def _found(gallery: Gallery, result: SearchResult, query: Query, wishes: Mapping[str, Any]) -> str:
  text = account.describe_result(result, wishes['offset'])
  if result.hits:
    return text
  if not len(gallery):
    return f'{text}: the index holds no videos'
  if result.total and wishes['offset']:
    return f'{text} from --offset={wishes["offset"]} on: the ranking has {result.total:,} videos'
  if wishes['threshold'] is not None:
    (best,) = search(gallery, [query], {**wishes, 'threshold': None, 'top': 1, 'offset': 0})
    if best.hits and best.hits[0].score >= wishes['threshold']:
      return f'{text} from --offset={wishes["offset"]} on'
    if best.hits:
      return f'{text} with a score of {wishes["threshold"]:g} or more; the best has {best.hits[0].score:.3f}'
  return f'{text}: no video passes {" and ".join(wishes["where"] or [])}'
