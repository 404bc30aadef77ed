"""Frame curves of single queries, drawn."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dlkd_jax.reporting.examples import Curves, Example
from dlkd_jax.reporting.plot_style import MOMENT, PALE, WIDTH, label, look, shown, style, to_svg
from dlkd_jax.retrieval.metrics import TEACHER

_LONGEST = 36  # Characters of an id that have room over half a figure.


def example(query: Example, scorer: str, name: str) -> str:
  """Draws a query's frame curves over its own video, and beside them those over a wrong video ranked first.

  Args:
    query: to draw.
    scorer: that ranks, whose best frame is marked.
    name: of the figure.
  """
  panels = [query.own] + ([query.first] if query.first is not None else [])
  teacher = TEACHER in query.own.curves
  with style():
    figure = Figure(figsize=(WIDTH, 3.5 if teacher else 2.6), layout='constrained')
    rows = figure.subplots(
      1 + teacher, len(panels), squeeze=False, sharex='col', sharey='row', height_ratios=(1.7, 1)[: 1 + teacher]
    )
    for column, curves in enumerate(panels):
      own = column == 0
      student, below = rows[0][column], rows[1][column] if teacher else None
      for axes in filter(None, (student, below)):
        if own and query.moment is not None:
          axes.axvspan(*query.moment, color=MOMENT, linewidth=0, label='annotated moment')
      _draw(student, curves, [x for x in curves.curves if x != TEACHER], scorer)
      if below is not None:
        _draw(below, curves, [TEACHER], TEACHER)
      bottom = student if below is None else below
      bottom.set_xlabel('seconds' if curves.seconds else 'share of the video')
      title = (
        f'own video {shown(curves.video_id, _LONGEST)}, rank {query.ranks[scorer]:,}'
        if own
        else f'ranked first: {shown(curves.video_id, _LONGEST)}'
      )
      student.set_title(title, loc='left')
      if own:
        student.set_ylabel('cosine,\nstudent')
        if below is not None:
          below.set_ylabel('cosine,\nteacher')
    handles = {
      text: x for row in rows for axes in row for x, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    handles['best frame'] = Line2D([], [], linestyle='', marker='o', color=PALE, markersize=8)
    figure.legend(handles.values(), handles.keys(), loc='outside lower center', ncols=min(len(handles), 6))
    return to_svg(figure, name, f'Frame curves of the query: {query.text}')


def _draw(axes, curves: Curves, scorers: list[str], marked: str) -> None:
  for name in scorers:
    times, curve = curves.times[name], curves.curves[name]
    colour, dash, _ = look(name)
    strong = name == marked
    width = 2.2 if strong else 1.4
    axes.plot(times, curve, color=colour, linestyle=dash, linewidth=width, label=label(name))
    if len(times) == 1:
      axes.plot(times, curve, 'o', color=colour)
    if strong:
      peak = int(np.argmax(curve))
      axes.plot(times[peak], curve[peak], 'o', color=colour, markersize=8, markeredgecolor='white')
  axes.margins(y=0.14)
