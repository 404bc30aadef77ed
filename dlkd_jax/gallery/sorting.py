"""What is to be done with the videos of a source that meets an index: new, changed, moved, vanished, forgotten."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Set
from typing import Any

from dlkd_jax.gallery.catalog import Catalog, Known
from dlkd_jax.gallery.collection import Knowledge
from dlkd_jax.gallery.segments import Entry
from dlkd_jax.gallery.source import Source


@dataclasses.dataclass(frozen=True)
class Sorted:
  """The videos of a source, and those of an index that came from it.

  Attributes:
    wanted: id → split and number of the records to take, new ones and those that are taken anew.
    reused: id → id of the index whose vectors it has, of those that are taken without their records: it is described
      otherwise, or its content is that of a film that the index knows.
    moved: those of `reused` whose film had the other name → that one, which goes.
    digests: id → hash of the record, of all that are wanted or reused.
    there: id → where it lies, of the videos that are in the index and stay as they are.
    changed: ids whose record is another than was indexed; those among them that are `wanted` are taken anew.
    vanished: ids of the index that the source has no more, or whose film is not in its folder.
    forgotten: ids that were removed from the index, and so are not taken.
    unchecked: how many were indexed before hashes were kept: whether they changed is not known.
    named: ids that the source has.
    alike: ids that videos of another source have in the index, so that those of this one are not taken.
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
  reused: Mapping[str, str] = dataclasses.field(default_factory=dict)
  moved: Mapping[str, str] = dataclasses.field(default_factory=dict)


def sort_out(
  manifest: Mapping[str, Any],
  catalog: Catalog,
  source: Source,
  knowledge: Knowledge,
  update: bool = False,
  again: bool = False,
) -> Sorted:
  """Compares a source with an index; reads no features.

  Args:
    manifest: of the index.
    catalog: of the index.
    source: other splits of a data set than its own are left alone.
    knowledge: where the films are, and what is said of them.
    update: take anew what changed.
    again: take what was removed, too.
  """
  origin = manifest['settings'].get('dataset')
  everything = catalog.known()
  known = {
    video: about
    for video, about in everything.items()
    if (about.dataset or origin) == source.dataset and about.split in source.splits
  }
  digests = source.digests()
  others = everything.keys() - known.keys()  # Of other splits or sources.
  alike = [v for v in digests if v in others and (everything[v].dataset or origin) != source.dataset]
  changed = {video for video, about in known.items() if _is_changed(about, digests.get(video))}
  described = set(_described_otherwise(catalog, source, knowledge, (known.keys() & digests.keys()) - changed))
  lost = [video for video in known if video not in digests] + _without_film(catalog, knowledge, known.keys() & digests)
  new = [v for v in digests if v not in known and v not in others and not _still_gone(v, manifest, knowledge)]
  took = {*new, *(changed if update else ())}
  gone = {*lost, *(video for video in known if video in source.away)}
  reused, moved = _reused(sorted(took), digests, known, gone)
  reused |= {video: video for video in described if update and known[video].digest}
  kept = {} if again else manifest.get('forgotten', {})
  contents = {about.get('digest') for about in kept.values()} - {'', None}
  left_out = {v for v in new if v in kept or (digests[v] in contents and v not in reused)}
  reused = {video: other for video, other in reused.items() if video not in left_out}
  moved = {video: other for video, other in moved.items() if video not in left_out}
  wanted = (took | (described if update else set())) - left_out - reused.keys()
  found = source.find(wanted)
  stay = {v: about for v, about in known.items() if v in digests and v not in found and v not in reused}
  in_splits = source.whole or not left_out
  return Sorted(
    wanted=found,
    digests={video: digests[video] for video in (*found, *reused)},
    there={video: about for video, about in stay.items() if video not in moved.values()},
    changed=tuple(sorted(changed | described)),
    vanished=tuple(sorted({*lost} - {*moved.values()})),
    forgotten=tuple(sorted(left_out if in_splits else source.find(left_out))),
    unchecked=sum(not about.digest for about in stay.values()),
    named=frozenset(digests),
    alike=tuple(sorted(alike if source.whole or not alike else source.find(alike))),
    reused=reused,
    moved=moved,
  )


def _reused(
  took: Iterable[str], digests: Mapping[str, str], known: Mapping[str, Known], gone: Collection[str]
) -> tuple[dict[str, str], dict[str, str]]:
  """Returns, of videos to take, those whose content an index has → by which name, and those that had it and moved."""
  contents: dict[str, list[str]] = {}
  for video, about in known.items():
    if about.digest:
      contents.setdefault(about.digest, []).append(video)
  reused, moved, left = {}, {}, set(gone)
  for video in took:
    if candidates := contents.get(digests[video]):
      # One that is gone moved; of several, one that was called alike.
      candidates = sorted(candidates, key=lambda each: (each not in left, _name(each) != _name(video), each))
      reused[video] = candidates[0]
      if candidates[0] in left:
        moved[video] = candidates[0]
        left.remove(candidates[0])
  return reused, moved


def _name(video: str) -> str:
  return video.rpartition('/')[2]


def _is_changed(about: Known, digest: str | None) -> bool:
  return bool(about.digest) and digest is not None and digest != about.digest


def _described_otherwise(catalog: Catalog, source: Source, knowledge: Knowledge, videos: Set[str]) -> list[str]:
  """Returns the videos of which metadata, or the source, say something else than the index."""
  facts = {video: facts for video in videos if (facts := source.facts(video))}
  if facts and len(facts) * 2 > len(catalog):  # All at once: one after another asks the catalog as often.
    entries = ((video, entry) for video, entry in catalog.videos.items() if video in videos)
  else:
    entries = ((video, catalog.videos[video]) for video in facts.keys() | (knowledge.metadata.keys() & videos))
  return [video for video, entry in entries if restated(entry, facts.get(video, {}), knowledge) != entry]


def restated(entry: Entry, facts: Mapping[str, Any], knowledge: Knowledge) -> Entry:
  """Returns an entry with what metadata and the source say of it now."""
  title, metadata = knowledge.said(entry.video_id, entry)
  return dataclasses.replace(entry, title=title, metadata=metadata, **facts)


def _without_film(catalog: Catalog, knowledge: Knowledge, videos: Any) -> list[str]:
  """Returns the videos whose film is not where it should be; a folder that is absent says nothing."""
  if knowledge.videos is None or not knowledge.videos.is_dir():
    return []
  with_path = (video for (video,) in catalog.fetch('SELECT id FROM videos WHERE path IS NOT NULL'))
  return [video for video in with_path if video in videos and not (knowledge.videos / video).is_file()]


def _still_gone(video: str, manifest: Mapping[str, Any], knowledge: Knowledge) -> bool:
  """Whether a video was pruned and its film has not come back."""
  file = knowledge.file(video)
  return video in manifest.get('pruned', ()) and file is not None and not file.is_file()
