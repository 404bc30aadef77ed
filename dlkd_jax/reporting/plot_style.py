"""How plots look: colours that people with colour blindness tell apart (Okabe and Ito), lines that print in grey."""

from __future__ import annotations

import contextlib
import html
import io
import re
import warnings
import zlib
from collections.abc import Iterator

import matplotlib as mpl
from matplotlib.figure import Figure

from dlkd_jax.reporting.document import readable

WIDTH = 9.2  # Inches; 883 pixels at 100%.
INK, PALE = '#1b1b1b', '#8a8a8a'
MOMENT = '#f5e6a8'
# scorer → colour, line, marker; other branches than the paper's have some of the last by their names.
LOOKS = {
  'fused': ('#000000', '-', 'o'),
  'inheritance': ('#0072b2', '--', 's'),
  'exploration': ('#d55e00', '-.', '^'),
  'teacher': ('#009e73', ':', 'D'),
}
_OTHERS = (('#cc79a7', (0, (5, 1, 1, 1)), 'v'), ('#56b4e9', (0, (8, 2)), 'P'), ('#e69f00', (0, (1, 1)), 'X'))
SERIES = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00', '#000000')
DASHES = ('-', '--', '-.', ':', (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
LABELS = {'teacher': 'teacher alone'}

_STYLE = {
  'font.family': 'sans-serif',
  'font.sans-serif': ['DejaVu Sans', 'Verdana', 'Arial', 'Helvetica'],
  'font.size': 10,
  'axes.titlesize': 10.5,
  'axes.labelsize': 10,
  'axes.edgecolor': PALE,
  'axes.linewidth': 0.8,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': '#e4e4e4',
  'grid.linewidth': 0.8,
  'figure.facecolor': 'white',
  'axes.facecolor': 'white',
  'text.color': INK,
  'axes.labelcolor': INK,
  'xtick.color': INK,
  'ytick.color': INK,
  'legend.frameon': False,
  'legend.fontsize': 9.5,
  'text.parse_math': False,  # Names and captions may hold dollars; no text here is a formula.
  'svg.fonttype': 'none',  # Text stays text: it can be read aloud, searched and copied.
  'svg.hashsalt': 'report',  # The same plot gives the same file.
}


@contextlib.contextmanager
def style() -> Iterator[None]:
  """Draws in the report's style; what the font lacks is no matter, for the browser that shows the text has others."""
  with mpl.rc_context(_STYLE), warnings.catch_warnings():
    warnings.filterwarnings('ignore', r'Glyph \d+ ')
    warnings.filterwarnings('ignore', '.*axes sizes collapsed to zero')
    yield


def shown(text: str, most: int = 60) -> str:
  """Returns a text of the data as a plot shows it: on one line, and not longer than `most` characters."""
  text = ' '.join(readable(text).split())
  return text if len(text) <= most else f'{text[: most - 1]}…'


def look(scorer: str) -> tuple[str, str | tuple, str]:
  """Returns colour, line and marker of a scorer, the same in every plot."""
  return LOOKS.get(scorer) or _OTHERS[zlib.crc32(scorer.encode()) % len(_OTHERS)]


def label(scorer: str) -> str:
  """Returns what to call a scorer."""
  return LABELS.get(scorer, scorer)


def to_svg(figure: Figure, name: str, description: str) -> str:
  """Returns a figure as an `<svg>` element that refers to nothing outside itself.

  Args:
    figure: drawn.
    name: of the figure; its inner names begin so, that figures of one page do not mix theirs.
    description: for those who cannot see it.
  """
  buffer = io.StringIO()
  figure.savefig(buffer, format='svg', metadata={'Date': None, 'Creator': None, 'Format': None, 'Type': None})
  text = buffer.getvalue()
  text = text[text.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
  used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', ''.join(re.findall(r'<[^>]*>', text))))

  def local(tag: re.Match[str]) -> str:
    inside = tag[0].replace('xmlns:xlink="http://www.w3.org/1999/xlink" ', '').replace('xlink:href', 'href')
    inside = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else '', inside)
    return re.sub(r'(url\(#|href="#)', rf'\g<1>{name}-', inside)

  text = re.sub(r'<[^>]*>', local, text)  # In tags alone: what is shown may read like an attribute.
  escaped = html.escape(readable(description))
  return text.replace('<svg ', f'<svg role="img" aria-label="{escaped}" ', 1).strip()
