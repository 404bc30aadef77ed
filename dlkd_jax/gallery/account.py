"""Results and indexes as text that a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlkd_jax.gallery import acceleration
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.results import Hit, Moment, SearchResult

if TYPE_CHECKING:
  from dlkd_jax.gallery.building import Account

_LISTED = 5
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


def table(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
  """Aligns rows of text in columns, the first row being the heading; columns in `left` to the left."""
  widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
  lines = []
  for row in rows:
    cells = [t.ljust(w) if n in left else t.rjust(w) for n, (t, w) in enumerate(zip(row, widths, strict=True))]
    lines.append('  '.join(cells).rstrip())
  return '\n'.join(lines)


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
    moments = ', '.join(span(moment, hit) for moment in hit.moments)
    scores = [f'{hit.scores[name]:.3f}' for name in scorers]
    rows.append([str(rank), f'{hit.score:.3f}', hit.video_id, *([hit.title] if titled else []), moments, *scores])
  left = range(2, len(heading) - len(scorers))
  videos = 'many videos' if result.total is None else f'{result.total:,} video{"" if result.total == 1 else "s"}'
  return f'{first}: {videos}, {result.seconds:.2f} s\n{table(rows, left)}'


def describe_account(account: Account, index: str) -> str:
  """Returns what became of the videos of a build or an addition."""
  lines = [f'{account.added:,} videos with {account.captions:,} captions added to {index}']
  if account.there:
    lines[0] += f'; {account.there:,} were there already'
  for names, what in (
    (account.without_file, 'videos have no file where --videos says'),
    (account.not_described, 'videos of --metadata are not in the data set'),
  ):
    if names:
      more = ', …' if len(names) > _LISTED else ''
      lines.append(f'{len(names):,} {what}: {", ".join(names[:_LISTED])}{more}')
  return '\n'.join(lines)


def summarize(folder: IndexFolder) -> dict[str, Any]:
  """Returns what an index is, as JSON knows values."""
  manifest = folder.manifest
  entries = [e for segment in folder.segments() for e in segment.entries if e.video_id not in segment.removed]
  durations = [entry.duration for entry in entries if entry.duration is not None]
  student = manifest['student']
  return {
    'version': manifest['version'],
    'videos': len(entries),
    'seconds': sum(durations) if durations else None,
    'frames': sum(about['frames'] for about in manifest['segments']),
    'removed': sum(len(about['removed']) for about in manifest['segments']),
    'captions': sum(about['captions'] for about in manifest['segments']),
    'segments': len(manifest['segments']),
    'bytes': folder.bytes(),
    'dtype': manifest['dtype'],
    'scorers': dict(manifest['scorers']),
    'weights': dict(manifest['weights']),
    'student': None if student is None else {key: student[key] for key in ('run', 'step', 'sha256')},
    'text': manifest['text'],
    'features': manifest['features'],
    'long_videos': manifest['settings']['long_videos'],
    'two_stage': acceleration.is_ready(manifest),
    'splits': _counts(entry.split for entry in entries),
    'metadata': _counts(key for entry in entries for key in entry.metadata),
  }


def describe_index(summary: Mapping[str, Any], index: str) -> str:
  """Returns what `summarize` found as lines."""
  student, text = summary['student'], summary['text']
  length = '' if summary['seconds'] is None else f', {clock(summary["seconds"])} in all'
  removed = f', {summary["removed"]:,} removed (--compact frees their room)' if summary['removed'] else ''
  prepared = '; ready for --two_stage' if summary['two_stage'] else ''
  splits = ', '.join(f'{name} {count:,}' for name, count in summary['splits'].items())
  sentences = ', '.join(f'{about["fingerprint"]}' for about in text.values() if about)
  scorers = ', '.join(
    f'{name} {summary["weights"].get(name, 0):g} ({size})' for name, size in summary['scorers'].items()
  )
  size = f'{summary["bytes"] / 2**20:,.1f} MiB in {summary["segments"]} segments'
  lines = {
    'index': f'{index}, version {summary["version"]}, {size}',
    'videos': f'{summary["videos"]:,}{length}{removed}',
    'splits': splits or 'none',
    'frames': f'{summary["frames"]:,} as {summary["dtype"]}; long videos: {summary["long_videos"]}{prepared}',
    'captions': f'{summary["captions"]:,}',
    'scorers': f'{scorers}: weight (size)',
    'student': f'step {student["step"]} of {student["run"]}' if student else 'none: the teacher alone',
    'sentences': sentences or 'cannot be typed: the data set came as features',
    'metadata': ', '.join(f'{name} ({count:,})' for name, count in summary['metadata'].items()) or 'none',
  }
  width = max(map(len, lines))
  return '\n'.join(f'{name.ljust(width)}  {value}' for name, value in lines.items())


def _counts(names) -> dict[str, int]:
  counts: dict[str, int] = {}
  for name in names:
    counts[name] = counts.get(name, 0) + 1
  return dict(sorted(counts.items()))
