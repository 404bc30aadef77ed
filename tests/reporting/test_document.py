"""The document's two forms: what is in them, what is not, and that text cannot become markup."""

import html.parser
import re

import hypothesis
import pytest
from hypothesis import strategies as st

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


def test_numbers_stay_as_they_are_in_the_file():
  cells = ['50.0 [0.0, 100.0]', '-0.5', '104.6 ± 0.1', '3.4', '[\u22121.0, 2.5]', '93 %']
  table = document.Table('t', ['a'] * len(cells), [cells])
  text = document.to_markdown(Document('', '', [Section('s', [table])]))
  assert '| ' + ' | '.join(cells) + ' |' in text.splitlines()


def test_figures():
  assert [figure.name for figure in document.figures_of(whole())] == ['one', 'two']
  twice = Document('', '', [inner_copy(), inner_copy()])
  with pytest.raises(ValueError, match='share a name'):
    document.figures_of(twice)


TABLE = ('table', 'thead', 'tbody', 'tr', 'th', 'td')
MARKUP = st.sampled_from(
  [
    '[x](javascript:alert)',
    '![x](y)',
    '<b>',
    '<https://x.y>',
    '&lt;',
    '&#106;',
    '|',
    '\\',
    '`',
    '**',
    '_',
    '~~',
    '#',
    '- ',
    '1. ',
    '+ ',
    '> ',
    '===',
    '---',
    '\n',
    '\r\n',
    '\n\n    ',
    '[x]: y',
    '[^1]',
    ':---',
    'https://x.y',
    '$',
    '\u2028',
    '\0',
    '\ud800',
    '日本',
    'a',
  ]
)
TEXTS = st.one_of(st.text(max_size=30), st.lists(MARKUP, max_size=8).map(''.join))


class Words(html.parser.HTMLParser):
  """Collects the tags, the text between them, and what stands for pictures."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.text = [], []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    self.text += [value for name, value in attributes if name == 'alt']

  def handle_data(self, data):
    self.text.append(data)


@pytest.mark.parametrize('form', ['markdown', 'html'])
@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(texts=st.lists(TEXTS, min_size=8, max_size=8))
def test_text_stays_text(form, texts):
  """Whatever it is, and wherever it stands: what a reader of the document sees are its words, and no markup of it."""
  title, subtitle, section, paragraph, caption, heading, cell, note = texts
  table = Table('', ('', heading), [(cell, note)], strong=(0,))
  made = Document(title, subtitle, [Section(section, [Text(paragraph), Figure('one', SVG, caption), table])])
  if form == 'html':
    found = Words(document.to_html(made).split('</nav>')[1])
    assert set(found.tags) <= {*TABLE, 'section', 'h2', 'p', 'figure', 'div', 'svg', 'figcaption', 'caption', 'small'}
    expected = [section, paragraph, caption, heading, cell, note]
  else:
    markdown = pytest.importorskip('markdown_it').MarkdownIt('commonmark').enable('table')
    text = document.to_markdown(made)
    text.encode()
    found = Words(markdown.render(text))
    assert set(found.tags) <= {*TABLE, 'h1', 'h2', 'p', 'img', 'strong'}, text
    expected = [title, subtitle, section, paragraph, caption, heading, cell, note]
    assert not re.search(r'[a-z]://|www\.', text, re.IGNORECASE)
  plain = [
    re.sub('[^\\s\\x20-\\x7e\\x85\\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\x1c-\x1f\x0b\x0c]', '\ufffd', one)
    for one in expected
  ]
  assert ''.join(''.join(found.text).split()) == ''.join(''.join(plain).split())
