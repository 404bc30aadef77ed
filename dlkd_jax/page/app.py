"""The server of the page: a Starlette application over a gallery.

/                       the page
/static/NAME            its own files
/api/info               what is searched: videos, hours, examples, limits
/api/search             q, top, offset, moments: results with moments and frame curves
/api/video              id: what may be wrong with a video that did not play
/video                  id: the file, in parts where a player asks for parts
/thumbnail              id, at (seconds): a picture
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dlkd_jax.gallery.results import SearchResult
from dlkd_jax.page import answers, assets, refusal
from dlkd_jax.page.batching import Batcher, Window
from dlkd_jax.page.guards import Guard
from dlkd_jax.page.limits import RateLimit
from dlkd_jax.page.media import VideoFiles
from dlkd_jax.page.ranges import FileResponse
from dlkd_jax.page.refusal import RefusalError
from dlkd_jax.page.settings import Settings
from dlkd_jax.page.thumbnails import Thumbnails
from dlkd_jax.video.files import VideoError


def make_app(gallery: Any, settings: Settings | None = None) -> Starlette:
  """Returns the application.

  Args:
    gallery: has `videos` (id → entry with `path`, `duration`), and `search`, which one thread at a time calls as
      `search(queries, top=, offset=, moments=, threshold=, weights=, exact=) -> list[SearchResult]`.
    settings: limits; see there.
  """
  page = _Page(gallery, settings or Settings())
  methods = ['GET']  # Starlette adds HEAD.
  return Starlette(
    routes=[
      Route('/', page.asset, methods=methods),
      Route('/static/{name}', page.asset, methods=methods),
      Route('/favicon.ico', page.asset, methods=methods),
      Route('/api/info', page.info, methods=methods),
      Route('/api/search', page.search, methods=methods),
      Route('/api/video', page.account, methods=methods),
      Route('/video', page.video, methods=methods),
      Route('/thumbnail', page.thumbnail, methods=methods),
    ],
    middleware=[Middleware(Guard, hosts=page.settings.hosts)],
    exception_handlers={RefusalError: refusal.handle},
    lifespan=page.lifespan,
  )


def _client(request: Request) -> str:
  return request.client.host if request.client else ''


def _whole(request: Request, name: str, default: int, least: int, most: int) -> int:
  """Reads a whole number of the address; above `most` it is `most`."""
  text = request.query_params.get(name, str(default))
  if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) < least:
    raise RefusalError(400, 'bad_number', f'{name} is {text[:20]!r}; expected a whole number from {least} to {most}.')
  return min(int(text), most)


class _Page:
  """The routes, and what they share."""

  def __init__(self, gallery: Any, settings: Settings):
    self.gallery, self.settings = gallery, settings
    self.files = VideoFiles(gallery.videos, settings.roots)
    self.assets = assets.load()
    self.queries = RateLimit(settings.query_rate, settings.query_burst)
    self.media = RateLimit(settings.media_rate, settings.media_burst)
    self.batcher: Batcher | None = None
    self.thumbnails: Thumbnails | None = None

  @contextlib.asynccontextmanager
  async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
    del app
    settings = self.settings
    self.batcher = Batcher(self._search, settings.batch, settings.waiting)
    self.thumbnails = Thumbnails(settings.thumbnail_side, settings.thumbnail_bytes, settings.waiting)
    try:
      yield
    finally:
      self.thumbnails.close()
      await self.batcher.close()

  def _search(self, queries: Sequence[str], window: Window) -> list[SearchResult]:
    return self.gallery.search(queries, **window._asdict(), **self.settings.wishes)

  async def asset(self, request: Request) -> Response:
    name = {'/': 'index.html', '/favicon.ico': 'favicon.svg'}.get(request.url.path) or request.path_params['name']
    asset = self.assets.get(name)
    if asset is None:
      raise RefusalError(404, 'unknown', 'There is no such file.')
    headers = {'etag': asset.etag, 'cache-control': 'no-cache'}
    if request.headers.get('if-none-match') == asset.etag:
      return Response(None, 304, headers)
    return Response(asset.content, headers=headers, media_type=asset.media_type)

  @functools.cached_property
  def _info(self) -> dict[str, Any]:
    videos, settings = self.gallery.videos, self.settings
    return {
      'videos': len(videos),
      'seconds': round(sum(float(video.duration or 0) for video in videos.values())),
      'examples': list(settings.examples),
      'top': settings.top,
      'most_characters': settings.most_characters,
    }

  async def info(self, request: Request) -> Response:
    del request
    return JSONResponse(self._info, headers={'cache-control': 'no-store'})

  async def search(self, request: Request) -> Response:
    settings = self.settings
    query = ' '.join(request.query_params.get('q', '').split())
    if not query:
      raise RefusalError(400, 'no_query', 'There is no query: give q=SENTENCE.')
    if len(query) > settings.most_characters:
      raise RefusalError(
        400,
        'too_long',
        f'The query has {len(query)} characters; at most {settings.most_characters} are searched. Shorten it.',
      )
    offset = _whole(request, 'offset', 0, 0, settings.most_offset)
    window = Window(
      top=_whole(request, 'top', settings.top, 1, settings.most_top),
      offset=offset,
      moments=_whole(request, 'moments', settings.moments, 1, settings.most_moments),
    )
    self.queries.check(_client(request))
    assert self.batcher is not None, 'the application has not started'
    try:
      result = await self.batcher(query, window)
    except ValueError as error:  # What the gallery says of a query that it cannot search for.
      raise RefusalError(400, 'refused', str(error)) from error
    content = answers.result_json(result, self.files, offset, settings.curve_points)
    return JSONResponse(content, headers={'cache-control': 'no-store'})

  async def account(self, request: Request) -> Response:
    content = await self._of_file(request, self.files.account)
    return JSONResponse(content, headers={'cache-control': 'no-store'})

  async def video(self, request: Request) -> Response:
    file = await self._of_file(request, self.files.open)
    return FileResponse(file, request.headers, request.method)

  async def thumbnail(self, request: Request) -> Response:
    text = request.query_params.get('at', '0')
    try:
      time = float(text)
    except ValueError:
      time = math.nan
    if not 0 <= time < 1e6:
      raise RefusalError(400, 'bad_number', f'at is {text[:20]!r}; expected seconds of the video.')
    path, etag = await self._of_file(request, self.files.path)
    assert self.thumbnails is not None, 'the application has not started'
    try:
      data = await self.thumbnails.get(path, etag, time)
    except VideoError as error:
      raise RefusalError(415, 'damaged', f'The file {error.reason}.') from error
    return Response(data, media_type='image/jpeg', headers={'cache-control': 'private, max-age=3600'})

  async def _of_file(self, request: Request, function: Callable[[str], Any]) -> Any:
    """Calls a function of a video's id in a thread, as often as the client may."""
    self.media.check(_client(request))
    ids = request.query_params.getlist('id')
    if len(ids) != 1:
      raise RefusalError(400, 'no_id', 'Give one id=VIDEO.')
    return await anyio.to_thread.run_sync(function, ids[0])
