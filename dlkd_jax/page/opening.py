"""From a gallery to an application that is ready to answer."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette

from dlkd_jax.page.app import make_app
from dlkd_jax.page.media import VideoFiles, noted_roots
from dlkd_jax.page.settings import Settings

# Longer captions do not read well as suggestions.
_LONGEST = 90


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


def served(gallery: Any, settings: Settings) -> str:
  """Says which files are served: whose real paths, with all links followed, lie where."""
  roots = VideoFiles({}, settings.roots, noted_roots(gallery)).roots
  return f'below {", ".join(roots)}' if roots else 'in the folders that the index names'


def prepare(gallery: Any, settings: Settings) -> Starlette:
  """Returns the application, after first searches: what is wrong shows now, and the first visitors do not wait.

  A gallery compiles its programs for some numbers of queries; so it is searched with one, with a few, and with as many
  as will ever be searched together.

  Raises:
    ValueError: sentences cannot be searched for; a weight or threshold does not fit.
  """
  for count in (1, 2, settings.batch):
    queries = [f'a first sentence {number}' for number in range(count)]
    gallery.search(queries, top=1, moments=settings.moments, **settings.wishes)
  return make_app(gallery, settings)
