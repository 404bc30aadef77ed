"""Says findings of one run: sections of text, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dlkd_jax.gallery.moments import LEVEL
from dlkd_jax.reporting import example_plots, plots
from dlkd_jax.reporting.bootstrap import Interval
from dlkd_jax.reporting.document import Figure, Section, Table, Text
from dlkd_jax.reporting.findings import Estimate, FusionFinding, RunFindings
from dlkd_jax.reporting.fusion import Point
from dlkd_jax.reporting.moment_accuracy import COLUMNS
from dlkd_jax.reporting.plot_style import label
from dlkd_jax.reporting.significance import Comparison
from dlkd_jax.retrieval.metrics import TEACHER, chance_metrics

_DIGITS = {'mAP': 4}
_FEW_VIDEOS = 50


def number(value: float, metric: str = '') -> str:
  """Formats a value of a metric."""
  digits = _DIGITS.get(metric, 1)
  return f'{round(value, digits) + 0.0:,.{digits}f}'  # No minus before a zero.


def interval(bounds: Interval, metric: str = '') -> str:
  """Formats an interval."""
  return f'[{number(bounds.low, metric)}, {number(bounds.high, metric)}]'


def cell(estimate: Estimate, metric: str = '') -> str:
  """Formats a value with its interval over videos."""
  return f'{number(estimate.value, metric)} {interval(estimate.videos, metric)}'


def p_value(p: float) -> str:
  """Formats a p value."""
  return '< 0.001' if p < 0.001 else f'{p:.3f}'


def comparison_table(title: str, comparisons: Sequence[Comparison]) -> Table:
  """Tabulates paired comparisons; those that stay clear after correction stand out."""
  rows = [
    (
      f'{label(x.first)} over {label(x.second)}',
      x.metric,
      f'{"+" * (x.difference > 0)}{number(x.difference, x.metric)} {interval(x.interval, x.metric)}',
      p_value(x.p),
      p_value(x.corrected),
    )
    for x in comparisons
  ]
  strong = [index for index, x in enumerate(comparisons) if x.corrected < 0.05]
  return Table(title, ('', 'metric', 'difference', 'p', 'p, corrected'), rows, strong=strong)


def run_sections(found: RunFindings, prefix: str = '') -> list[Section]:
  """Returns the sections of one run; names of figures begin with `prefix`."""
  made = [
    _results(found, prefix),
    _slices(found, prefix),
    _relevance(found),
    _moments(found, prefix),
    _fusion(found, prefix),
    _training(found, prefix),
    _examples(found, prefix),
  ]
  return [section for section in made if section is not None]


def _results(found: RunFindings, prefix: str) -> Section:
  metrics = list(found.metrics[found.primary])
  chance = chance_metrics(found.about['videos']).as_dict()
  order = [name for name in (TEACHER, *found.metrics) if name in found.metrics]
  order = list(dict.fromkeys(order))
  rows = [(label(name), *(cell(found.metrics[name][m], m) for m in metrics)) for name in order]
  rows.append(('chance', *(number(chance[m], m) for m in metrics)))
  strong = [order.index(found.primary)]
  captions = [
    (label(name), *(interval(x, m) if (x := found.metrics[name][m].captions) else '' for m in metrics))
    for name in order
  ]
  heading = ('', *(m.replace('_', ' ') for m in metrics))
  return Section(
    'Results',
    [
      Table('Retrieval, with 95% intervals over videos', heading, rows, strong=strong),
      Text(_brackets(found.about['videos']), note=True),
      Figure(
        f'{prefix}metrics',
        plots.metrics(found.metrics, f'{prefix}metrics'),
        'Recall of every scorer; bars are 95% intervals over videos.',
      ),
      Table('The same intervals over captions, each drawn by itself', heading, captions),
      Text(
        'Intervals over captions hold for these very videos; those over videos also allow for other videos, and for '
        'captions of one video being alike.',
        note=True,
      ),
      comparison_table(f'Is the {label(found.primary)} score better? Paired over captions', found.scorers),
      Text(
        'Permutation test clustered by video, two-sided, p corrected by Holm over all rows of the table; rows that '
        'stay below 0.05 are highlighted. Brackets: 95% bootstrap intervals of the difference over videos.',
        note=True,
      ),
    ],
  )


def _brackets(videos: int) -> str:
  text = 'Brackets: bootstrap, videos drawn with all their captions. Recall in percent; ranks from 1.'
  if videos < _FEW_VIDEOS:
    text += f' With {videos} videos alone, intervals over videos are rough and mostly too narrow.'
  return text


def _slices(found: RunFindings, prefix: str) -> Section:
  blocks: list[Text | Table | Figure | Section] = []
  for kind, parts in found.slices.items():
    scorers = list(parts[0].metrics)
    rows = [
      (part.label, f'{part.captions:,}', *(cell(part.metrics[name]['SumR']) for name in scorers)) for part in parts
    ]
    name = f'{prefix}slices_{kind.replace("-", "_").replace(" ", "_")}'
    inside = [
      Table(f'SumR by {kind}', (kind, 'captions', *map(label, scorers)), rows),
      Figure(name, plots.slices(kind, parts, name), f'SumR and R@10 by {kind}; bars are 95% intervals over videos.'),
    ]
    blocks.append(Section(f'By {kind}', inside))
  if 'moment-to-video ratio' not in found.slices:
    blocks.insert(0, Text('No caption of this split has an annotated moment: the moment-to-video ratio is left out.'))
  return Section('Slices', blocks)


def _relevance(found: RunFindings) -> Section | None:
  if found.relevance is None or found.relevant is None:
    return None
  metrics = list(found.relevance[found.primary])
  rows = [(label(name), *(cell(x[m], m) for m in metrics)) for name, x in found.relevance.items()]
  given, mean = found.relevant
  return Section(
    'Several relevant videos',
    [
      Table('Recall over all relevant videos', ('', *metrics), rows),
      Text(
        f'{given:,} of {found.about["captions"]:,} captions were given their relevant videos, {mean:.2f} a caption on '
        'average over all; the others have their own video alone. R@k is the share of the relevant videos among the '
        'first k, mAP the mean average precision over all of them. Brackets: 95% intervals over videos.',
        note=True,
      ),
    ],
  )


def times_text(found: RunFindings) -> str:
  """Says where the times of frames come from."""
  if found.own_times:
    return 'Frames have the times at which they were taken.'
  return (
    'The records give no times of frames, so frames are spread evenly over the duration: each stands for its share, '
    'and its time is the middle of it.'
  )


def _moments(found: RunFindings, prefix: str) -> Section:
  title = 'The right second'
  if found.moments is None or found.without_looking is None:
    return Section(
      title, [Text('No caption of this split has an annotated moment with times of frames: this part is left out.')]
    )
  rows = [(label(name), *(cell(x.every[c]) for c in COLUMNS)) for name, x in found.moments.items()]
  rows.append(('without looking', *(number(found.without_looking[c]) for c in COLUMNS)))
  first = [
    (label(name), f'{x.found_first:,}', *(cell(x.first[c]) for c in COLUMNS))
    for name, x in found.moments.items()
    if x.first is not None
  ]
  student = found.moments[found.primary]
  if student.chance_first is not None:
    without = (number(student.chance_first[c]) for c in COLUMNS)
    first.append((f'without looking, those of {label(found.primary)}', f'{student.found_first:,}', *without))
  ratios = list(student.by_ratio)
  by_ratio = [(label(name), *(cell(x.by_ratio[r][1]) for r in ratios)) for name, x in found.moments.items()]
  heading = ('moment-to-video ratio', *(f'{r}, n = {student.by_ratio[r][0]:,}' for r in ratios))
  name = f'{prefix}moments'
  return Section(
    title,
    [
      Text(
        'Does the best frame of the own video lie in the annotated moment, and does the moment found around it overlap '
        'the annotated one (R@1 at IoU 0.3, 0.5 and 0.7)? No timestamps were used in training.'
      ),
      Table(f'All {found.annotated:,} annotated captions, % over their own video', ('', *COLUMNS), rows),
      Table('Captions whose own video is ranked first by that scorer, %', ('', 'captions', *COLUMNS), first),
      Figure(
        name,
        plots.moments(found.moments, found.without_looking, name),
        'Moment accuracy; bars are 95% intervals over videos. Grey: a frame drawn at random, and the whole video taken '
        'for the moment.',
      ),
      Table('Best frame in the moment by moment-to-video ratio, %, all annotated captions', heading, by_ratio),
      Text(
        f'{times_text(found)} The moment found is the run of frames around the best one in which the smoothed curve '
        f'keeps {LEVEL:.0%} of its height over its median. Brackets: 95% intervals over videos.',
        note=True,
      ),
    ],
  )


def weights_text(point: Point) -> str:
  """Names the weights of a point."""
  return ' + '.join(f'{weight:.2f} {name}' for name, weight in point.weights.items())


def _fusion(found: RunFindings, prefix: str) -> Section:
  title, fusion = 'Fusion weights', found.fusion
  if fusion is None:
    return Section(title, [Text('There is no validation split, or one scorer alone: nothing to weigh.')])
  name = f'{prefix}fusion'
  rows = _fusion_rows(fusion)
  caveat = (
    'The report is of the very split that the weights were chosen on, so their gain is flattered.'
    if fusion.split == found.about['split']
    else f'Weights were chosen by SumR on {fusion.split} alone; {found.about["split"]} was ranked once by each choice.'
  )
  p = '; '.join(
    f'{x.first} over configured: {x.difference:+.1f} {interval(x.interval)}, p {p_value(x.p)}, corrected '
    f'{p_value(x.corrected)}'
    for x in fusion.comparisons
  )
  return Section(
    title,
    [
      Text(
        f'score = (1 - t) · (a · {fusion.first} + (1 - a) · the other branches) + t · teacher, of cosines as they are. '
        'Without the teacher a goes in steps of 0.05, with it a and t in steps of 0.1.'
      ),
      Figure(name, plots.fusion(fusion, name), f'SumR on {fusion.split} by the weights.'),
      Table(
        f'What the weights give on {found.about["split"]}',
        ('', 'weights', f'SumR on {fusion.split}', 'R@1', 'R@10', 'SumR', 'mAP'),
        rows,
        text=(1,),
      ),
      Text(f'{caveat} Paired differences of SumR on {found.about["split"]}: {p}.', note=True),
    ],
  )


def _fusion_rows(fusion: FusionFinding) -> list[tuple[str, ...]]:
  names = {
    'configured': ('as configured', fusion.configured),
    'chosen': ('best without the teacher', fusion.chosen),
    'blended': ('best with the teacher', fusion.blended),
  }
  rows = []
  for key, results in fusion.results.items():
    text, point = names[key]
    if point is not None:
      shown = (cell(results[m], m) for m in ('R@1', 'R@10', 'SumR', 'mAP'))
      rows.append((text, weights_text(point), number(point.metrics.sum_r), *shown))
  return rows


def _training(found: RunFindings, prefix: str) -> Section:
  if found.log is None:
    return Section('Training', [Text('The folder holds no log of a finished epoch: no curves.')])
  name = f'{prefix}training'
  return Section(
    'Training',
    [
      Text(f'Epoch {found.about["epoch"]} of {found.about["epochs"]}, the best by SumR on validation, is evaluated.'),
      Figure(
        name,
        plots.training(found.log, found.about['epoch'], name),
        'Above: losses, means since the record before. Middle: SumR on validation. Below: w, the weight of the '
        'distillation; alpha, the share of hard labels; beta, the one-hot part of soft labels.',
      ),
    ],
  )


def _examples(found: RunFindings, prefix: str) -> Section:
  blocks: list[Text | Table | Figure | Section] = [
    Text(
      'Best: ranked first, by the largest margin over the best wrong video. Worst: by the highest rank of the own '
      'video; beside it the video ranked first instead. One caption a video. The annotated moment is shaded.'
    )
  ]
  for kind in ('best', 'worst'):
    figures: list[Text | Table | Figure | Section] = []
    for number_, query in enumerate((x for x in found.examples if x.kind == kind), 1):
      name = f'{prefix}{kind}_{number_}'
      ranks = ', '.join(f'{label(scorer)} {rank:,}' for scorer, rank in query.ranks.items())
      caption = f'“{query.text}” ({query.caption_id}). Rank of the own video: {ranks}.'
      figures.append(Figure(name, example_plots.example(query, found.primary, name), caption))
    if figures:
      blocks.append(Section(f'{kind.capitalize()} queries', figures))
  return Section('Queries', blocks)


def headline(found: RunFindings) -> list[Text]:
  """Says the result in a few sentences."""
  about, student = found.about, found.metrics[found.primary]
  text = (
    f'{about["dataset"]}, {about["split"]}: {about["captions"]:,} captions, {about["videos"]:,} videos. The student '
    f'({label(found.primary)}) reaches SumR {cell(student["SumR"])}, R@1 {cell(student["R@1"])}, R@10 '
    f'{cell(student["R@10"])}, median rank {cell(student["median_rank"])}'
  )
  if TEACHER in found.metrics:
    text += f'; the teacher alone SumR {cell(found.metrics[TEACHER]["SumR"])}'
  parts = [Text(text + '.')]
  if found.moments is not None:
    parts.append(Text(_moment_sentence(found.moments, found.primary)))
  return parts


def _moment_sentence(moments: Mapping, primary: str) -> str:
  def percent(estimate: Estimate) -> str:
    return f'{number(estimate.value)}% {interval(estimate.videos)}'

  def said(name: str) -> str:
    x = moments[name]
    first = f', and {percent(x.first[COLUMNS[0]])} of the {x.found_first:,} it ranks first' if x.first else ''
    return f'{percent(x.every[COLUMNS[0]])} of all annotated captions{first}'

  text = f'Its best frame lies in the annotated moment for {said(primary)}'
  return text + (f'; that of the teacher alone for {said(TEACHER)}.' if TEACHER in moments else '.')
