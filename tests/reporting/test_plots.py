"""Every plot is drawn, as an element that refers to nothing else and whose text can be read."""

import dataclasses
import re
import types
import warnings
import xml.etree.ElementTree

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

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


def svg_of(kind, data, changed=lambda query: query):
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
  return example_plots.example(changed(query), 'fused', 'n')


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
  points = fusion.sweep(data.scores, data.own, data.weights)
  best = fusion.best(points, teacher=True) if 'teacher' in scorers else None
  found = FusionFinding('val', 'inheritance', points, points[0], fusion.best(points, teacher=False), best, {}, [])
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


ODD = (
  '$',
  '$x$',
  r'\frac{',
  r'$\nothing{',
  'a$b_$c^',
  '%',
  '{}',
  '\n',
  '日本',
  '\0',
  '\ud800',
  ' id="x"',
  'url(#x)',
  '_',
  '<b>&amp;',
  '\\',
)
TEXTS = st.one_of(st.text(max_size=20), st.lists(st.sampled_from(ODD), max_size=3).map(''.join))


def words(svg):
  """The texts of a picture, as a parser of XML reads them."""
  found = xml.etree.ElementTree.fromstring(svg.replace('<svg ', '<svg xmlns:xlink="x" ', 1))
  return [''.join(element.itertext()) for element in found.iter() if element.tag.endswith(('text', 'desc'))], found


def plain(text):
  """What of a text can be seen, in one line."""
  return ' '.join(
    re.sub('[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff\x0b\x0c\x1c-\x1f]', '\ufffd', text).split()
  )


@pytest.mark.slow
@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(texts=st.lists(TEXTS, min_size=5, max_size=5))
def test_no_text_of_the_data_is_a_formula(texts):
  assert_shown(texts)


def test_dollars_and_their_like_are_shown():
  assert_shown(['cash$in_$hand.mp4', r'$\nothing{', '日本 {} 50%', ' id="x" url(#x) \ud800\0', 'a\n$b^$<b>&amp;'])


def assert_shown(texts):
  """Ids, captions, names of runs and of slices are shown as they are, and never end a report; nothing is warned of."""
  first, second, kind, caption, part = texts
  data = worlds.split()
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    found = svg_of(
      'example',
      data,
      lambda query: dataclasses.replace(
        query,
        text=caption,
        own=dataclasses.replace(query.own, video_id=first),
        first=dataclasses.replace(query.own, video_id=second),
      ),
    )
    metrics = {x: {m: estimate(9.0) for m in ('R@1', 'R@10', 'SumR')} for x in SCORERS}
    runs = [types.SimpleNamespace(name=name, metrics=metrics, primary='fused') for name in (first, second)]
    of_runs = plots.runs(runs, 'n')
    pair = types.SimpleNamespace(
      metric='SumR', interval=(0.0, 2.0), difference=1.0, corrected=0.5, first=first, second=second
    )
    of_pairs = plots.differences(types.SimpleNamespace(of_groups=[], runs=[pair]), 'n')
    of_slices = plots.slices(kind, [SliceFinding(part, 5, metrics)], 'n')
  shown, root = words(found)
  assert f'own video {plain(first)}, rank' in ' '.join(shown) and f'ranked first: {plain(second)}'.rstrip() in [
    x.rstrip() for x in shown
  ]
  assert ' '.join(root.get('aria-label').split()) == ' '.join(f'Frame curves of the query: {plain(caption)}'.split())
  for svg, expected in (
    (of_runs, [first, second]),
    (of_pairs, [f'{plain(first)} over {plain(second)}']),
    (of_slices, [part, kind]),
  ):
    seen = [' '.join(one.split()) for one in words(svg)[0]]
    for text in expected:
      assert not plain(text) or plain(text) in seen, (text, seen)


def test_long_names_are_cut():
  metrics = {x: {m: estimate(9.0) for m in ('R@1', 'R@10', 'SumR')} for x in SCORERS}
  svg = plots.runs([types.SimpleNamespace(name='x' * 3000, metrics=metrics, primary='fused')], 'n')
  assert 'x' * 59 + '…' in svg and 'x' * 60 not in svg
