"""What an index is made of, and kept in step with: one interface of data sets and of folders of films."""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from dlkd_jax.errors import UserError

if TYPE_CHECKING:
  from dlkd_jax.data.sources import Record
  from dlkd_jax.gallery.collection import Knowledge
  from dlkd_jax.gallery.progress_file import ProgressFile
  from dlkd_jax.gallery.sorting import Sorted


class Source(Protocol):
  """Records of a data set (`collection`), or of folders of films (`films`).

  Attributes:
    dataset: what the entries of an index say that they came from.
    splits: those of its videos.
    whole: whether there are no videos in other splits.
    options, where, sizes: how its features were made, as of a `collection.Collection`.
    away: ids whose films may be elsewhere by now: one of the same content, by another name, is taken for theirs.
    broken: ids that could not be read when they were asked for.
  """

  dataset: str
  splits: Sequence[str]
  whole: bool
  options: Mapping[str, Any]
  where: Mapping[str, str]
  sizes: Mapping[str, int | None]
  away: Container[str]
  broken: Collection[str]

  def features(self) -> dict[str, Any]:
    """Returns what has to be equal in all that is put into one index."""

  def settings(self) -> dict[str, Any]:
    """Returns what an index remembers of it, for the next addition."""

  def digests(self) -> dict[str, str]:
    """Returns video → hash of what its entry follows from, of all that there are."""

  def find(self, wanted: Container[str]) -> dict[str, tuple[str, int]]:
    """Returns video → (split, number), for `records`, of those that are wanted and there."""

  def records(
    self, places: Iterable[tuple[str, int]] | None = None, running: ProgressFile | None = None
  ) -> Iterator[tuple[str, Record]]:
    """Yields (split, record) of videos; one that is broken is left out, and told of otherwise."""

  def facts(self, video: str) -> dict[str, Any]:
    """Returns path, size, time and subtitles of a film, as an `Entry` has them; empty where it is not to say that."""

  def check_prune(self, found: Sorted, knowledge: Knowledge) -> None:
    """Raises UserError where videos would be removed because of a disk that is not there."""


def no_disk(folder: pathlib.Path) -> UserError:
  """Returns the error of a folder that has none of the films that an index knows of it."""
  return UserError(
    f'none of the films of the index is in {folder}; is its disk there? Nothing was removed. To remove all of them, '
    'use `dlkd remove`'
  )
