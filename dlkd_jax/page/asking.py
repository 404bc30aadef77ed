"""What a request looks for: from its address, and the picture that it may carry, to a query of the gallery."""

from __future__ import annotations

import urllib.parse

import anyio
import anyio.to_thread
from starlette.requests import Request

from dlkd_jax.errors import UserError
from dlkd_jax.gallery import pictures, queries
from dlkd_jax.gallery.queries import Picture, Query
from dlkd_jax.page.guards import RefusalError

# Seconds that a picture may take to arrive.
_PATIENCE = 30.0


def values(request: Request, name: str) -> list[str]:
  """Returns what an address gives for a name.

  Not as Starlette reads it: a name of a file that is no UTF-8 has to come out as the index has it.
  """
  query = urllib.parse.parse_qs(
    request.scope['query_string'].decode('latin-1'), keep_blank_values=True, errors='surrogateescape'
  )
  return query.get(name, [])


async def query_of(request: Request, most_characters: int, limiter: anyio.CapacityLimiter | None) -> str | Query:
  """Reads what is looked for: `q`, `without` (may be given several times), `like` (VIDEO@SECONDS), `own` (1: the video
  of `like` counts, too), and of a POST the picture that is its body.

  Args:
    request: the body is read only where it is a POST.
    most_characters: of all sentences together.
    limiter: of the threads that decode.

  Returns:
    The sentence, where there is nothing else.

  Raises:
    RefusalError: there is nothing, it is too long or too large, or no picture.
  """
  text = ' '.join(request.query_params.get('q', '').split())
  without = tuple(' '.join(each.split()) for each in request.query_params.getlist('without') if each.strip())
  like = values(request, 'like')
  if (length := len(text) + sum(map(len, without))) > most_characters:
    raise RefusalError(
      400, 'too_long', f'The query has {length} characters; at most {most_characters} are searched. Shorten it.'
    )
  picture = await _picture(request, limiter) if request.method == 'POST' else None
  if not text and not like and picture is None:
    raise RefusalError(400, 'no_query', 'There is no query: give q=SENTENCE, like=VIDEO@SECONDS, or POST a picture.')
  if text and not without and not like and picture is None:
    return text
  try:
    moment = queries.moment_of(like[0], 'like') if like else None
    own = request.query_params.get('own', '') == '1'
    return Query(text or None, picture=picture, like=moment, without=without, own=own)
  except UserError as error:
    raise RefusalError(400, 'refused', f'{error}.') from error


async def _picture(request: Request, limiter: anyio.CapacityLimiter | None) -> Picture:
  content = bytearray()
  try:
    with anyio.fail_after(_PATIENCE):
      async for part in request.stream():
        content += part
        if len(content) > pictures.MOST_BYTES:
          most = pictures.MOST_BYTES >> 20
          raise RefusalError(413, 'too_large', f'The picture is larger than {most} MiB. Shrink it.')
  except TimeoutError as error:
    raise RefusalError(408, 'too_slow', f'The picture did not arrive within {_PATIENCE:.0f} s.') from error
  try:
    pixels = await anyio.to_thread.run_sync(pictures.read, bytes(content), 'The picture', limiter=limiter)
  except UserError as error:
    raise RefusalError(400, 'no_picture', f'{error}.') from error
  return Picture(pixels)
