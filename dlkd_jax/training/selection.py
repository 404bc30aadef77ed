"""What an anchored student starts from and what is kept of it: chosen on captions of videos that no fit has seen.

The criterion is the likelihood of the own video, −log softmax over the gallery of Σ_b β_b s_b, with s_b the cosines of
the branches as a search adds them up and β ≥ 0 fitted: it is smoother than ranks, which few captions decide by chance.
The best β, divided by their sum, are the weights of the branches.

Where the captions of validation are few, five folds of the training's videos are ranked with them. A setting gives way
to a simpler one within one standard error. What costs more takes the place of what costs less only where a bootstrap
over videos says that it gains: the 10 % quantile of its gain is above 0.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dlkd_jax.models import anchors
from dlkd_jax.models.anchors import TEACHER, Anchor, AnchorSettings, Corpus, groups

MANY_CAPTIONS = 2000  # From here validation is enough by itself.
FOLDS = 5
_QUANTILE, _DRAWS = 0.1, 2000
_FEWEST_VIDEOS = 4  # With fewer a bootstrap says nothing.
_ROUNDING = 1e-5  # In nats; a gain of less is none.

# Of each branch, field → values to try, the simplest first; one field after another, the others as they stand.
_CANDIDATES = {
  'inheritance': {'ridge': (30.0, 10.0, 3.0, 1.0), 'power': (0.0, 0.25, 0.5)},
  'exploration': {'floor': (0.15, 0.05, 0.015), 'rounds': (0, 1, 3), 'ridge': (30.0, 10.0, 3.0)},
  'teacher_inheritance': {'power': (0.0, 0.25, 0.5)},
  'teacher_exploration': {'floor': (0.15, 0.05, 0.015), 'rounds': (0, 1, 3), 'ridge': (30.0, 10.0, 3.0)},
}


class Ranking(NamedTuple):
  """Captions that were scored over a gallery."""

  scores: Mapping[str, np.ndarray]  # Scorer → `[n, V]` cosines.
  owners: np.ndarray  # `[n]` own video of each caption.

  def of(self, rows: np.ndarray) -> Ranking:
    """Returns some of the captions, over the same gallery."""
    return Ranking({name: each[rows] for name, each in self.scores.items()}, self.owners[rows])

  def parts(self, count: int) -> list[Ranking]:
    """Deals the captions out, video by video, to so many parts; fewer where there are fewer videos."""
    videos = np.unique(self.owners)
    part = np.searchsorted(videos, self.owners) % count
    return [self.of(np.flatnonzero(part == number)) for number in range(min(count, len(videos)))]


def videos_of(rankings: Sequence[Ranking]) -> np.ndarray:
  """Returns `[N]`, a number of each caption's video; those of different galleries differ."""
  most = 1 + max(int(ranking.owners.max(initial=0)) for ranking in rankings)
  return np.concatenate([most * i + ranking.owners for i, ranking in enumerate(rankings)])


def likelihood(betas: np.ndarray, leads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns `[n]` losses −log softmax of the own video, and `[k]` the gradient of their sum.

  Of factors `[k]` and leads `[k, n, V]`, how far the cosines of each scorer lie above that of the own video.
  """
  logits = np.tensordot(betas.astype(leads.dtype), leads, 1)
  top = logits.max(axis=1, keepdims=True)
  shares = np.exp(logits - top)
  total = shares.sum(axis=1, keepdims=True)
  gradient = np.einsum('nv,knv->k', shares / total, leads)
  return (np.log(total) + top)[:, 0].astype(float), gradient.astype(float)


def _leads(ranking: Ranking, names: Sequence[str]) -> np.ndarray:
  own = np.arange(len(ranking.owners)), ranking.owners
  return np.stack([(x - x[own][:, None]).astype(np.float32) for x in (ranking.scores[name] for name in names)])


def best_betas(rankings: Sequence[Ranking], names: Sequence[str]) -> np.ndarray:
  """Returns `[k]` factors β ≥ 0 of some scorers, those of the greatest likelihood; the problem is convex."""
  import scipy.optimize  # A fifth of the time that all of a training takes to import, and few trainings need it.

  leads = [_leads(ranking, names) for ranking in rankings]
  count = sum(each.shape[1] for each in leads)
  # In units of the scores' deviations all factors are of one size.
  units = 1.0 / np.maximum(np.mean([each.std(axis=2).mean(axis=1) for each in leads], axis=0), 1e-6)

  def objective(factors: np.ndarray) -> tuple[float, np.ndarray]:
    found = [likelihood(factors * units, each) for each in leads]
    return sum(x.sum() for x, _ in found) / count, sum(x for _, x in found) * units / count

  start = np.full(len(names), 1.0 / len(names))
  bounds = [(0.0, None)] * len(names)
  return scipy.optimize.minimize(objective, start, jac=True, method='L-BFGS-B', bounds=bounds).x * units


def losses_of(betas: np.ndarray, rankings: Sequence[Ranking], names: Sequence[str]) -> np.ndarray:
  """Returns `[N]`, the loss of every caption, in nats."""
  return np.concatenate([likelihood(betas, _leads(ranking, names))[0] for ranking in rankings])


def surprise(rankings: Sequence[Ranking], weights: Mapping[str, float]) -> np.ndarray:
  """Returns `[N]` losses of the scores that a search with these weights has, at the best temperature."""
  added = fused(rankings, weights)
  return losses_of(best_betas(added, ['']), added, [''])


def fused(rankings: Sequence[Ranking], weights: Mapping[str, float]) -> list[Ranking]:
  """Returns the captions with one scorer, '': the weighted sum."""
  used = {name: weight for name, weight in weights.items() if weight}
  return [Ranking({'': sum(w * each.scores[name] for name, w in used.items())}, each.owners) for each in rankings]


def cross_fitted(rankings: Sequence[Ranking], names: Sequence[str]) -> np.ndarray:
  """Returns `[N]` losses of scorers, the captions of each part by factors that were fitted on the other parts."""
  if len(rankings) < 2:
    return losses_of(best_betas(rankings, names), rankings, names)
  found = []
  for number, ranking in enumerate(rankings):
    others = [*rankings[:number], *rankings[number + 1 :]]
    found.append(losses_of(best_betas(others, names), [ranking], names))
  return np.concatenate(found)


def best_weights(rankings: Sequence[Ranking], names: Sequence[str]) -> dict[str, float]:
  """Returns the weights of scorers, which add up to 1, of the greatest likelihood."""
  betas = best_betas(rankings, names)
  shares = betas / betas.sum() if betas.sum() > 0 else np.full(len(names), 1.0 / len(names))
  return {name: round(float(share), 4) for name, share in zip(names, shares, strict=True)}


def simplest_of_the_best(losses: np.ndarray, videos: np.ndarray) -> int:
  """Returns the first candidate whose mean loss is above the best's by no more than one standard error of both paired.

  Of losses `[C, N]`, the simplest candidate first, and videos `[N]`; captions of one are not taken for independent.
  """
  best = int(np.argmin(losses.mean(axis=1)))
  for candidate in range(best):
    difference = losses[candidate] - losses[best]
    sums = np.array([np.sum(difference[own] - difference.mean()) for own in groups(videos)])
    if difference.mean() <= np.sqrt(np.sum(sums**2)) / len(difference):
      return candidate
  return best


def gain(before: np.ndarray, after: np.ndarray, videos: np.ndarray) -> float:
  """Returns the 10 % quantile of the mean gain `before − after` over draws of the videos; −∞ where they are too few."""
  names, places = np.unique(videos, return_inverse=True)
  if len(names) < _FEWEST_VIDEOS:
    return -np.inf
  sums, counts = np.bincount(places, before - after), np.bincount(places)
  draws = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1.0 / len(names)), _DRAWS)
  return float(np.quantile((draws @ sums) / (draws @ counts), _QUANTILE))


def prefer(losses: Mapping[str, np.ndarray], videos: np.ndarray) -> tuple[str, str]:
  """Returns which candidate to take, and why, in words.

  Of candidate → `[N]` losses, what costs least first. It is taken until one after it gains on it (`gain` above 0).
  """
  taken, *others = losses
  said = [f'{taken} {losses[taken].mean():.3f} nats']
  for other in others:
    found = gain(losses[taken], losses[other], videos)
    said.append(f'{other} {losses[other].mean():.3f} (gain at 10 %: {found:+.3f} on {taken})')
    taken = other if found > _ROUNDING else taken
  return taken, '; '.join(said)


def subsets(branches: Sequence[str]) -> dict[str, tuple[str, ...]]:
  """Returns which branches to try together, what costs less in a search first: name → branches."""
  own = tuple(name for name in branches if not name.startswith(TEACHER))
  sets = [('teacher_inheritance',), ('inheritance',), ('exploration',), own, tuple(branches)]
  found = dict.fromkeys(each for each in sets if each and {*each} <= {*branches})
  return {'+'.join(each): each for each in found}


class Choice(NamedTuple):
  """What was chosen for each branch on held-out videos."""

  anchors: dict[str, Anchor]  # Fitted on the training.
  settings: dict[str, AnchorSettings]
  weights: dict[str, float]  # Of the branch's cosine in the fused score; they add up to 1.
  losses: dict[str, float]  # Mean loss of the branch alone on the held-out captions, in nats.
  reason: str  # Of the weights, in words.


def choose(training: Corpus, validation: Corpus, branches: Sequence[str], size: int) -> Choice:
  """Fits anchors of at most so many dimensions on the training, by what ranks held-out captions best."""
  parts = held_out(training, validation)
  settings, found = {}, [{} for _ in parts]
  for branch in branches:
    settings[branch], scored = _best_settings(parts, branch, AnchorSettings(size=size))
    for scores, each in zip(found, scored, strict=True):
      scores[branch] = each
  rankings = [Ranking(scores, part.owners) for scores, (_, part) in zip(found, parts, strict=True)]
  if len(rankings) == 1:
    rankings = rankings[0].parts(2)
  sets = subsets(branches)
  losses = {name: cross_fitted(rankings, each) for name, each in sets.items()}
  taken, reason = prefer(losses, videos_of(rankings))
  weights = dict.fromkeys(branches, 0.0) | best_weights(rankings, sets[taken])
  alone = {branch: float(surprise(rankings, {branch: 1.0}).mean()) for branch in branches}
  fitted = {branch: anchors.fit(branch, training, settings[branch]) for branch in branches}
  anchors.whitened.cache_clear()
  return Choice(fitted, settings, weights, alone, f'prefer {taken}: {reason}')


def held_out(training: Corpus, validation: Corpus) -> list[tuple[Corpus, Corpus]]:
  """Returns pairs of what to fit on and what to rank: the training and validation.

  Where validation has few captions: five times the training without a fifth of its videos, and that with one of
  validation.
  """
  if len(validation.owners) >= MANY_CAPTIONS:
    return [(training, validation)]
  count = min(FOLDS, len(np.unique(training.owners)))
  folds, more = _fifths(training, count), _fifths(validation, count)
  every = np.arange(len(training.counts))
  rest = [np.setdiff1d(every, fold) for fold in folds]
  return [
    (training.of(others), training.of(fold).joined(validation.of(own)) if len(own) else training.of(fold))
    for others, fold, own in zip(rest, folds, more, strict=True)
  ]


def _fifths(corpus: Corpus, count: int) -> list[np.ndarray]:
  """Deals out the videos at random: to each of so many parts its share of those with captions and of those without."""
  order = np.random.default_rng(0).permutation(len(corpus.counts))
  order = order[np.argsort(~np.isin(order, corpus.owners), kind='stable')]
  return [np.sort(order[k::count]) for k in range(count)]


def _best_settings(parts: Sequence, branch: str, now: AnchorSettings) -> tuple[AnchorSettings, list[np.ndarray]]:
  """Returns the settings of a branch, and its scores of every part."""

  @functools.cache
  def attempt(settings: AnchorSettings) -> list[Ranking]:
    fitted = [anchors.fit(branch, own, settings) for own, _ in parts]
    scores = [anchors.scores(branch, anchor, part) for anchor, (_, part) in zip(fitted, parts, strict=True)]
    return [Ranking({branch: x.astype(np.float32)}, y.owners) for x, (_, y) in zip(scores, parts, strict=True)]

  for field, values in _CANDIDATES[branch].items():
    candidates = [now._replace(**{field: value}) for value in values]
    losses = np.stack([surprise(attempt(each), {branch: 1.0}) for each in candidates])
    now = candidates[simplest_of_the_best(losses, videos_of(attempt(candidates[0])))]
  return now, [ranking.scores[branch] for ranking in attempt(now)]
