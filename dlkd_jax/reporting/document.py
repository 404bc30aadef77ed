"""A document of paragraphs, tables and figures, and its two forms: one HTML file, and Markdown with figure files."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Sequence

from dlkd_jax import tables
from dlkd_jax.errors import UserError

# A number, with an interval if there is one.
_NUMBERS = re.compile(r'[-+\u2212\u2013±\d.,% ]*(\[[-+\u2212\u2013\d.,% ]*\])?', re.ASCII)
# Light, whatever the reader's setting: figures are drawn on white.
_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: #fff; color: #1b1b1b;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.35rem; margin: 2.75rem 0 .75rem; padding-top: .9rem; border-top: 2px solid #d9d9d9; }
h3 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.subtitle { color: #4a4a4a; margin: 0 0 1.25rem; }
nav { background: #f5f6f8; border-radius: 6px; padding: .75rem 1.1rem; font-size: .95rem; }
nav a { display: inline-block; margin-right: 1.1rem; color: #00518c; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 .4rem; caption-side: top; }
th, td { padding: .32rem .55rem; text-align: right; border-bottom: 1px solid #e2e2e2; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.text, th.text { text-align: left; white-space: normal; min-width: 12rem; }
thead th { white-space: normal; border-bottom: 2px solid #8a8a8a; vertical-align: bottom; }
tbody tr.strong td { font-weight: 650; background: #f1f6fb; }
td small { display: block; color: #555; font-size: .92em; font-weight: 400; }
figure { margin: 1.5rem 0; }
figure svg { display: block; }
figcaption, .note { color: #444; font-size: .9rem; margin-top: .45rem; }
details { border: 1px solid #d9d9d9; border-radius: 6px; padding: .5rem 1rem; margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; font-size: 1.1rem; }
@media print {
  details > * { display: block; }
  figure svg { max-width: 100%; height: auto; }
  .scroll { overflow: visible; }
  body { max-width: none; }
}
"""


@dataclasses.dataclass(frozen=True)
class Text:
  """A paragraph; `note` is set smaller."""

  text: str
  note: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
  """A table.

  Attributes:
    title: above it.
    heading: cells of the first row.
    rows: further rows, of as many cells.
    strong: indices of rows that stand out.
    text: indices of columns of text, left-aligned.
  """

  title: str
  heading: Sequence[str]
  rows: Sequence[Sequence[str]]
  strong: Sequence[int] = ()
  text: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Figure:
  """A figure.

  Attributes:
    name: of its file, letters, digits and `_`; no two figures of a document share it.
    svg: the picture, an `<svg>` element.
    caption: below it.
  """

  name: str
  svg: str
  caption: str


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of a document; `folded` parts are opened by a click."""

  title: str
  blocks: Sequence[Text | Table | Figure | Section]
  folded: bool = False


@dataclasses.dataclass(frozen=True)
class Document:
  """A document."""

  title: str
  subtitle: str
  sections: Sequence[Section]


def to_html(document: Document) -> str:
  """Returns the document as one HTML file: styles and figures in it, no script, no reference to anything else."""
  links = ''.join(f'<a href="#{_anchor(s.title)}">{_html(s.title)}</a>' for s in document.sections)
  body = ''.join(_html_section(section, 2) for section in document.sections)
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f'<title>{_html(document.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n'
    f'<h1>{_html(document.title)}</h1>\n<p class="subtitle">{_html(document.subtitle)}</p>\n'
    f'<nav aria-label="Contents">{links}</nav>\n{body}</body>\n</html>\n'
  )


def _html(text: str) -> str:
  return html.escape(readable(text))


def _anchor(title: str) -> str:
  return re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')


def _html_section(section: Section, level: int) -> str:
  inside = ''.join(_html_block(block, level) for block in section.blocks)
  title, anchor = _html(section.title), _anchor(section.title)
  if section.folded:
    return f'<details id="{anchor}"><summary>{title}</summary>\n{inside}</details>\n'
  level, place = min(level, 4), f' id="{anchor}"' if level == 2 else ''  # Deeper titles occur once a run.
  return f'<section>\n<h{level}{place}>{title}</h{level}>\n{inside}</section>\n'


def _html_block(block: Text | Table | Figure | Section, level: int) -> str:
  match block:
    case Text(text, note):
      return f'<p{" class=note" * note}>{_html(text)}</p>\n'
    case Table():
      return _html_table(block)
    case Figure(_, svg, caption):
      # On narrow screens a figure is scrolled, not shrunk: its letters stay as large.
      return f'<figure>\n<div class="scroll">{svg}</div>\n<figcaption>{_html(caption)}</figcaption>\n</figure>\n'
    case Section():
      return _html_section(block, level + 1)


def _html_table(table: Table) -> str:
  def cell(tag: str, index: int, content: str) -> str:
    escaped = _html(content)
    if tag == 'td' and index not in table.text:
      escaped = re.sub(r'(\[[^\]]*\])$', r'<small>\1</small>', escaped)
    return f'<{tag}{" class=text" if index in table.text else ""}>{escaped}</{tag}>'

  head = ''.join(cell('th', i, x) for i, x in enumerate(table.heading))
  lines = [
    f'<tr{" class=strong" * (number in table.strong)}>{"".join(cell("td", i, x) for i, x in enumerate(row))}</tr>'
    for number, row in enumerate(table.rows)
  ]
  body = '\n'.join(lines)
  return (
    f'<div class="scroll"><table><caption>{_html(table.title)}</caption>\n<thead><tr>{head}</tr></thead>\n'
    f'<tbody>\n{body}\n</tbody></table></div>\n'
  )


def to_markdown(document: Document, figures: str = 'figures') -> str:
  """Returns the document in Markdown; figures are `<figures>/<name>.svg`."""
  parts = [f'# {_escape(document.title)}', _escape(document.subtitle)]
  for section in document.sections:
    parts += _markdown_section(section, 2, figures)
  return '\n\n'.join(parts) + '\n'


def _markdown_section(section: Section, level: int, figures: str) -> list[str]:
  parts = [f'{"#" * level} {_escape(section.title)}']
  for block in section.blocks:
    match block:
      case Text(text, _):
        parts.append(_escape(text))
      case Table():
        parts.append(_markdown_table(block))
      case Figure(name, _, caption):
        parts.append(f'![{_escape(caption)}]({figures}/{name}.svg)')
      case Section():
        parts += _markdown_section(block, level + 1, figures)
  return parts


def _markdown_table(table: Table) -> str:
  # Numbers with their interval begin no list and are no link: they stay as people read them in the file itself.
  shown = lambda cell: cell if _NUMBERS.fullmatch(cell) else _escape(cell)  # noqa: E731
  rows = [[shown(cell) for cell in row] for row in (table.heading, *table.rows)]
  for number in table.strong:
    rows[number + 1][0] = _bold(table.rows[number][0])
  return f'{_bold(table.title)}\n\n{tables.as_markdown(rows, left=(0, *table.text))}'


def _bold(text: str) -> str:
  escaped = _escape(text)
  return f'**{escaped}**' if escaped else ''


def _escape(text: str) -> str:
  """Keeps text from becoming markup, of CommonMark or of GitHub: captions of queries may hold anything."""
  text = ' '.join(readable(text).split())
  text = re.sub(r'([\\`*_~<>|#\[\]$]|&(?=#?\w+;))', r'\\\1', text)
  text = re.sub(r'(?<=[a-zA-Z])(:)(?=//)|(?<=www)(\.)', r'\\\g<0>', text, flags=re.IGNORECASE)  # Bare addresses.
  return re.sub(r'^([-+=:!]|\d+(?=[.)]))', lambda m: m[1] + '\\' if m[1].isdigit() else '\\' + m[1], text)


def readable(text: str) -> str:
  """Returns text that can be written to any file: what is no character, or a control character, is replaced."""
  # Tab, line feed and carriage return stay; XML knows none of the others, and no halves of characters.
  return re.sub('[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]', '\ufffd', text)


def figures_of(document: Document) -> list[Figure]:
  """Returns all figures of a document.

  Raises:
    ValueError: two share a name.
  """
  found: list[Figure] = []

  def visit(section: Section) -> None:
    for block in section.blocks:
      if isinstance(block, Figure):
        found.append(block)
      elif isinstance(block, Section):
        visit(block)

  for section in document.sections:
    visit(section)
  names = [figure.name for figure in found]
  if len(set(names)) < len(names):
    raise UserError(f'figures share a name: {sorted(names)}')
  return found
