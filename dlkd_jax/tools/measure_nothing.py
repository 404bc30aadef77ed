"""Measures whether a gallery can say that nothing in it fits a sentence, on rendered films and on real frames.

  python -m dlkd_jax.tools.measure_nothing --pack=FOLDER

On rendered films (a part of `measure_queries`): of those without a shape, a colour, a motion or a background, sentences
about it against the sentences that came with the films. On real frames: a pack of CLIP frames and of names of things,
those that its captions speak of against those that none does, though some are to be seen.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dlkd_jax import doors, files
from dlkd_jax.demo import words, world
from dlkd_jax.errors import UserError
from dlkd_jax.gallery import background
from dlkd_jax.gallery.encoding import unit
from dlkd_jax.gallery.gallery import Gallery

TEACHER = {'teacher': 1.0}
# Films that have to be left, and times that captions have to speak of a thing that is there.
_FEWEST, _SPOKEN_OF = 5, 8


@dataclasses.dataclass(frozen=True)
class World:
  """Films, and the index of them: `films` by id."""

  gallery: Gallery
  films: dict[str, world.Film]

  def moments(self) -> list[tuple[str, world.Segment, str]]:
    """Returns film, segment and a sentence of each moment that sentences describe."""
    found = {(name, c.segment): c.text for name, film in self.films.items() for c in film.captions}
    return [(name, self.films[name].segments[number], text) for (name, number), text in found.items()]

  def shown(self, hit: Any) -> world.Segment:
    """Returns what is to be seen at the best moment of a hit."""
    return next((s for s in self.films[hit.video_id].segments if s.end > hit.moments[0].peak), self._last(hit))

  def _last(self, hit: Any) -> world.Segment:
    return self.films[hit.video_id].segments[-1]


def area(there: np.ndarray, absent: np.ndarray) -> float:
  """Returns the area under the ROC curve: how often, of 1, a value of the former is above one of the latter."""
  above = (there[:, None] > absent[None]).mean() + 0.5 * (there[:, None] == absent[None]).mean()
  return float(above)


def errors(there: np.ndarray, absent: np.ndarray, least: float) -> dict[str, float]:
  """Returns both kinds of error, of 100, where nothing is said to stand out below a confidence."""
  return {
    'called nothing, and is there': 100 * float((there < least).mean()),
    'not called nothing, and is absent': 100 * float((absent >= least).mean()),
  }


def highest(there: np.ndarray) -> float:
  """Returns the highest confidence below which at most a fifth of what is there lies: the rule for thresholds."""
  return float(np.sort(there)[len(there) // 5])


def measure(
  of: World, weights: Mapping[str, float], leasts: Sequence[float] = (background.LEAST['captions'],)
) -> dict[str, Any]:
  """Of films without a shape, a colour, a motion or a background: do sentences about it score less than others?

  Args:
    of: films and their index.
    weights: scorer → weight.
    leasts: confidences below which nothing stands out.
  """
  captions = [(name, c.text) for name, film in of.films.items() for c in film.captions]
  names = list(of.gallery.videos)
  vectors = of.gallery.sentences([text for _, text in captions])
  scores = of.gallery.scores(vectors, weights)
  mentioned = [words.mentioned(text) for _, text in captions]
  seen = {name: _concepts(film) for name, film in of.films.items()}
  kept: dict[str, tuple[list, list]] = {}
  for factor in ('shape', 'colour', 'motion', 'background'):
    for number in range(len(words.FACTORS[factor])):
      left = np.array([(factor, number) not in seen[name] for name in names])
      own = [n for n, (name, _) in enumerate(captions) if (factor, number) not in seen[name]]
      absent = [n for n, said in enumerate(mentioned) if said.get(factor) == number]
      if left.sum() < _FEWEST or len(own) < background.COUNT or not absent:
        continue
      levels = np.sort(
        scores[[own[n] for n in np.linspace(0, len(own) - 1, background.COUNT).astype(int)]][:, left].max(1)
      )
      best, middle = scores[:, left].max(1), np.median(scores[:, left], axis=1)
      sure = np.searchsorted(levels, best) / len(levels)
      for name, values in (('confidence', sure), ('best score', best), ('best score over the median', best - middle)):
        there, gone = kept.setdefault(f'{name}: {factor}', ([], []))
        there += values[own].tolist()
        gone += values[absent].tolist()
  if not kept:
    raise UserError(f'{len(names)} films are too few to measure what some of them lack; ./run.sh makes enough')
  found = {name: {'AUC': area(np.array(there), np.array(gone))} for name, (there, gone) in kept.items()}
  there, gone = (np.concatenate([kept[n][k] for n in kept if n.startswith('confidence')]) for k in (0, 1))
  found['threshold by the rule'] = {'confidence': highest(there)}
  for least in leasts:
    found[f'nothing below a confidence of {least:.2f}'] = errors(there, gone, least)
  return found


def _concepts(film: world.Film) -> set[tuple[str, int]]:
  found = {('background', segment.background) for segment in film.segments}
  for segment in film.segments:
    for thing in segment.things:
      found |= {('shape', thing.shape), ('colour', thing.colour), ('motion', thing.motion)}
  return found


def measure_pack(folder: pathlib.Path) -> dict[str, Any]:
  """Names of things and real frames, with the background of names.

  Args:
    folder: holds `test_frames_clip_vitb32_1fps.npz` (features `[n, H]`), `object_names.json`, their vectors
      `object_names_clip_vitb32.npy`, and `charades_sta_test.txt`, captions behind ##.
  """
  rows = unit(np.load(folder / 'test_frames_clip_vitb32_1fps.npz')['features'])
  names = json.loads(files.read_text(folder / 'object_names.json'))
  names = [re.sub(r'\(.*\)|/.*', '', name).strip().lower() for name in names]
  best = (unit(np.load(folder / 'object_names_clip_vitb32.npy')) @ rows.T).max(axis=1)
  said = ' '.join(line.partition('##')[2] for line in files.read_text(folder / 'charades_sta_test.txt').splitlines())
  counts = np.array([len(re.findall(rf'\b{re.escape(name)}s?\b', said.lower())) for name in names])
  own = {name.strip() for name in background.NAMES.split(',')}
  levels = np.sort([best[names.index(name)] for name in own])
  other = np.array([name not in own for name in names])
  there, absent = other & (counts >= _SPOKEN_OF), other & (counts == 0)
  sure = np.searchsorted(levels, best) / len(levels)
  choosing = np.arange(len(names)) % 2 == 0
  least = background.LEAST['names']
  return {
    'names': {'there': int(there.sum()), 'absent': int(absent.sum())},
    'AUC of the confidence': area(sure[there], sure[absent]),
    'AUC of the best score': area(best[there], best[absent]),
    'threshold by every other name': highest(sure[there & choosing]),
    f'below {least:.2f}, the other names': errors(sure[there & ~choosing], sure[absent & ~choosing], least),
  }


def main() -> int:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--pack', type=files.expand, required=True, help='folder of frames and names')
  print(json.dumps(measure_pack(parser.parse_args().pack), indent=2))
  return 0


if __name__ == '__main__':
  sys.exit(doors.guarded(main))
