"""The server of the page: a Starlette application over a gallery.

All addresses below are relative to that of the page, so that a proxy may put it below a path.

/                       the page
/static/NAME            its own files
/api/info               what is searched: videos, hours, examples, limits
/api/search             q, without, like, own, where, top, offset, moments: results with moments and frame curves;
                        with format (csv, edl, json) a file to keep;
                        of a POST the body is a picture, which the frames are to look like
/api/filters            what there is to filter by
/api/cues               id: what is said in a video
/captions               id, track: the same as WebVTT, for a player; from: second at which a piece of the film begins
/api/video              id: what may be wrong with a video that did not play
/video                  id: the file, in parts where a player asks for parts
/thumbnail              id, at (seconds): a picture
/still                  id, at, format (png, jpeg): the frame in its own size, to keep
/api/piece              id, at: a piece of a film that browsers do not play, made so that they do; or id, start, end,
                        cut (copy, exact): a clip. Answered when it is made: its address, and where it lies in the film
/piece                  name, as: such a piece; to keep, where a name is given
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from dlkd_jax.errors import UserError
from dlkd_jax.gallery import filters
from dlkd_jax.gallery.queries import Query
from dlkd_jax.gallery.results import SearchResult
from dlkd_jax.page import answers, asking, guards, thumbnails
from dlkd_jax.page.batching import Batcher, Part
from dlkd_jax.page.files import FileResponse, VideoFiles
from dlkd_jax.page.guards import Guard, Json, RateLimit, RefusalError
from dlkd_jax.page.live import Live, Opened, first_searches
from dlkd_jax.page.pieces import Pieces
from dlkd_jax.page.server import PageSettings
from dlkd_jax.page.thumbnails import Thumbnails
from dlkd_jax.video import subtitles
from dlkd_jax.video.files import VideoError

# Seconds; clocks of recorded broadcasts count from 1970.
_LATEST = 5e9


def make_app(gallery: Any, settings: PageSettings | None = None) -> Starlette:
  """Returns the application.

  Args:
    gallery: has `videos` (id → entry with `path`, `duration`), and `search`, which one thread at a time calls as
      `search(queries, top=, offset=, moments=, threshold=, weights=, exact=) -> list[SearchResult]`, and with `where=`
      where there is a filter. One with `path`, `is_changed` and `reopen` is replaced when the index changes.
    settings: limits; see there.
  """
  page = _Page(gallery, settings or PageSettings())
  methods = ['GET']  # Starlette adds HEAD.
  app = Starlette(
    routes=[
      Route('/', page.index, methods=methods),
      Mount('/static', page.static),
      Route('/favicon.ico', page.icon, methods=methods),
      Route('/api/info', page.info, methods=methods),
      Route('/api/search', page.search, methods=['GET', 'POST']),
      Route('/api/filters', page.facets, methods=methods),
      Route('/api/cues', page.cues, methods=methods),
      Route('/captions', page.captions, methods=methods),
      Route('/api/video', page.diagnosis, methods=methods),
      Route('/video', page.video, methods=methods),
      Route('/thumbnail', page.thumbnail, methods=methods),
      Route('/still', page.still, methods=methods),
      Route('/api/piece', page.piece, methods=methods),
      Route('/piece', page.piece_file, methods=methods),
    ],
    middleware=[Middleware(Guard, hosts=page.settings.hosts)],
    exception_handlers={RefusalError: guards.handle_refusal, HTTPException: guards.handle_http},
    lifespan=page.lifespan,
  )
  app.router.redirect_slashes = False  # It would lead to where the server is, not to where a proxy shows it.
  return app


def prepare(gallery: Any, settings: PageSettings) -> Starlette:
  """Returns the application after first searches, see `first_searches`, whose errors are this one's."""
  first_searches(gallery, settings)
  return make_app(gallery, settings)


def _client(request: Request) -> str:
  return request.client.host if request.client else ''


def _whole(request: Request, name: str, default: int, least: int, most: int) -> int:
  """Reads a whole number of the address; above `most` it is `most`."""
  text = request.query_params.get(name, str(default))
  if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) < least:
    raise RefusalError(400, 'bad_number', f'{name} is {text[:20]!r}; expected a whole number from {least} to {most}.')
  return min(int(text), most)


def _seconds(request: Request, name: str) -> float:
  """Reads a time of the address."""
  text = request.query_params.get(name, '0')
  try:
    time = float(text)
  except ValueError:
    time = math.nan
  if not 0 <= time < _LATEST:
    raise RefusalError(400, 'bad_number', f'{name} is {text[:20]!r}; expected seconds of the video.')
  return time


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
  """Says of a file what is wrong with it."""
  try:
    yield
  except VideoError as error:
    raise RefusalError(415, 'damaged', f'The file {error.reason}.') from error
  except OSError as error:  # It was there a moment ago.
    raise RefusalError(410, 'gone', 'The file is not where the index says any more.') from error


async def _while_connected(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
  """Does some work as long as somebody waits for it."""
  task = asyncio.create_task(work)
  try:
    while not (await asyncio.wait({task}, timeout=0.5))[0]:
      if await request.is_disconnected():
        raise RefusalError(400, 'left', 'Nobody waits for this any more.')
    return task.result()
  finally:
    task.cancel()


class _Static(StaticFiles):
  """The page's own files; a browser asks each time whether they have changed."""

  def file_response(self, *arguments: Any, **options: Any) -> Response:
    response = super().file_response(*arguments, **options)
    response.headers['cache-control'] = 'no-cache'
    return response


class _Page:
  """The routes, and what they share."""

  def __init__(self, gallery: Any, settings: PageSettings):
    self.settings, self.live = settings, Live(gallery, settings)
    # Installers may put links to a cache in place of the files.
    self.static = _Static(packages=[('dlkd_jax.page', 'static')], follow_symlink=True)
    self.queries = RateLimit(settings.query_rate, settings.query_burst)
    self.media = RateLimit(settings.media_rate, settings.media_burst)
    self.looking: anyio.CapacityLimiter | None = None  # Of threads that decode; the others send films.
    self.batcher: Batcher | None = None
    self.thumbnails: Thumbnails | None = None
    self.pieces: Pieces | None = None

  @contextlib.asynccontextmanager
  async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
    del app
    settings = self.settings
    self.looking = anyio.CapacityLimiter(2)
    self.batcher = Batcher(self._search, settings.batch, settings.waiting)
    self.thumbnails = Thumbnails(
      settings.thumbnail_side,
      settings.thumbnail_bytes,
      settings.waiting,
      opened=lambda path: self.live.now.files.decodable(path),
    )
    self.pieces = Pieces(settings.cache, settings.cache_bytes, settings.budget)
    watch = asyncio.create_task(self.live.watch())
    try:
      yield
    finally:
      watch.cancel()
      self.thumbnails.close()
      await self.pieces.close()
      await self.batcher.close()

  def _search(self, queries: Sequence[str | Query], part: Part) -> list[tuple[SearchResult, Opened]]:
    now = self.live.now
    return [(result, now) for result in now.gallery.search(queries, **part.options, **self.settings.options)]

  async def index(self, request: Request) -> Response:
    return await self.static.get_response('index.html', request.scope)

  async def icon(self, request: Request) -> Response:
    return await self.static.get_response('favicon.svg', request.scope)

  async def info(self, request: Request) -> Response:
    del request
    now = self.live.now
    # The first time it reads what there is of all.
    return Json(await anyio.to_thread.run_sync(lambda: {**now.info, 'adding': self.live.addition()}))

  async def search(self, request: Request) -> Response:
    settings = self.settings
    part = Part(
      top=_whole(request, 'top', settings.top, 1, settings.most_top),
      offset=_whole(request, 'offset', 0, 0, settings.furthest),
      moments=_whole(request, 'moments', settings.moments, 1, settings.most_moments),
      where=self._filters(request),
    )
    self.queries.check(_client(request))
    query = await asking.query_of(request, settings.most_characters, self.looking)
    assert self.batcher is not None, 'the application has not started'
    try:
      result, now = await self.batcher(query, part)
    except UserError as error:  # What the gallery says of a query that it cannot search for.
      raise RefusalError(400, 'refused', str(error)) from error
    if kind := request.query_params.get('format'):
      return await anyio.to_thread.run_sync(answers.result_file, result, now.files, part.offset, kind)
    content = answers.result_json(result, now.files, part.offset, settings.curve_points)
    return Json(content | {'state': now.number, 'arrived': now.arrived})

  def _filters(self, request: Request) -> tuple[str, ...]:
    """Reads the filters of an address, so that what is wrong with one is said before anything is searched."""
    texts = tuple(text for text in request.query_params.getlist('where') if text.strip())
    if sum(map(len, texts)) > self.settings.most_characters:
      raise RefusalError(400, 'too_long', f'The filter is longer than {self.settings.most_characters} characters.')
    try:
      parsed = filters.parse(list(texts))
    except UserError as error:
      raise RefusalError(400, 'bad_filter', str(error)) from error
    if 'path' in parsed.fields:  # Letter by letter, one could ask what the server's folders are called.
      raise RefusalError(400, 'bad_filter', 'Where files lie on the server is not told; filter by folder or id.')
    return texts

  async def facets(self, request: Request) -> Response:
    self.media.check(_client(request))
    gallery = self.live.now.gallery
    found = await anyio.to_thread.run_sync(lambda: gallery.facets)  # The first time it looks at the videos.
    return Json({**found, 'fields': [field for field in found['fields'] if field['name'] != 'path']})

  async def cues(self, request: Request) -> Response:
    video, said = await self._said(request)
    tracks: dict[str, list[dict[str, Any]]] = {}
    for cue in said:
      tracks.setdefault(cue.track, []).append({'start': cue.start, 'end': cue.end, 'text': cue.text})
    told = [
      {'track': track, 'cues': own, 'captions': answers.captions_url(video, track)} for track, own in tracks.items()
    ]
    return Json({'id': video, 'tracks': told})

  async def captions(self, request: Request) -> Response:
    begin = _seconds(request, 'from')
    _, said = await self._said(request)
    own = [cue for cue in said if cue.track == request.query_params.get('track', '') and cue.end > begin]
    text = subtitles.as_webvtt(
      [dataclasses.replace(cue, start=max(0.0, cue.start - begin), end=cue.end - begin) for cue in own]
    )
    return Response(text, media_type='text/vtt', headers={'cache-control': 'no-cache'})

  async def _said(self, request: Request) -> tuple[str, list[Any]]:
    """Returns the id of a video and what is said in it."""
    gallery = self.live.now.gallery
    video = self._id(request)
    try:
      return video, await anyio.to_thread.run_sync(gallery.cues, video)
    except KeyError as error:
      raise RefusalError(404, 'unknown', 'There is no such video in the index.') from error

  def _id(self, request: Request) -> str:
    """Returns the id that an address names, as often as the client may ask for something of a video."""
    self.media.check(_client(request))
    ids = asking.values(request, 'id')
    if len(ids) != 1:
      raise RefusalError(400, 'no_id', 'Give one id=VIDEO.')
    return ids[0]

  async def diagnosis(self, request: Request) -> Response:
    content = await self._of_file(request, VideoFiles.diagnosis, self.looking)
    return Json(content)

  async def video(self, request: Request) -> Response:
    return FileResponse(await self._of_file(request, VideoFiles.open), request.headers)

  async def thumbnail(self, request: Request) -> Response:
    time = _seconds(request, 'at')
    path, etag = await self._of_file(request, VideoFiles.path)
    assert self.thumbnails is not None, 'the application has not started'
    with _refusing():
      data = await self.thumbnails.get(path, etag, time)
    return Response(data, media_type='image/jpeg', headers={'cache-control': 'private, max-age=3600'})

  async def still(self, request: Request) -> Response:
    time, kind = _seconds(request, 'at'), request.query_params.get('format', 'png')
    if kind not in ('png', 'jpeg'):
      raise RefusalError(400, 'bad_format', f'format is {kind[:20]!r}; expected png or jpeg.')

    def made(files: VideoFiles, video_id: str) -> tuple[str, bytes]:
      with files.decodable(files.path(video_id)[0]) as place:
        return answers.download_name(files.name(video_id), time, kind), thumbnails.still(place, time, kind)

    with _refusing():
      name, data = await self._of_file(request, made, self.looking)
    return Response(data, media_type=f'image/{kind}', headers=answers.to_keep(name))

  async def piece(self, request: Request) -> Response:
    pieces = self.pieces
    assert pieces is not None, 'the application has not started'
    how = request.query_params.get('cut')
    if how is None:
      at = _seconds(request, 'at')
      make = lambda file: pieces.play(file, at, self.settings.piece)  # noqa: E731
    else:
      start, end = _seconds(request, 'start'), _seconds(request, 'end')
      if how not in ('copy', 'exact') or not 0 < end - start <= self.settings.longest_clip:
        most = f'{self.settings.longest_clip:g} s'
        raise RefusalError(
          400, 'bad_clip', f'A clip is from start to a later end, {most} at most; cut is copy or exact.'
        )
      make = lambda file: pieces.clip(file, start, end, how)  # noqa: E731
    file = await self._of_file(request, VideoFiles.open)
    try:
      piece = await _while_connected(request, make(file))
    finally:
      os.close(file.descriptor)
    keep = None if how is None else answers.download_name(os.path.basename(file.path), start, 'mp4', end)
    return Json(
      {'video': answers.piece_url(piece.name, keep), 'start': piece.start, 'end': piece.end, 'last': piece.last}
    )

  async def piece_file(self, request: Request) -> Response:
    self.media.check(_client(request))
    assert self.pieces is not None, 'the application has not started'
    file = self.pieces.open(request.query_params.get('name', ''))
    return FileResponse(file, request.headers, filename=request.query_params.get('as'))

  async def _of_file(
    self, request: Request, function: Callable[[VideoFiles, str], Any], limiter: anyio.CapacityLimiter | None = None
  ) -> Any:
    """Calls a function of the files and a video's id in a thread, as often as the client may."""
    return await anyio.to_thread.run_sync(function, self.live.now.files, self._id(request), limiter=limiter)
