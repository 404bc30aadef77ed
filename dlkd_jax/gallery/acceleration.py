"""Searching in two stages: compressed frames beside those of each segment, made where they are wanted.

An index for which they were asked once has them for every segment that is added, too.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from dlkd_jax.gallery import index_folder
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.segments import Segment, describe_file


def accelerate(path: pathlib.Path) -> int:
  """Prepares an index for searching in two stages; what is prepared is left alone.

  Returns:
    Segments that were prepared.

  Raises:
    IndexFolderError: the index is damaged, or another process is changing it.
  """
  with index_folder.writing(path):
    folder = IndexFolder.open(path)
    folder.manifest['settings']['two_stage'] = True
    done = prepare(folder)
    folder.write_manifest()
    return done


def prepare(folder: IndexFolder) -> int:
  """Compresses the frames of the segments that lack it, where the index wants it; the caller holds the lock."""
  if not folder.manifest['settings'].get('two_stage'):
    return 0
  from dlkd_jax.gallery.frame_index import FrameIndex  # FAISS takes a while to load.

  done = 0
  for about, segment in zip(folder.manifest['segments'], folder.segments(), strict=True):
    names = {scorer: file_name(scorer) for scorer in segment.rows}
    if not segment.entries or set(names.values()) <= about['files'].keys():
      continue
    for scorer, name in names.items():
      file = folder.segment_path(about['name']) / name
      FrameIndex.build(segment.rows[scorer]).save(file)
      about['files'][name] = describe_file(file)
    folder.write_manifest()
    done += 1
  return done


def is_ready(manifest: Mapping[str, Any]) -> bool:
  """Returns whether an index can be searched in two stages."""
  wanted = {file_name(scorer) for scorer in manifest['scorers']}
  return all(wanted <= about['files'].keys() for about in manifest['segments'] if about['videos'])


def load(folder: IndexFolder, segment: Segment) -> dict[str, Any]:
  """Returns scorer → `FrameIndex` of a segment."""
  from dlkd_jax.gallery.frame_index import FrameIndex

  where = folder.segment_path(segment.name)
  return {
    scorer: FrameIndex.load(where / file_name(scorer), len(rows), rows.hidden) for scorer, rows in segment.rows.items()
  }


def file_name(scorer: str) -> str:
  """Returns the name of the compressed frames of a scorer in a segment."""
  return f'{scorer}.frames'
