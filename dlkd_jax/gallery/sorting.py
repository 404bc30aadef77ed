"""What is to be done with the videos of a data set that meets an index: new, changed, vanished, forgotten."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dlkd_jax.errors import UserError
from dlkd_jax.gallery.catalog import Catalog, Known
from dlkd_jax.gallery.collection import Collection, Knowledge


@dataclasses.dataclass(frozen=True)
class Sorted:
  """The videos of a data set, and those of an index that came from it.

  Attributes:
    wanted: id → split and number of the records to take, new ones and those that are taken anew.
    digests: id → hash of the record, of all that are wanted.
    there: id → where it lies, of the videos that are in the index and stay as they are.
    changed: ids whose record is another than was indexed; those among them that are `wanted` are taken anew.
    vanished: ids of the index that the data set has no more, or whose film is not in its folder.
    forgotten: ids that were removed from the index, and so are not taken.
    unchecked: how many were indexed before hashes were kept: whether they changed is not known.
    named: ids that the data set has.
    alike: ids that videos of another data set have in the index, so that those of this one are not taken.
  """

  wanted: Mapping[str, tuple[str, int]]
  digests: Mapping[str, str]
  there: Mapping[str, Known]
  changed: tuple[str, ...]
  vanished: tuple[str, ...]
  forgotten: tuple[str, ...]
  unchecked: int
  named: frozenset[str]
  alike: tuple[str, ...] = ()


def sort_out(
  manifest: Mapping[str, Any],
  catalog: Catalog,
  collection: Collection,
  knowledge: Knowledge,
  update: bool = False,
  again: bool = False,
) -> Sorted:
  """Compares a data set with an index; reads no features.

  Args:
    manifest: of the index.
    catalog: of the index.
    collection: splits of the data set; other splits are left alone.
    knowledge: where the films are, and what is said of them.
    update: take anew what changed.
    again: take what was removed, too.
  """
  origin = manifest['settings'].get('dataset')
  everything = catalog.known()
  known = {
    video: about
    for video, about in everything.items()
    if (about.dataset or origin) == collection.dataset and about.split in collection.splits
  }
  places: dict[str, tuple[str, int]] = {}
  if (digests := collection.digests()) is None:
    digests = {}
    for video, split, number, digest in collection.listing():
      places.setdefault(video, (split, number))
      digests.setdefault(video, digest)
  others = everything.keys() - known.keys()  # Of other splits or data sets.
  alike = [v for v in digests if v in others and (everything[v].dataset or origin) != collection.dataset]
  changed = [video for video, about in known.items() if _is_changed(about, digests.get(video))]
  changed += _described_otherwise(catalog, knowledge, known.keys() - set(changed))
  kept = {} if again else manifest.get('forgotten', {})
  new = [v for v in digests if v not in known and v not in others and not _still_gone(v, manifest, knowledge)]
  wanted = {video for video in new if video not in kept}.union(changed if update else ())
  found = {video: places[video] for video in wanted if video in places} if places else collection.find(wanted)
  lost = [video for video in known if video not in digests] + _without_film(catalog, knowledge, known.keys() & digests)
  stay = {video: about for video, about in known.items() if video in digests and video not in found}
  in_splits = collection.whole or not kept
  forgotten = [v for v in digests if v in kept and v not in known] if in_splits else collection.find(kept)
  return Sorted(
    wanted=found,
    digests={video: digests[video] for video in found},
    there=stay,
    changed=tuple(sorted(changed)),
    vanished=tuple(sorted(lost)),
    forgotten=tuple(sorted(forgotten)),
    unchecked=sum(not about.digest for about in stay.values()),
    named=frozenset(digests),
    alike=tuple(sorted(alike if collection.whole or not alike else collection.find(alike))),
  )


def check_prune(sorted_out: Sorted, knowledge: Knowledge) -> None:
  """Refuses to remove videos because of a disk that is not there.

  Raises:
    ValueError: the folder of the films is absent, or has none of them.
  """
  if knowledge.videos is None or not sorted_out.vanished:
    return
  kept = set(sorted_out.there) - set(sorted_out.vanished)
  if not kept and not any((knowledge.videos / video).is_file() for video in sorted_out.wanted):
    raise UserError(
      f'none of the films of the index is in {knowledge.videos}; is its disk there? Nothing was removed. To remove all '
      'of them, use `python -m dlkd_jax.index remove`'
    )


def _is_changed(about: Known, digest: str | None) -> bool:
  return bool(about.digest) and digest is not None and digest != about.digest


def _described_otherwise(catalog: Catalog, knowledge: Knowledge, videos: Any) -> list[str]:
  """Returns the videos of which the file of metadata says something else than the index."""
  found = []
  for video in knowledge.metadata.keys() & videos:
    entry = catalog.videos[video]
    if knowledge.said(video) != (entry.title, dict(entry.metadata)):
      found.append(video)
  return found


def _without_film(catalog: Catalog, knowledge: Knowledge, videos: Any) -> list[str]:
  """Returns the videos whose film is not where it should be; a folder that is absent says nothing."""
  if knowledge.videos is None or not knowledge.videos.is_dir():
    return []
  with_path = (video for (video,) in catalog.rows('SELECT id FROM videos WHERE path IS NOT NULL'))
  return [video for video in with_path if video in videos and not (knowledge.videos / video).is_file()]


def _still_gone(video: str, manifest: Mapping[str, Any], knowledge: Knowledge) -> bool:
  """Whether a video was pruned and its film has not come back."""
  file = knowledge.file(video)
  return video in manifest.get('pruned', ()) and file is not None and not file.is_file()
