"""The document's two forms: what is in them, what is not, and that text cannot become markup."""

import html.parser

import pytest

from dlkd_jax.reporting import document
from dlkd_jax.reporting.document import Document, Figure, Section, Table, Text

NASTY = '<script>alert("1")</script> & *stars* | pipe'
SVG = '<svg viewBox="0 0 1 1"></svg>'


def whole():
  table = Table('A <table>', ('', 'a', 'note'), [('x', '1.0 [0.5, 1.5]', NASTY)], strong=(0,), text=(2,))
  inner = Section('Inner', [table, Figure('one', SVG, NASTY)])
  return Document('Title & more', NASTY, [Section('First', [Text(NASTY), inner]), Section('Run', [inner_copy()], True)])


def inner_copy():
  return Section('Inner', [Figure('two', SVG, 'other')])


class Tags(html.parser.HTMLParser):
  """Collects tags and attributes, and checks that they nest."""

  VOID = ('meta', 'br', 'link', 'img')

  def __init__(self, text):
    super().__init__()
    self.tags, self.open, self.ids = [], [], []
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    self.ids += [value for name, value in attributes if name == 'id']
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    self.ids += [value for name, value in attributes if name == 'id']

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def assert_self_contained(text):
  """Asserts that nothing of a page is loaded from elsewhere or run, and that inner references lead somewhere."""
  found = Tags(text)
  assert not {'script', 'link', 'iframe', 'img', 'object', 'embed', 'base', 'foreignobject'} & {
    t for t, _ in found.tags
  }
  for tag, attributes in found.tags:
    for name, value in attributes.items():
      assert not name.startswith('on') and name not in ('src', 'srcset', 'data', 'action', 'xlink:href'), (tag, name)
      if name == 'href':
        assert value.startswith('#') and value[1:] in found.ids, (tag, value)
  import re

  assert all(place in found.ids for place in re.findall(r'url\(#([^)]+)\)', text))
  assert not re.search(r'url\((?!#)|@import', text)
  links = set(re.findall(r'(?:https?:)?//[\w.]+', text))
  assert links <= {'http://www.w3.org'}, links  # Names of name spaces, which nothing fetches.
  assert len(set(found.ids)) == len(found.ids)


def test_html_is_self_contained_and_escaped():
  text = document.to_html(whole())
  assert_self_contained(text)
  assert '<script' not in text and text.count('&lt;script&gt;') == 4
  assert '<small>[0.5, 1.5]</small>' in text and '<details id="run">' in text
  assert 'class=strong' in text and 'color-scheme: light' in text


def test_markdown():
  text = document.to_markdown(whole())
  assert '# Title & more' in text and '### Inner' in text and '(figures/one.svg)' in text
  assert r'\<script\>' in text and r'\*stars\*' in text and r'\| pipe' in text
  (row,) = [line for line in text.splitlines() if line.startswith('| **x** ')]
  assert row.replace(r'\|', '').count('|') == 4


def test_figures():
  assert [figure.name for figure in document.figures_of(whole())] == ['one', 'two']
  twice = Document('', '', [inner_copy(), inner_copy()])
  with pytest.raises(ValueError, match='share a name'):
    document.figures_of(twice)
