"""The page's own files: read once, served from memory by exact name."""

from __future__ import annotations

import hashlib
import importlib.resources
from typing import NamedTuple

_TYPES = {
  '.css': 'text/css; charset=utf-8',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
}


class Asset(NamedTuple):
  """A file of the page.

  Attributes:
    content: its bytes.
    media_type: of HTTP.
    etag: changes with the content, quoted.
  """

  content: bytes
  media_type: str
  etag: str


def load() -> dict[str, Asset]:
  """Returns file name → file of everything in `static/`."""
  assets = {}
  for file in importlib.resources.files('dlkd_jax.page').joinpath('static').iterdir():
    suffix = file.name[file.name.rfind('.') :]
    if suffix in _TYPES:
      content = file.read_bytes()
      assets[file.name] = Asset(content, _TYPES[suffix], f'"{hashlib.sha256(content).hexdigest()[:20]}"')
  return assets
