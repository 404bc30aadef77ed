"""What the page is told: results of a search and the state of the index, as JSON."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import urllib.parse
from typing import Any

import numpy as np
from starlette.responses import Response

from dlkd_jax.gallery import result_files
from dlkd_jax.gallery.results import Hit, SearchResult
from dlkd_jax.page.files import VideoFiles
from dlkd_jax.page.guards import RefusalError

# What names of files cannot have somewhere, and halves of characters.
_ODD = re.compile(r'[\x00-\x1f\x7f"*/:<>?\\|\ud800-\udfff]')


def thin_curve(times: np.ndarray, curve: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
  """Thins a frame curve to what a small plot shows; peaks stay where they are and as high as they are.

  Args:
    times: `[n]` seconds.
    curve: `[n]` values.
    points: most frames to return, at least 3.

  Returns:
    Times and values of the first frame, the last one, and of the highest frame of each of `points - 2` stretches
    between; all of them, where they are not more.
  """
  if len(curve) <= points:
    return times, curve
  stretches = np.array_split(np.arange(1, len(curve) - 1), points - 2)
  kept = np.array([0, *(stretch[np.argmax(curve[stretch])] for stretch in stretches), len(curve) - 1])
  return times[kept], curve[kept]


def video_url(video_id: str) -> str:
  """Returns the address of a video's file, relative to the page."""
  return f'video?{_query(id=video_id)}'


def thumbnail_url(video_id: str, time: float) -> str:
  """Returns the address of a video's picture at a time, seconds, relative to the page."""
  return f'thumbnail?{_query(id=video_id, at=f"{max(0.0, time):.2f}")}'


def captions_url(video_id: str, track: str) -> str:
  """Returns the address of what is said in a video, by one track, relative to the page."""
  return f'captions?{_query(id=video_id, track=track)}'


def piece_url(name: str, keep: str | None = None) -> str:
  """Returns the address of a piece of a film, relative to the page; `keep`: the name to keep it under."""
  return f'piece?{_query(name=name, **({} if keep is None else {"as": keep}))}'


def download_name(name: str, start: float, suffix: str, end: float | None = None) -> str:
  """Returns what a browser is to call what is taken out of a film: `lake 1-02.5 to 1-08.mp4`."""
  clock = lambda time: f'{int(time // 60)}-{time % 60:04.1f}'.removesuffix('.0')  # noqa: E731
  stem = _ODD.sub('_', pathlib.PurePath(name).stem).strip(' .')[:80] or 'film'
  return f'{stem} {clock(start)}{"" if end is None else f" to {clock(end)}"}.{suffix}'


def to_keep(name: str) -> dict[str, str]:
  """Returns the header with which a browser keeps what it gets, under a name."""
  return {'content-disposition': f"attachment; filename*=utf-8''{urllib.parse.quote(name)}"}


def _query(**parameters: str) -> str:
  # Names of files are bytes; those that are no UTF-8 come as halves of characters.
  return urllib.parse.urlencode(parameters, errors='surrogateescape')


def result_json(result: SearchResult, files: VideoFiles, offset: int, points: int) -> dict[str, Any]:
  """Returns a result for the page, as `SearchResult.to_json` does, with what only a server knows.

  A hit has `video`, the address of its file, and each moment `thumbnail`, that of its picture; both are None where the
  index knows of no file. Where the files lie is not told.

  Args:
    result: of the gallery.
    files: of its videos.
    offset: of the first hit in the ranking.
    points: of a frame curve at most, see `thin_curve`.
  """
  hits = [_hit_json(hit, files, points) for hit in result.hits]
  return dataclasses.replace(result, hits=()).to_json() | {'offset': offset, 'hits': hits}


def result_file(result: SearchResult, files: VideoFiles, offset: int, kind: str) -> Response:
  """Returns a result as a file to keep; where the films lie is not told.

  Args:
    result: of the gallery.
    files: of its videos.
    offset: of the first hit in the ranking.
    kind: csv, edl or json.

  Raises:
    RefusalError: it is another kind.
  """
  named = [dataclasses.replace(hit, path=files.name(hit.video_id) or None) for hit in result.hits]
  result = dataclasses.replace(result, hits=tuple(named))
  if kind == 'csv':
    content, media_type = result_files.to_csv([result], offset), 'text/csv; charset=utf-8'
  elif kind == 'edl':
    content, media_type = result_files.to_edl([result], lambda hit: files.rate(hit.video_id)), 'text/plain'
  elif kind == 'json':
    content, media_type = json.dumps(result.to_json() | {'offset': offset}, indent=2), 'application/json'
  else:
    raise RefusalError(400, 'bad_format', f'format is {kind[:20]!r}; expected csv, edl or json.')
  name = f'{_ODD.sub("_", result.query).strip(" .")[:60] or "results"}.{kind}'
  return Response(content, media_type=media_type, headers=to_keep(name) | {'cache-control': 'no-store'})


def _hit_json(hit: Hit, files: VideoFiles, points: int) -> dict[str, Any]:
  times, curve = thin_curve(np.asarray(hit.times), np.asarray(hit.curve), points)
  content = dataclasses.replace(hit, times=times, curve=curve).to_json(curve=True)
  del content['path']
  has_file = bool(files.name(hit.video_id))
  for moment, told in zip(hit.moments, content['moments'], strict=True):
    told['thumbnail'] = thumbnail_url(hit.video_id, moment.peak) if has_file else None
  return content | {
    'title': hit.title or hit.video_id,
    'video': video_url(hit.video_id) if has_file else None,
  }
