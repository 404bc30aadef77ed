"""The contact sheet of the demonstration: queries of the test split, and the frames that a student found for them."""

from __future__ import annotations

import pathlib

import numpy as np

from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.results import Hit
from dlkd_jax.gallery.segments import Caption
from dlkd_jax.video import contact_sheet
from dlkd_jax.video.picture_at import picture_at

_SIDE = 160


def write_sheet(index: pathlib.Path, path: pathlib.Path, queries: int = 5, shown: int = 4) -> None:
  """Writes a PNG: for each query the best frames of the films that score highest, the right film framed.

  Queries are the first captions of films that lie evenly in the index: they are not chosen by how they come out.

  Args:
    index: folder of an index whose films have captions with moments.
    path: where to.
    queries: rows.
    shown: films a query.

  Raises:
    FileNotFoundError: there is no index.
    IndexFolderError: it is damaged.
    VideoError: a film cannot be decoded.
  """
  gallery = Gallery.open(index)
  first: dict[str, Caption] = {}
  for caption in gallery.captions.values():
    first.setdefault(caption.video_id, caption)
  captions = list(first.values())
  chosen = [captions[place] for place in np.linspace(0, len(captions) - 1, min(queries, len(captions))).astype(int)]
  results = gallery.search_captions([caption.caption_id for caption in chosen], top=len(gallery))
  rows = []
  for caption, result in zip(chosen, results, strict=True):
    rank = [hit.video_id for hit in result.hits].index(caption.video_id) + 1
    cells = [_cell(hit, caption) for hit in result.hits[:shown]]
    rows.append(contact_sheet.SheetRow(f'{caption.text} (the right film is number {rank})', cells))
  contact_sheet.write(path, rows, heading='Queries, and the frames found', columns=shown, cell_size=(_SIDE, _SIDE))


def _cell(hit: Hit, caption: Caption) -> contact_sheet.SheetCell:
  """A found frame; where the film is the right one, its label says whether the moment is, too."""
  time, right = hit.moments[0].peak, hit.video_id == caption.video_id
  label = f'{hit.title}, {time:.1f} s'
  if right:
    inside = caption.start <= time < caption.end
    label += ': in the moment' if inside else f': not in {caption.start:.1f} to {caption.end:.1f} s'
  return contact_sheet.SheetCell(picture_at(hit.path, time, _SIDE), label, right)
