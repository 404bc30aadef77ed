"""The index as it is served: what was opened of it, and the newer one that takes its place while the server runs.

Whatever changes an index writes its manifest last, by a rename. So a look at that file says whether there is something
new; then the index is opened anew beside the one that is served, searched once so that nobody waits for its programs,
and put in its place between two searches. A search that runs ends on the one that it began with, whose files and maps
are let go of after it. What cannot be opened, since it is damaged or half removed, changes nothing: a line in the log
says so, and it is tried again.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.to_thread

from dlkd_jax.gallery import progress_file
from dlkd_jax.gallery.manifest import MANIFEST
from dlkd_jax.page.files import VideoFiles, noted_roots
from dlkd_jax.page.server import PageSettings

# Names of metadata that the page suggests for filters.
_KEYS = 20
# Longer captions do not read well as suggestions.
_LONGEST = 90
# A look that takes long, since an index is opened, is followed by a pause of so many times that; seconds at most.
_PAUSE, _LONGEST_PAUSE = 3, 60.0


@dataclasses.dataclass(frozen=True)
class Opened:
  """An index as it was opened; it does not change.

  Attributes:
    gallery: what is searched.
    files: of its videos.
    settings: of the server.
    number: how many were opened before it.
    arrived: how many videos have come since the server started, through all of them.
  """

  gallery: Any
  files: VideoFiles
  settings: PageSettings
  number: int = 0
  arrived: int = 0

  @classmethod
  def of(cls, gallery: Any, settings: PageSettings, before: Opened | None = None) -> Opened:
    """Takes a gallery that follows another one, or none."""
    files = VideoFiles(gallery.videos, settings.roots, noted_roots(gallery))
    if before is None:
      return cls(gallery, files, settings)
    new = len(set(gallery.videos) - set(before.gallery.videos))
    return cls(gallery, files, settings, before.number + 1, before.arrived + new)

  @functools.cached_property
  def info(self) -> Mapping[str, Any]:
    """What the page is told of it; the first time all that is known of the videos is gone through."""
    videos, settings = self.gallery.videos, self.settings
    seconds, keys = 0.0, set()
    for video in videos.values():
      seconds += float(video.duration or 0)
      keys.update(map(str, video.metadata))
    return {
      'videos': len(videos),
      'seconds': round(seconds),
      'examples': list(settings.examples or examples(self.gallery)),
      'top': settings.top,
      'most_characters': settings.most_characters,
      'most_offset': settings.furthest,
      'keys': sorted(keys)[:_KEYS],
      'state': self.number,
      'arrived': self.arrived,
    }


class Live:
  """The opened index, and the watch that replaces it.

  Attributes:
    now: the one that is served; whoever needs several things of it reads this once.
  """

  def __init__(self, gallery: Any, settings: PageSettings):
    """`gallery`: as of `make_app`; it is watched if it has `path`, `is_changed` and `reopen`, as one on a disk."""
    self.now = Opened.of(gallery, settings)
    self._settings = settings
    self._path = getattr(gallery, 'path', None)
    self._seen: tuple[int, ...] | None = ()  # Nothing yet: what was opened may be older than what is there.
    self._said = ''

  async def watch(self) -> None:
    """Looks for a newer index until it is cancelled."""
    if self._path is None:
      return
    pause, alone = self._settings.look, anyio.CapacityLimiter(1)
    while True:
      await anyio.sleep(pause)
      begin = time.monotonic()
      fine = await anyio.to_thread.run_sync(self.look, limiter=alone)
      least = self._settings.look if fine else min(2 * pause, _LONGEST_PAUSE)
      pause = max(least, _PAUSE * (time.monotonic() - begin))

  def look(self) -> bool:
    """Opens the index anew if it has changed since the last look; returns whether all is well."""
    stamp = self._stamp()
    if stamp == self._seen:
      return True
    before = self.now
    try:
      if before.gallery.is_changed():
        gallery = before.gallery.reopen()
        first_searches(gallery, self._settings)
        self.now = Opened.of(gallery, self._settings, before)
    except Exception as error:  # Whatever is wrong with what is there now, the one that is open goes on.
      if str(error) != self._said:
        self._said = str(error)
        logging.getLogger(__name__).warning('the index has changed and cannot be opened; still as before: %s', error)
      return False
    self._seen, self._said = stamp, ''
    return True

  def addition(self) -> dict[str, Any] | None:
    """Returns how far an addition to the index is that runs, and the seconds `left`; None where none runs."""
    content = None if self._path is None else progress_file.read(self._path)
    if content is None:
      return None
    share, spent = min(max(content['share'], 0.0), 1.0), max(0.0, content['updated'] - content['started'])
    left = round(spent / share * (1 - share)) if share > 0 else None
    return {'done': int(content['done']), 'total': int(content['total']), 'share': share, 'left': left}

  def _stamp(self) -> tuple[int, ...] | None:
    """What tells one manifest from the next; None where there is none."""
    try:
      status = os.stat(self._path / MANIFEST)
    except OSError:
      return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def first_searches(gallery: Any, settings: PageSettings) -> None:
  """Searches with one sentence, with a few, and with as many as will ever be searched together.

  A gallery compiles its programs for some numbers of queries; so visitors do not wait for that, and what is wrong
  shows now.

  Raises:
    ValueError: sentences cannot be searched for; a weight or threshold does not fit.
  """
  for count in (1, 2, settings.batch):
    queries = [f'a first sentence {number}' for number in range(count)]
    gallery.search(queries, top=1, moments=settings.moments, **settings.options)


def examples(gallery: Any, count: int = 4) -> tuple[str, ...]:
  """Returns some captions that came with the videos, each of another video, as sentences to try; or none.

  Args:
    gallery: may have `captions`, id → caption with `text` and `video_id`.
    count: most of them.
  """
  captions = list(getattr(gallery, 'captions', {}).values())
  of_video = {caption.video_id: caption.text for caption in captions if len(caption.text) <= _LONGEST}
  texts = list(dict.fromkeys(of_video.values()))
  return tuple(texts[:: max(1, len(texts) // count)][:count])


def served(gallery: Any, settings: PageSettings) -> str:
  """Says which files are served: whose real paths, with all links followed, lie where."""
  roots = VideoFiles({}, settings.roots, noted_roots(gallery)).roots
  return f'below {", ".join(roots)}' if roots else 'in the folders that the index names'
