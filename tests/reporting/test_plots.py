"""Every plot is drawn, as an element that refers to nothing else and whose text can be read."""

import re

import numpy as np
import pytest

from dlkd_jax.reporting import example_plots, examples, fusion, plot_style, plots
from dlkd_jax.reporting.bootstrap import Interval
from dlkd_jax.reporting.findings import Estimate, FusionFinding, MomentFinding, SliceFinding
from dlkd_jax.reporting.moment_accuracy import COLUMNS
from dlkd_jax.reporting.training_log import TrainingLog
from tests.reporting import worlds
from tests.reporting.test_document import assert_self_contained

SCORERS = ('inheritance', 'exploration', 'fused', 'teacher')


def estimate(value):
  return Estimate(value, Interval(value - 2, value + 2))


def svg_of(kind, data):
  if kind == 'metrics':
    return plots.metrics({x: {m: estimate(9.0) for m in ('R@1', 'R@10', 'R@100', 'SumR')} for x in SCORERS}, 'n')
  if kind == 'slices':
    metrics = {x: {m: estimate(9.0) for m in ('R@10', 'SumR')} for x in SCORERS}
    return plots.slices('caption length', [SliceFinding('2 to 4 words', 5, metrics)] * 3, 'n')
  if kind == 'moments':
    one = MomentFinding({c: estimate(50.0) for c in COLUMNS}, {c: estimate(60.0) for c in COLUMNS}, 3, None, {})
    none = MomentFinding(one.every, None, 0, None, {})
    return plots.moments({'fused': one, 'teacher': none}, dict.fromkeys(COLUMNS, 20.0), 'n')
  if kind == 'training':
    series = np.array([[1.0, 3.0], [2.0, 2.0]])
    return plots.training(TrainingLog({'total': series}, {'w': series / 4}, {'fused': series}), 2, 'n')
  chosen = {'worst': [int(np.argmax(data.ranks['fused']))]}
  (query,) = examples.describe(data, 'fused', chosen, worlds.curves(data, examples.pairs_of(data, 'fused', chosen)))
  return example_plots.example(query, 'fused', 'n')


@pytest.mark.parametrize(
  ('kind', 'words'),
  [
    ('metrics', ('R@100', '% of captions', 'teacher alone')),
    ('slices', ('2 to 4 words', 'n = 5', 'caption length', 'SumR')),
    ('moments', ('best frame', 'without looking', '% of captions')),
    ('training', ('SumR on validation', 'coefficient', 'epochs of training', 'w')),
    ('example', ('seconds', 'annotated moment', 'best frame', 'ranked first: v')),
  ],
)
def test_plot(kind, words):
  svg = svg_of(kind, worlds.split())
  assert_self_contained(svg)
  text = ' '.join(re.findall(r'>([^<>]+)</(?:text|tspan)>', svg))
  for word in words:
    assert word in text, (word, text)
  sizes = [float(size) for size in re.findall(r'font(?:-size)?: ([\d.]+)px', svg)]
  assert min(sizes) >= 9  # Points at 100%; 12 pixels.


@pytest.mark.parametrize(
  'scorers', [('inheritance', 'exploration', 'teacher'), ('inheritance', 'exploration'), ('inheritance', 'teacher')]
)
def test_fusion_plots(scorers):
  data = worlds.split(scorers=scorers)
  points = fusion.sweep(data.scores, data.own)
  best = fusion.best(points, teacher=True) if 'teacher' in scorers else None
  found = FusionFinding('val', points, points[0], fusion.best(points, teacher=False), best, {}, [])
  svg = plots.fusion(found, 'n')
  assert 'SumR on val' in svg
  assert_self_contained(re.sub(r'<image [^>]*>', '', svg))
  for image in re.findall(r'<image [^>]*>', svg):
    assert 'href="data:image/png;base64,' in image


def test_the_same_plot_is_the_same_file():
  assert svg_of('metrics', None) == svg_of('metrics', None)


def test_colours_differ_in_lightness_too():
  """In grey, neighbours of a legend must not be alike; lines and markers differ besides."""
  looks = list(plot_style.LOOKS.values())
  assert len({line for _, line, _ in looks}) == len({marker for _, _, marker in looks}) == len(looks)
