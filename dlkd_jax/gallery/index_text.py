"""Indexes, and what was done to them, as text that a person reads."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlkd_jax import files
from dlkd_jax.gallery import acceleration
from dlkd_jax.gallery.catalog import Catalog
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.results import Hit, Moment

if TYPE_CHECKING:
  from dlkd_jax.gallery.building import Addition
  from dlkd_jax.gallery.synchronising import Done

_LISTED = 5
# Of an addition of films: what is named with its reason.
_ODD = {'failed': 'broken:', 'truncated': 'damaged, what is whole was taken:', 'waiting': 'left to the next run:'}
_ODD_LINES = 40
_DASH = '\u2013'


def clock(seconds: float) -> str:
  """Returns a time as m:ss, or h:mm:ss from an hour on; the second that has begun counts."""
  whole = int(seconds + 1e-6)
  minutes, rest = divmod(whole, 60)
  return f'{minutes}:{rest:02d}' if minutes < 60 else f'{minutes // 60}:{minutes % 60:02d}:{rest:02d}'


def span(moment: Moment, hit: Hit) -> str:
  """Returns a moment as m:ss–m:ss; by frame numbers where the length of the video is unknown."""
  if hit.duration is None:
    return f'frame {round(moment.start)}{_DASH}{round(moment.end)}'
  return f'{clock(moment.start)}{_DASH}{clock(moment.end)}'


def describe_addition(addition: Addition, index: str) -> str:
  """Returns what became of the videos of a build or an addition."""
  lines = [f'{addition.added:,} videos with {addition.captions:,} captions added to {index}']
  if addition.there:
    lines[0] += f'; {addition.there:,} were there already'
  if addition.updated:
    lines[0] += f', {len(addition.updated):,} of them taken anew'
  lines += _named(
    (addition.without_file, 'videos have no file where --videos says'),
    (addition.not_described, 'videos of --metadata are not in the data set'),
    (addition.changed, 'videos changed since they were indexed and were left as they are; --update takes them anew'),
    (addition.updated, 'videos were taken anew'),
    (addition.vanished, 'videos stay in the index whose film or record is not there any more; --prune removes them'),
    (addition.pruned, 'videos were removed, for their film or record is not there any more; they come back with it'),
    (addition.forgotten, 'videos were not added, for they were removed from this index before; --again takes them'),
    (addition.alike, 'videos were not added, for the index has others of these names from another data set'),
  )
  if addition.unchecked:
    lines.append(
      f'{addition.unchecked:,} videos were indexed before hashes of records were kept: whether they changed is not '
      'known'
    )
  return '\n'.join([*lines, *addition.absent])


def describe_films(done: Done, index: str) -> str:
  """Returns what became of films: how many of each kind in one line, then by name what a person has to know."""
  addition, counts = done.addition, collections.Counter(each.status for each in done.outcomes.files)
  described = len(addition.restated)
  parts = {
    'new': addition.added,
    'changed': len(addition.updated) - described,
    'renamed or moved': len(addition.moved),
    'described anew': described,
    'not there any more': len(addition.vanished),
    'removed': len(addition.pruned),
    'broken': counts['failed'],
    'damaged': counts['truncated'],
    'still being written': counts['waiting'],
  }
  told = ', '.join(f'{count:,} {what}' for what, count in parts.items() if count) or 'nothing new'
  speed = f' ({addition.frames / max(done.seconds, 1e-9):,.1f} frames/s)' if addition.frames else ''
  films = f'{done.total:,} film{"" if done.total == 1 else "s"}'
  lines = [f'{index} has {films}: {told}; {addition.frames:,} frames in {clock(done.seconds)}{speed}']
  lines += _named(
    ([f'{other} → {video}' for video, other in addition.moved.items()], 'renamed or moved'),
    (addition.vanished, 'stay in the index, and are not there any more, or are broken; --prune removes them'),
    (addition.pruned, 'were removed, for they are not there any more'),
    (addition.forgotten, 'were not added, for they were removed from this index before; --again takes them'),
    (addition.alike, 'were not added, for the index has them from a data set'),
    (addition.not_described, 'of --metadata are no films of the index'),
  )
  odd = [each for each in done.outcomes.files if each.status in _ODD]
  lines += [f'  {_ODD[entry.status]} {files.printable(f"{entry.video}: {entry.reason}")}' for entry in odd[:_ODD_LINES]]
  if len(odd) > _ODD_LINES:
    lines.append(f'  … and {len(odd) - _ODD_LINES:,} more')
  return '\n'.join([*lines, *addition.absent])


def _named(*kinds: tuple[Sequence[str] | None, str]) -> list[str]:
  """Returns a line of each kind that there are ids of: how many, what they are, and the first of them."""
  more = lambda names: ', …' if len(names) > _LISTED else ''  # noqa: E731
  return [
    f'{len(names):,} {what}: {files.printable(", ".join(names[:_LISTED]))}{more(names)}'
    for names, what in kinds
    if names
  ]


def summarize(folder: IndexFolder) -> dict[str, Any]:
  """Returns what an index is, as JSON knows values."""
  catalog = Catalog.open(folder)
  manifest = folder.manifest
  # Added up exactly, so that the sum does not depend on the order.
  durations = [second for (second,) in catalog.fetch('SELECT duration FROM videos WHERE duration IS NOT NULL')]
  ((frames, without_start),) = catalog.fetch(
    'SELECT coalesce(sum(frames), 0), coalesce(sum(start IS NULL), 0) FROM videos'
  )
  keys = 'SELECT key, count(*) FROM videos, json_each(metadata) GROUP BY key ORDER BY key'
  student = manifest['student']
  return {
    'version': manifest['version'],
    'videos': len(catalog),
    'seconds': math.fsum(durations) if durations else None,
    'frames': frames,
    'removed': sum(len(about['removed']) for about in manifest['segments']),
    'forgotten': len(manifest.get('forgotten', {})),
    'captions': len(catalog.captions_by_id),
    'without_start': without_start,
    'segments': len(manifest['segments']),
    'bytes': folder.bytes(),
    'dtype': manifest['dtype'],
    'scorers': dict(manifest['scorers']),
    'weights': dict(manifest['weights']),
    'student': None if student is None else {key: student[key] for key in ('run', 'step', 'sha256')},
    'text': manifest['text'],
    'features': manifest['features'],
    'long_videos': manifest['settings']['long_videos'],
    'data_dir': manifest['settings'].get('data_dir'),
    'dataset': manifest['settings'].get('dataset'),
    'films': manifest['settings'].get('videos'),
    'folders': [about['path'] for about in manifest['settings'].get('folders', ())],
    'failed': len(manifest.get('failed', {})),
    'two_stage': acceleration.is_ready(manifest),
    'splits': dict(catalog.fetch('SELECT split, count(*) FROM videos GROUP BY split ORDER BY split')),
    'metadata': dict(catalog.fetch(keys)),
  }


def describe_index(summary: Mapping[str, Any], index: str) -> str:
  """Returns what `summarize` found as lines."""
  student, text = summary['student'], summary['text']
  length = '' if summary['seconds'] is None else f', {clock(summary["seconds"])} in all'
  removed = f', {summary["removed"]:,} removed (--compact frees their room)' if summary['removed'] else ''
  if summary['forgotten']:
    removed += f'; {summary["forgotten"]:,} are not added again'
  prepared = '; searched in two stages where that costs less' if summary['two_stage'] else ''
  splits = ', '.join(f'{name} {count:,}' for name, count in summary['splits'].items())
  sentences = ', '.join(f'{about["fingerprint"]}' for about in text.values() if about)
  scorers = ', '.join(
    f'{name} {summary["weights"].get(name, 0):g} ({size})' for name, size in summary['scorers'].items()
  )
  size = f'{summary["bytes"] / 2**20:,.1f} MiB in {summary["segments"]} segments'
  films = ', '.join(filter(None, [summary['films'], *summary['folders']]))
  if summary['failed']:
    films += f'; {summary["failed"]:,} are broken'
  lines = {
    'index': f'{index}, version {summary["version"]}, {size}',
    'videos': f'{summary["videos"]:,}{length}{removed}',
    'splits': splits or 'none',
    'films': films or 'not at hand: no --videos was given',
    'frames': f'{summary["frames"]:,} as {summary["dtype"]}; long videos: {summary["long_videos"]}{prepared}',
    'captions': f'{summary["captions"]:,}',
    'scorers': f'{scorers}: weight (size)',
    'student': f'step {student["step"]} of {student["run"]}' if student else 'none: the teacher alone',
    'sentences': sentences or 'cannot be typed: the data set came as features',
    'metadata': ', '.join(f'{name} ({count:,})' for name, count in summary['metadata'].items()) or 'none',
  }
  if summary['without_start']:
    lines['clock'] = (
      f'{summary["without_start"]:,} videos without the second that a player shows first, which counts as 0; extract '
      'them anew for films whose picture begins later'
    )
  width = max(map(len, lines))
  return '\n'.join(f'{name.ljust(width)}  {value}' for name, value in lines.items())
