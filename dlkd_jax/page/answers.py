"""What the page is told: results of a search and the state of the index, as JSON."""

from __future__ import annotations

import urllib.parse
from typing import Any

import numpy as np

from dlkd_jax.gallery.results import Hit, Moment, SearchResult
from dlkd_jax.page.media import VideoFiles


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
  """Returns the address of a video's file."""
  return f'/video?{urllib.parse.urlencode({"id": video_id})}'


def thumbnail_url(video_id: str, time: float) -> str:
  """Returns the address of a video's picture at a time, seconds."""
  return f'/thumbnail?{urllib.parse.urlencode({"id": video_id, "at": f"{max(0.0, time):.2f}"})}'


def result_json(result: SearchResult, files: VideoFiles, offset: int, points: int) -> dict[str, Any]:
  """Returns a result for the page; `points` of a curve at most, see `thin_curve`."""
  return {
    'query': result.query,
    'offset': offset,
    'total': int(result.total),
    'seconds': round(float(result.seconds), 4),
    'notes': list(result.notes),
    'hits': [_hit_json(hit, files, points) for hit in result.hits],
  }


def _hit_json(hit: Hit, files: VideoFiles, points: int) -> dict[str, Any]:
  times, curve = thin_curve(np.asarray(hit.times), np.asarray(hit.curve), points)
  has_file = bool(files.name(hit.video_id))
  return {
    'id': hit.video_id,
    'title': hit.title or hit.video_id,
    'score': round(float(hit.score), 4),
    'scores': {name: round(float(score), 4) for name, score in hit.scores.items()},
    'duration': None if hit.duration is None else round(float(hit.duration), 3),
    'moments': [_moment_json(hit.video_id, moment, has_file) for moment in hit.moments],
    'curve': {
      'times': [round(float(time), 3) for time in times],
      'values': [round(float(value), 4) for value in curve],
    },
    'video': video_url(hit.video_id) if has_file else None,
    'playable': files.playable(hit.video_id),
    'metadata': {str(name): str(value) for name, value in hit.metadata.items()},
  }


def _moment_json(video_id: str, moment: Moment, has_file: bool) -> dict[str, Any]:
  values = {name: round(float(getattr(moment, name)), 3) for name in ('start', 'end', 'peak')}
  picture = thumbnail_url(video_id, moment.peak) if has_file else None
  return values | {'score': round(float(moment.score), 4), 'thumbnail': picture}
