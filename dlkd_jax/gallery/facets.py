"""What there is to filter by: the fields of an index, and of each the range or the most frequent values.

Of large galleries a sample of the videos is looked at, evenly over all, so that it takes a bounded time.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

from dlkd_jax.gallery.filter_sql import instant

if TYPE_CHECKING:
  from dlkd_jax.gallery.catalog import Catalog

# Videos that are looked at, fields that are named, and values of one.
_SAMPLE, _FIELDS, _VALUES = 20_000, 40, 20
# Longer texts are no values that are chosen from.
_LONGEST = 80
_OWN = (
  ('length', 'duration'),
  ('date', "strftime('%Y-%m-%dT%H:%M:%SZ', written / 1000000000, 'unixepoch')"),
  ('folder', "rtrim(rtrim(id, replace(id, '/', '')), '/')"),
  ('split', 'split'),
)
_FLAT = """
SELECT videos.place, f.key, coalesce(e.type, f.type), coalesce(e.atom, f.atom)
FROM videos, json_each(videos.metadata) f LEFT JOIN json_each(CASE f.type WHEN 'array' THEN f.value END) e
WHERE videos.place % :step = 0"""


def facets(catalog: Catalog) -> dict[str, Any]:
  """Returns the fields of the videos, those that most have first, as JSON knows values.

  | | |
  |---|---|
  | videos, looked_at | how many there are, and of how many of them the rest speaks |
  | fields | `field`, as a filter names it; `videos`, how many have it; `kind`: number, date, text or truth |
  | | of numbers and dates `least` and `most`; of the others `values`, the most frequent: `value`, `videos`, and `filter`, the filter that chooses it |
  | | `many`: whether there are more values than are listed |
  """  # noqa: E501
  step = max(1, -(-len(catalog) // _SAMPLE))
  values: dict[tuple[str, str], collections.Counter] = collections.defaultdict(collections.Counter)
  having: dict[str, set[int]] = collections.defaultdict(set)
  for name, column in _OWN:
    query = f'SELECT place, {column} FROM videos WHERE place % :step = 0 AND {column} IS NOT NULL'
    for place, value in catalog.fetch(query, {'step': step}):
      if value != '':
        values[name, _kind(value)][value] += 1
        having[name].add(place)
  for place, name, kind, value in catalog.fetch(_FLAT, {'step': step}):
    if kind in ('true', 'false'):
      values[name, 'truth'][kind == 'true'] += 1
    elif kind in ('integer', 'real') or (kind == 'text' and value):
      values[name, _kind(value)][value] += 1
    else:
      continue
    having[name].add(place)
  fields = []
  for name, places in sorted(having.items(), key=lambda each: (-len(each[1]), each[0]))[:_FIELDS]:
    kinds = [(sum(found.values()), kind) for (other, kind), found in values.items() if other == name]
    if about := _field(name, max(kinds)[1], values[name, max(kinds)[1]]):
      fields.append({**about, 'videos': len(places)})
  return {'videos': len(catalog), 'looked_at': -(-len(catalog) // step), 'fields': fields}


def _kind(value: Any) -> str:
  if isinstance(value, int | float):
    return 'number'
  return 'date' if instant(value) is not None else 'text'


def _field(name: str, kind: str, found: collections.Counter) -> dict[str, Any] | None:
  field = {'field': _quoted(name), 'name': name, 'kind': kind}
  if kind in ('number', 'date'):
    return field | {'least': min(found, key=_order), 'most': max(found, key=_order)}
  short = [(value, count) for value, count in found.items() if not isinstance(value, str) or len(value) <= _LONGEST]
  if not short or (len(found) > _VALUES and max(count for _, count in short) == 1):  # As names and remarks are.
    return None
  short.sort(key=lambda each: (-each[1], str(each[0])))
  chosen = [
    {'value': value, 'videos': count, 'filter': f'{_quoted(name)} = {_written(value)}'}
    for value, count in short[:_VALUES]
  ]
  return field | {'values': chosen, 'many': len(found) > len(chosen)}


def _order(value: Any) -> Any:
  return instant(value) if isinstance(value, str) else value


def _quoted(text: str) -> str:
  return '"' + text.replace('"', '""') + '"'


def _written(value: Any) -> str:
  return str(value).lower() if isinstance(value, bool) else "'" + value.replace("'", "''") + "'"
