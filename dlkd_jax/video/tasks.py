"""What an extraction has to do: videos that are new, changed, or still being written."""

from __future__ import annotations

from dlkd_jax import files
from dlkd_jax.video import corpus, work_folder
from dlkd_jax.video.files import VideoError
from dlkd_jax.video.outcomes import Outcome, Outcomes
from dlkd_jax.video.reading import Task
from tfds_builders.custom_prvr import extracted


def sort_out(
  found: corpus.Corpus,
  folder: work_folder.WorkFolder,
  packed: dict[str, str],
  update: bool,
  settle_seconds: float,
  outcomes: Outcomes,
) -> tuple[list[Task], set[str]]:
  """Sorts the videos by what is to be done; notes those that are there already, and those that cannot be read.

  Args:
    found: the videos.
    folder: features of earlier runs.
    packed: video → digest of those that are in the data set.
    update: whether those that changed since are to be taken anew.
    settle_seconds: age below which a file is young.
    outcomes: takes the entries.

  Returns:
    What is to be extracted, and the packed videos that are to be taken anew.
  """
  todo, anew = [], set()
  for job in found.jobs:
    try:
      seen = job.look()
    except VideoError as error:
      outcomes.add(Outcome(job.video, 'failed', error.reason, job.split, captions=len(job.captions)))
      continue
    changed = job.video in packed and not extracted.is_same(packed[job.video], seen.digest)
    task = Task(job, seen, 'updated' if changed else 'extracted', abs(seen.age()) < settle_seconds)
    metadata = folder.find(job, seen)
    if changed and not update:
      outcomes.add(task.outcome('changed', _what_changed(packed[job.video], seen)))
      continue
    if changed:
      anew.add(job.video)
    if metadata is not None and (job.video not in packed or changed) and not folder.is_whole(job):
      metadata = None  # It is to be packed, and is not as it was written.
    if metadata is None and (job.video not in packed or changed):
      todo.append(task)
    else:
      damage, frames = (metadata or {}).get('damage', ''), int((metadata or {}).get('frames', 0))
      status = 'updated' if changed else 'kept'
      outcomes.add(task.outcome('truncated' if damage else status, damage, frames))
  return todo, anew


def _what_changed(packed: str, seen: corpus.Seen) -> str:
  """Returns what differs, as far as the digest of a packed video tells."""
  film = packed.partition(':')[2]
  if not film:
    return 'its file, captions or split changed'
  return 'its captions or split changed' if film == seen.film else 'its file changed'


def note_others(
  found: corpus.Corpus, folder: work_folder.WorkFolder, packed: dict[str, str], outcomes: Outcomes
) -> None:
  """Notes what nothing is to be done with: what is no film, what captions name in vain, and films that have gone."""
  outcomes.add(*(Outcome(files.printable(name), 'failed', why) for name, why in found.refused.items()))
  outcomes.add(*(Outcome(files.printable(name), 'skipped', why) for name, why in found.left.items()))
  outcomes.add(*(Outcome(name, 'skipped') for name in found.skipped))
  outcomes.add(*(_missing(name, count, found) for name, count in found.missing.items()))
  here = {job.video for job in found.jobs}
  outcomes.add(*(Outcome(name, 'vanished') for name in sorted(packed.keys() - here)))
  outcomes.add(*(_left_behind(folder, name) for name in sorted(folder.videos - packed.keys() - here)))


def _missing(name: str, captions: int, found: corpus.Corpus) -> Outcome:
  near = found.nearest.get(name)
  return Outcome(name, 'missing', f'the nearest names are {", ".join(near)}' if near else '', captions=captions)


def _left_behind(folder: work_folder.WorkFolder, video: str) -> Outcome:
  """Returns the entry of features that a stopped run left of a film that has gone since."""
  if folder.is_readable(video):
    return Outcome(video, 'vanished', 'features that were made of it before are packed')
  return Outcome(video, 'failed', 'is not in the folder any more, and the features that were made of it are damaged')
