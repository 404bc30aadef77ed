"""What is said to a client whose request cannot be answered."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response


class RefusalError(Exception):
  """A request that is not answered.

  Attributes:
    status: of HTTP.
    code: one word, for programs.
    message: a sentence or two, for people.
    wait: seconds after which it may be tried again; None where that would not help.
  """

  def __init__(self, status: int, code: str, message: str, wait: float | None = None):
    super().__init__(message)
    self.status, self.code, self.message, self.wait = status, code, message, wait


class Json(JSONResponse):
  """JSON that is never stored, in ASCII: a name that is no UTF-8 must not end the answer that it is in."""

  def __init__(self, content: Any, status: int = 200, headers: dict[str, str] | None = None):
    super().__init__(content, status, {'cache-control': 'no-store', **(headers or {})})

  def render(self, content: Any) -> bytes:
    """Returns the content as it is sent."""
    return json.dumps(content, allow_nan=False, separators=(',', ':')).encode('ascii')


def response(refusal: RefusalError) -> Response:
  """Returns the refusal as JSON: `{"error": {"code": …, "message": …}}`."""
  headers = {}
  content: dict[str, object] = {'code': refusal.code, 'message': refusal.message}
  if refusal.wait is not None:
    headers['retry-after'] = str(max(1, math.ceil(refusal.wait)))
    content['wait'] = round(refusal.wait, 2)
  return Json({'error': content}, refusal.status, headers)


async def handle(request: Request, error: Exception) -> Response:
  """Starlette's handler of `RefusalError`."""
  del request
  assert isinstance(error, RefusalError)
  return response(error)


async def handle_http(request: Request, error: Exception) -> Response:
  """Starlette's handler of its own refusals: no such address, or not with this method."""
  assert isinstance(error, HTTPException)
  path, method = request.scope['path'][:100], request.method
  if error.status_code == 405:
    answer = response(RefusalError(405, 'method', f'{path} is for GET and HEAD, not for {method[:20]}.'))
  else:
    answer = response(RefusalError(error.status_code, 'unknown', f'There is nothing at {path}.'))
  answer.headers.update(error.headers or {})
  return answer
