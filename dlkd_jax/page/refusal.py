"""What is said to a client whose request cannot be answered."""

from __future__ import annotations

import math

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


def response(refusal: RefusalError) -> Response:
  """Returns the refusal as JSON: `{"error": {"code": …, "message": …}}`."""
  headers = {'cache-control': 'no-store'}
  content: dict[str, object] = {'code': refusal.code, 'message': refusal.message}
  if refusal.wait is not None:
    headers['retry-after'] = str(max(1, math.ceil(refusal.wait)))
    content['wait'] = round(refusal.wait, 2)
  return JSONResponse({'error': content}, refusal.status, headers)


async def handle(request: Request, error: Exception) -> Response:
  """Starlette's handler of `RefusalError`."""
  del request
  assert isinstance(error, RefusalError)
  return response(error)
