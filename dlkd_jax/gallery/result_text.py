"""Results as text that a person reads, and what is said where nothing is found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlkd_jax import tables
from dlkd_jax.gallery import index_text
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.queries import Query
from dlkd_jax.gallery.results import Said, SearchResult

# Characters of a snippet.
_LONGEST = 80


def describe(gallery: Gallery, result: SearchResult, query: Query, options: Mapping[str, Any]) -> str:
  """Returns a result as a table, or why it is empty; and its notes."""
  notes = [f'note: {note}' for note in result.notes]
  if result.nothing and result.hits:
    notes.append('note: nothing here stands out: most other sentences have a better best video in this index')
  return '\n'.join([_found(gallery, result, query, options), *notes])


def _found(gallery: Gallery, result: SearchResult, query: Query, options: Mapping[str, Any]) -> str:
  text = describe_result(result, options['offset'])
  if result.hits:
    return text
  if not len(gallery):
    return f'{text}: the index holds no videos'
  if result.total and options['offset']:
    return f'{text} from --offset={options["offset"]} on: the ranking has {result.total:,} videos'
  if options['threshold'] is not None:
    (best,) = gallery.search([query], **{**options, 'threshold': None, 'top': 1, 'offset': 0})
    if best.hits and best.hits[0].score >= options['threshold']:
      return f'{text} from --offset={options["offset"]} on'
    if best.hits:
      return f'{text} with a score of {options["threshold"]:g} or more; the best has {best.hits[0].score:.3f}'
  return f'{text}: no video passes {" and ".join(options["where"] or [])}'


def describe_result(result: SearchResult, offset: int = 0) -> str:
  """Returns one query's hits as a table: rank, score, video, moments and the scores of each scorer."""
  first = f'“{result.query}”'
  if not result.hits:
    return f'{first}: nothing found'
  scorers = list(result.hits[0].scores)
  titled = any(not hit.video_id.startswith(hit.title) for hit in result.hits)
  heading = ['rank', 'score', 'video', *(['title'] if titled else []), 'moment', *scorers]
  rows = [heading]
  for rank, hit in enumerate(result.hits, offset + 1):
    moments = ', '.join(index_text.span(moment, hit) for moment in hit.moments)
    scores = [f'{hit.scores[name]:.3f}' for name in scorers]
    rows.append([str(rank), f'{hit.score:.3f}', hit.video_id, *([hit.title] if titled else []), moments, *scores])
  left = range(2, len(heading) - len(scorers))
  videos = 'many videos' if result.total is None else f'{result.total:,} video{"" if result.total == 1 else "s"}'
  said = ''.join(f'\n{hit.video_id}, {snippet(hit.said[0])}' for hit in result.hits if hit.said)
  return f'{first}: {videos}, {result.seconds:.2f} s\n{tables.as_text(rows, left, rule=False)}{said}'


def snippet(said: Said) -> str:
  """Returns a text that was found in one line, the words of the query in [ ], and when it is said."""
  parts, done = [], 0
  for first, last in said.marks:
    parts += [said.text[done:first], '[', said.text[first:last], ']']
    done = last
  text = ''.join([*parts, said.text[done:]])
  when = said.kind if said.start is None else index_text.clock(said.start)
  shown = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + '…'
  return f'{when}: {shown}'
