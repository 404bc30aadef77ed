"""The report's plots; each function returns an `<svg>` element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from dlkd_jax.reporting.comparison import RunComparison
from dlkd_jax.reporting.findings import Estimates, FusionFinding, MomentFinding, RunFindings, SliceFinding
from dlkd_jax.reporting.moment_accuracy import COLUMNS
from dlkd_jax.reporting.plot_style import DASHES, INK, PALE, SERIES, WIDTH, label, look, shown, style, to_svg
from dlkd_jax.reporting.training_log import TrainingLog


def _with_interval(axes, x: float, y: float, low: float, high: float, scorer: str, across: bool = False) -> None:
  """Marks a value and its interval, along y, or along x where `across`."""
  colour, _, marker = look(scorer)
  error = [[max(y - low, 0.0)], [max(high - y, 0.0)]]
  place, errors = ((y, x), {'xerr': error}) if across else ((x, y), {'yerr': error})
  axes.errorbar(*place, **errors, fmt=marker, color=colour, capsize=4, markersize=6, elinewidth=1.6)


def metrics(estimates: Estimates, name: str) -> str:
  """Draws R@1, R@10, R@100 and SumR of every scorer with intervals over videos."""
  scorers = list(estimates)[::-1]
  with style():
    figure = Figure(figsize=(WIDTH, 1.1 + 0.42 * len(scorers)), layout='constrained')
    for axes, metric in zip(figure.subplots(1, 4, sharey=True), ('R@1', 'R@10', 'R@100', 'SumR'), strict=True):
      for place, scorer in enumerate(scorers):
        estimate = estimates[scorer][metric]
        _with_interval(axes, place, estimate.value, *estimate.videos, scorer, across=True)
      axes.set_yticks(range(len(scorers)), [label(x) for x in scorers])
      axes.set_ylim(-0.6, len(scorers) - 0.4)
      axes.set_title(metric)
      _across(axes, metric)
    return to_svg(figure, name, 'Recall of every scorer with 95% intervals')


def _across(axes, metric: str) -> None:
  """Labels an axis of a metric that runs across."""
  most = 400 if metric == 'SumR' else 100
  axes.set_xlabel('sum of percents' if metric == 'SumR' else '% of captions')
  low, high = axes.get_xlim()
  axes.set_xlim(max(low, -0.02 * most), min(high, 1.02 * most))
  axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=(1, 2, 5, 10)))
  axes.xaxis.set_major_formatter('{x:g}')
  axes.grid(axis='y', visible=False)


def slices(kind: str, parts: Sequence[SliceFinding], name: str) -> str:
  """Draws SumR and R@10 by the parts of one kind of slice, every scorer."""
  with style():
    figure = Figure(figsize=(WIDTH, 3.1), layout='constrained')
    scorers = list(parts[0].metrics)
    offsets = np.linspace(-0.21, 0.21, len(scorers)) if len(scorers) > 1 else [0.0]
    for axes, metric in zip(figure.subplots(1, 2), ('SumR', 'R@10'), strict=True):
      for scorer, offset in zip(scorers, offsets, strict=True):
        estimates = [part.metrics[scorer][metric] for part in parts]
        colour, line, _ = look(scorer)
        x = np.arange(len(parts)) + offset
        axes.plot(x, [e.value for e in estimates], linestyle=line, color=colour, linewidth=1.0, alpha=0.7)
        for place, e in zip(x, estimates, strict=True):
          _with_interval(axes, place, e.value, *e.videos, scorer)
      axes.set_xticks(range(len(parts)), [f'{shown(part.label)}\nn = {part.captions:,}' for part in parts])
      axes.set_xlim(-0.5, len(parts) - 0.5)
      axes.set_ylim(bottom=0)
      axes.set_xlabel(shown(kind))
      axes.set_ylabel('SumR' if metric == 'SumR' else 'R@10 (% of captions)')
      axes.grid(axis='x', visible=False)
    _legend(figure, scorers)
    return to_svg(figure, name, f'Retrieval by {kind}')


def _legend(figure: Figure, scorers: Sequence[str]) -> None:
  """Puts the scorers' legend below the plots."""
  lines = []
  for scorer in scorers:
    colour, line, marker = look(scorer)
    lines.append(Line2D([], [], color=colour, linestyle=line, marker=marker, label=label(scorer)))
  figure.legend(handles=lines, loc='outside lower center', ncols=len(lines), handlelength=3)


def moments(found: Mapping[str, MomentFinding], without: Mapping[str, float], name: str) -> str:
  """Draws how often the best frame lies in the moment, and R@1 by IoU: all captions, and those ranked first."""
  scorers = list(found)
  with style():
    figure = Figure(figsize=(WIDTH, 3.7), layout='constrained')
    panels = figure.subplots(1, 2, sharey=True)
    offsets = np.linspace(-0.27, 0.27, len(scorers)) if len(scorers) > 1 else [0.0]
    for axes, title in zip(panels, ('all annotated captions', 'own video ranked first (by each scorer)'), strict=True):
      first = axes is panels[1]
      for scorer, offset in zip(scorers, offsets, strict=True):
        estimates = found[scorer].first if first else found[scorer].every
        for place, column in enumerate(COLUMNS):
          if estimates is not None:
            e = estimates[column]
            _with_interval(axes, place + offset, e.value, *e.videos, scorer)
      if not first:
        for place, column in enumerate(COLUMNS):
          axes.hlines(without[column], place - 0.38, place + 0.38, color=PALE, linewidth=2.5)
        axes.plot([], [], color=PALE, linewidth=2.5, label='without looking')
        axes.legend(loc='upper right')
        axes.set_ylabel('% of captions')
      axes.set_xticks(range(len(COLUMNS)), ['best frame\nin moment', *(x.replace('IoU', 'IoU\n') for x in COLUMNS[1:])])
      axes.set_xlim(-0.5, len(COLUMNS) - 0.5)
      axes.set_ylim(0, 100)
      axes.set_title(title)
      axes.grid(axis='x', visible=False)
    _legend(figure, scorers)
    return to_svg(figure, name, 'Moment accuracy of every scorer')


def fusion(found: FusionFinding, name: str) -> str:
  """Draws SumR on validation by the share of the first branch, and over both weights where there is a teacher."""
  line = [point for point in found.points if point.teacher == 0.0]
  blended = [point for point in found.points if point.teacher > 0.0]
  several = len({point.share for point in found.points}) > 1
  with style():
    figure = Figure(figsize=(WIDTH, 3.8), layout='constrained')
    if not several:
      _blend_line(figure.subplots(), found)
    elif not blended:
      _share_line(figure.subplots(), found, line)
    else:
      left, right = figure.subplots(1, 2, width_ratios=(1, 1.05))
      _share_line(left, found, line)
      _heatmap(figure, right, found)
    return to_svg(figure, name, 'SumR on validation by fusion weights')


def _share_line(axes, found: FusionFinding, line) -> None:
  x, y = zip(*((point.share, point.metrics.sum_r) for point in line), strict=True)
  axes.plot(x, y, color=SERIES[0], linewidth=1.8)
  for point, marker, text in ((found.configured, 'o', 'configured'), (found.chosen, '*', 'best')):
    sum_r, size = point.metrics.sum_r, 12 if marker == '*' else 7
    named = f'{text}: a = {point.share:.2f}, SumR {sum_r:.1f}'
    axes.plot(point.share, sum_r, marker, color=SERIES[1], markersize=size, markeredgecolor=INK, label=named)
  axes.set_xlabel(f'a, share of {found.first}')
  axes.set_ylabel(f'SumR on {shown(found.split)}')
  axes.set_title('the branches, without the teacher')
  low, high = min(y), max(y)
  axes.set_ylim(low - 0.35 * (high - low) - 0.5, high + 0.08 * (high - low) + 0.5)
  axes.legend(loc='lower center')


def _blend_line(axes, found: FusionFinding) -> None:
  """One branch: SumR by the teacher's weight alone."""
  points = sorted(found.points, key=lambda point: point.teacher)
  axes.plot([p.teacher for p in points], [p.metrics.sum_r for p in points], '-o', color=SERIES[0])
  best = found.blended or found.chosen
  named = f'best: t = {best.teacher:.1f}, SumR {best.metrics.sum_r:.1f}'
  axes.plot(best.teacher, best.metrics.sum_r, '*', color=SERIES[1], markersize=13, markeredgecolor=INK, label=named)
  axes.set_xlabel(f"t, the teacher's weight (the rest {found.first})")
  axes.set_ylabel(f'SumR on {shown(found.split)}')
  axes.legend()


def _heatmap(figure: Figure, axes, found: FusionFinding) -> None:
  shares = sorted({p.share for p in found.points if p.teacher > 0.0 and p.teacher < 1.0})
  weights = sorted({p.teacher for p in found.points})
  value = {(p.share, p.teacher): p.metrics.sum_r for p in found.points}
  alone = next(p.metrics.sum_r for p in found.points if p.teacher == 1.0)
  table = np.array([[value.get((a, t), alone) for a in shares] for t in weights])
  step = shares[1] - shares[0]
  extent = (shares[0] - step / 2, shares[-1] + step / 2, -step / 2, 1 + step / 2)
  picture = axes.imshow(table, origin='lower', extent=extent, aspect='auto', cmap='cividis')
  figure.colorbar(picture, ax=axes, label=f'SumR on {shown(found.split)}')
  best = found.blended or found.chosen
  axes.plot(best.share, best.teacher, '*', color='white', markersize=15, markeredgecolor='black')
  axes.set_xlabel(f'a, share of {found.first}')
  axes.set_ylabel("t, the teacher's weight")
  axes.set_title(f'blended; ★ best: a = {best.share:.1f}, t = {best.teacher:.1f}, SumR {best.metrics.sum_r:.1f}')
  axes.grid(visible=False)


def training(log: TrainingLog, best_epoch: int, name: str) -> str:
  """Draws losses, SumR on validation and the coefficients below one another, over the epochs."""
  with style():
    figure = Figure(figsize=(WIDTH, 7.6), layout='constrained')
    losses, validation, coefficients = figure.subplots(3, 1, sharex=True, height_ratios=(1.15, 1, 0.8))
    for (text, series), colour, dash in zip(log.losses.items(), SERIES, DASHES, strict=False):
      losses.plot(series[:, 0], series[:, 1], color=colour, linestyle=dash, linewidth=1.7, label=text)
    losses.set_yscale('log')
    losses.yaxis.set_major_formatter('{x:g}')
    every = np.concatenate([series[:, 1] for series in log.losses.values()])
    # Within a decade powers of ten alone would label nothing.
    losses.yaxis.set_minor_formatter('{x:g}' if every.max() < 10 * every.min() else NullFormatter())
    losses.set_ylabel('loss, as it is summed\n(logarithmic)')
    for scorer, series in log.validation.items():
      colour, dash, marker = look(scorer)
      validation.plot(
        series[:, 0], series[:, 1], color=colour, linestyle=dash, marker=marker, markersize=4.5, label=label(scorer)
      )
    validation.set_ylabel('SumR on validation')
    for (text, series), colour, dash in zip(log.coefficients.items(), SERIES, DASHES, strict=False):
      coefficients.plot(series[:, 0], series[:, 1], color=colour, linestyle=dash, linewidth=2, label=text)
    coefficients.set_ylim(0, 1.05)
    coefficients.set_ylabel('coefficient')
    coefficients.set_xlabel('epochs of training')
    coefficients.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (losses, validation, coefficients):
      if best_epoch:
        axes.axvline(best_epoch, color=PALE, linewidth=1.2, linestyle=':')
      axes.legend(loc='center left', bbox_to_anchor=(1.01, 0.5))
    if best_epoch:
      validation.set_title(f'dotted line: epoch {best_epoch}, the best, which is evaluated', fontsize=9.5, loc='left')
    return to_svg(figure, name, 'Losses, validation and coefficients over the epochs')


def runs(findings: Sequence[RunFindings], name: str) -> str:
  """Draws SumR and R@1 of the student of every run, and the teacher alone, with intervals over videos."""
  names = [shown(found.name) for found in findings][::-1]
  with style():
    figure = Figure(figsize=(WIDTH, 1.3 + 0.4 * len(names)), layout='constrained')
    for axes, metric in zip(figure.subplots(1, 3, sharey=True), ('R@1', 'R@10', 'SumR'), strict=True):
      for place, found in enumerate(reversed(findings)):
        estimate = found.metrics[found.primary][metric]
        _with_interval(axes, place, estimate.value, *estimate.videos, found.primary, across=True)
      teacher = findings[0].metrics.get('teacher')
      if teacher is not None:
        colour, dash, _ = look('teacher')
        axes.axvline(teacher[metric].value, color=colour, linestyle=dash, linewidth=2, label='teacher alone')
      axes.set_yticks(range(len(names)), names)
      axes.set_ylim(-0.6, len(names) - 0.4)
      axes.set_title(metric)
      _across(axes, metric)
    if findings[0].metrics.get('teacher') is not None:
      _legend(figure, ('teacher',))
    return to_svg(figure, name, 'Every run with 95% intervals')


def differences(found: RunComparison, name: str) -> str:
  """Draws the paired differences of SumR of all pairs with their intervals."""
  pairs = [x for x in [*found.of_groups, *found.runs] if x.metric == 'SumR'][::-1]
  with style():
    figure = Figure(figsize=(WIDTH, 1.1 + 0.36 * len(pairs)), layout='constrained')
    axes = figure.subplots()
    for place, pair in enumerate(pairs):
      low, high = pair.interval
      clear = pair.corrected < 0.05
      error = [[pair.difference - low], [high - pair.difference]]
      fill = SERIES[0] if clear else 'white'
      axes.errorbar(
        pair.difference, place, xerr=error, fmt='o', color=SERIES[0], markerfacecolor=fill, capsize=4, markersize=7
      )
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(pairs)), [f'{shown(pair.first)} over {shown(pair.second)}' for pair in pairs])
    axes.set_ylim(-0.6, len(pairs) - 0.4)
    axes.set_xlabel('difference of SumR, 95% interval; filled: corrected p below 0.05')
    axes.grid(axis='y', visible=False)
    return to_svg(figure, name, 'Paired differences of SumR')
