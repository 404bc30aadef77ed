"""What can be looked for: a sentence, a caption, a picture, a moment, and these together, or without something.

    Query('a dog')
    Query(caption='lake.mp4#0')
    Query(picture=pixels)                                 the frames that look like it
    Query(like=('lake.mp4', 12.5))                        more like this moment; no model is needed
    Query('in the snow', like=('lake.mp4', 12.5))         both at once
    Query('a dog', without=('a ball',))                   a dog, but not a ball

Every part is a unit vector for each scorer. Those of what is wanted are added, the share of a picture or a moment
beside words being `PICTURE_SHARE`; `WITHOUT` times each sentence that is not wanted is subtracted; and the sum is
brought to length 1. A picture has a vector of the teacher alone, so the teacher alone scores where there is one.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlkd_jax import files
from dlkd_jax.errors import UserError
from dlkd_jax.gallery.encoding import TEACHER
from dlkd_jax.vectors import unit

if TYPE_CHECKING:
  from dlkd_jax.gallery.gallery import Gallery

# Chosen on films of the rendered world that no result is reported on; see `tools.measure_queries`.
PICTURE_SHARE = 0.3
WITHOUT = 0.2
_KEYS = ('text', 'caption')
_CLOCK = re.compile(r'(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?)', re.ASCII)


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
  """A picture that is searched with: pixels uint8 `[H, W, 3]`, RGB, and what to call it."""

  pixels: np.ndarray
  name: str = 'a picture'


@dataclasses.dataclass(frozen=True)
class Query:
  """What is looked for; of its parts there is at least one besides `without`.

  Attributes:
    text: a sentence.
    caption: id of a caption of the index.
    picture: what the frames look like.
    like: a video of the index and a second of it.
    without: sentences about what must not be there.
    own: with `like`, whether that video is among the results, too.
    id: to be repeated beside the result.
  """

  text: str | None = None
  caption: str | None = None
  picture: Picture | None = None
  like: tuple[str, float] | None = None
  without: tuple[str, ...] = ()
  own: bool = False
  id: Any = None

  def __post_init__(self):
    if self.text is None and self.caption is None and self.picture is None and self.like is None:
      raise UserError('there is nothing to look for: give a sentence, a caption, a picture or a moment')
    if self.text is not None and self.caption is not None:
      raise UserError('a sentence and a caption are two queries; give one of them')
    if self.like is not None and not (math.isfinite(self.like[1]) and self.like[1] >= 0):
      raise UserError(f'a moment is at {self.like[1]}; expected seconds of the video from 0')

  @property
  def words(self) -> bool:
    """Whether a sentence says what is wanted."""
    return self.text is not None or self.caption is not None

  def label(self, captions: Mapping[str, Any]) -> str:
    """Returns what to call it; `captions` by id."""
    said = self.text if self.caption is None else captions[self.caption].text
    like = self.like and f'like {self.like[0]} at {self.like[1]:g} s'
    parts = [part for part in (said, self.picture and self.picture.name, like) if part]
    return ' + '.join(parts) + ''.join(f', not {sentence}' for sentence in self.without)

  def to_json(self) -> dict[str, Any]:
    """Returns the parts as JSON knows values; of a picture its name."""
    like = None if self.like is None else {'id': self.like[0], 'seconds': self.like[1]}
    picture = None if self.picture is None else self.picture.name
    return {
      'text': self.text,
      'caption': self.caption,
      'picture': picture,
      'like': like,
      'without': list(self.without),
    }


def scorers_of(query: Query, scorers: Sequence[str]) -> tuple[str, ...]:
  """Returns the scorers of an index that have a vector for a query."""
  return tuple(name for name in scorers if query.picture is None or name == TEACHER)


def compose(
  wanted: Sequence[tuple[float, Mapping[str, np.ndarray]]], unwanted: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
  """Adds what is wanted with its weights and subtracts what is not.

  Args:
    wanted: weight, and scorer → `[H]` unit vector; at least one.
    unwanted: scorer → `[H]` unit vector each.

  Returns:
    scorer → `[H]` float32 unit vector, of the scorers that all have.
  """
  vectors = [vectors for _, vectors in wanted] + list(unwanted)
  names = [name for name in vectors[0] if all(name in each for each in vectors)]
  signed = [weight for weight, _ in wanted] + [-WITHOUT] * len(unwanted)
  return {name: unit(sum(w * each[name] for w, each in zip(signed, vectors, strict=True))) for name in names}


def encode(gallery: Gallery, queries: Sequence[Query]) -> list[dict[str, np.ndarray]]:
  """Returns scorer → `[H]` float32 unit vector of each query; sentences and pictures of all are encoded together.

  Raises:
    UserError: there is no such caption, video or scorer, or a sentence is empty.
    IndexFolderError: what is needed to encode is not there.
  """
  texts = list(dict.fromkeys(text for query in queries for text in (query.text, *query.without) if text is not None))
  needed = {name for q in queries if q.text is not None or q.without for name in scorers_of(q, gallery.scorers)}
  by_text: dict[str, dict[str, np.ndarray]] = {}
  if texts and needed:
    found = gallery.sentences(texts, [name for name in gallery.scorers if name in needed])
    by_text = {text: {name: rows[i] for name, rows in found.items()} for i, text in enumerate(texts)}
  pictures = [query.picture for query in queries if query.picture is not None]
  seen = gallery.pictures([picture.pixels for picture in pictures]) if pictures else ()
  by_picture = {id(picture): {TEACHER: row} for picture, row in zip(pictures, seen, strict=True)}
  encoded = []
  for query in queries:
    said = by_text[query.text] if query.text is not None else None
    if query.caption is not None:
      said = {name: rows[0] for name, rows in gallery.caption_vectors([query.caption]).items()}
    shown = [by_picture[id(query.picture)]] if query.picture is not None else []
    shown += [_frame(gallery, *query.like)] if query.like is not None else []
    share = 0.0 if not shown else PICTURE_SHARE if said is not None else 1.0
    wanted = [(share / len(shown), each) for each in shown]
    wanted = wanted if said is None else [(1 - share, said), *wanted]
    if len(wanted) == 1 and not query.without:  # As it is, to the last bit.
      encoded.append(dict(wanted[0][1]))
    else:
      encoded.append(compose(wanted, [by_text[text] for text in query.without]))
  return encoded


def _frame(gallery: Gallery, video: str, second: float) -> dict[str, np.ndarray]:
  """Returns the vectors of the frame that is shown nearest to a second of a video."""
  try:
    times, rows = gallery.frames(video)
  except KeyError as error:
    raise UserError(f'there is no video {files.printable(video)} in this index, so nothing is like it') from error
  nearest = int(np.argmin(np.abs(times - second)))
  return {name: unit(array[nearest]) for name, array in rows.items()}


def moment_of(text: str, origin: str) -> tuple[str, float]:
  """Reads a moment as VIDEO@SECONDS, or VIDEO@1:02:03.5.

  Raises:
    UserError: it is not written so; `origin` says where.
  """
  video, at, clock = text.rpartition('@')
  read = _CLOCK.fullmatch(clock)
  if not at or not video or read is None:
    raise UserError(f'{origin} is {text[:200]!r}; expected a video and a second, as lake.mp4@12.5 or lake.mp4@1:02:03')
  hours, minutes, seconds = read.groups()
  return video, int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds)


def parse(text: str, origin: str) -> list[Query]:
  """Reads queries, one a line: a sentence, or an object as {"text": "a dog", "id": 7} or {"caption": "lake.mp4#0"}.

  Raises:
    UserError: a line begins with { and is no such object; `origin` and the line are named.
  """
  found: list[Query] = []
  for number, line in files.lines(text):
    line, where = line.strip(), f'{origin}, line {number}'
    if not line.startswith('{'):
      files.check_characters(line, where)
      found.append(Query(line))
      continue
    content = files.parse_object(line, where)
    kinds = [key for key in _KEYS if isinstance(content.get(key), str)]
    if len(kinds) != 1 or (odd := set(content) - {*_KEYS, 'id'}):
      wrong = f'has {sorted(odd)}' if len(kinds) == 1 else f'has {sorted(content)}'
      raise UserError(f'{where} {wrong}; expected "text" or "caption", and "id" if wanted')
    if not content[kinds[0]].strip():
      raise UserError(f'{where}: "{kinds[0]}" is empty')
    found.append(Query(**{kinds[0]: content[kinds[0]]}, id=content.get('id')))
  return found
