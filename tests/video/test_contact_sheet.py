"""Tests of contact sheets."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from dlkd_jax.video import contact_sheet
from dlkd_jax.video.contact_sheet import SheetCell, SheetRow

_RED, _BLUE, _GREEN = (200, 10, 10), (10, 10, 200), contact_sheet._MARK


def _plain(colour, height=90, width=120):
  return np.full((height, width, 3), colour, np.uint8)


def _count(image, colour):
  return int((image == np.array(colour, np.uint8)).all(-1).sum())


def test_every_picture_is_there_whole_and_only_the_right_one_is_framed():
  rows = [SheetRow('a thing', [SheetCell(_plain(_RED), '1.0 s'), SheetCell(_plain(_BLUE), '2.0 s', marked=True)])]
  image = contact_sheet.render(rows, cell_size=(120, 90))
  assert _count(image, _RED) == _count(image, _BLUE) == 120 * 90
  frame = contact_sheet._BORDER * 2
  assert _count(image, _GREEN) >= (120 + frame) * (90 + frame) - 120 * 90
  unmarked = contact_sheet.render([SheetRow('a thing', [SheetCell(_plain(_RED), '1.0 s')])], cell_size=(120, 90))
  assert _count(unmarked, _GREEN) == 0


def test_pictures_keep_their_proportions():
  tall = contact_sheet.render([SheetRow('', [SheetCell(_plain(_RED, height=400, width=100))])], cell_size=(200, 100))
  assert _count(tall, _RED) == 25 * 100


def test_many_pictures_go_on_below():
  cells = [SheetCell(_plain(_RED)) for _ in range(7)]
  image = contact_sheet.render([SheetRow('seven', cells)], columns=3, cell_size=(120, 90))
  assert _count(image, _RED) == 7 * 120 * 90
  assert image.shape[1] < 3 * 200 and image.shape[0] > 3 * 90


def test_text_is_drawn_broken_into_lines_and_cut():
  font = ImageFont.load_default(14)
  text = 'a person opens the door and walks out into the rain ' * 3
  lines = contact_sheet._lines(text, font, 150)
  assert ' '.join(lines) == ' '.join(text.split()) and all(font.getlength(line) <= 150 for line in lines)
  cut = contact_sheet._lines(text, font, 150, most=2)
  assert len(cut) == 2 and cut[1].endswith('…') and font.getlength(cut[1]) <= 150
  (word,) = contact_sheet._lines('w' * 100, font, 150)
  assert word.endswith('…') and font.getlength(word) <= 150
  assert contact_sheet._lines('', font, 150) == []
  short, long = (contact_sheet.render([SheetRow(t, [SheetCell(_plain(_RED))])]) for t in ('a', text))
  assert long.shape[0] > short.shape[0] and _count(long, contact_sheet._INK) > _count(short, contact_sheet._INK) > 0


def test_written_whole_or_not_at_all(tmp_path):
  path = tmp_path / 'out' / 'sheet.png'
  rows = [SheetRow('a', [SheetCell(_plain(_RED))])]
  contact_sheet.write(path, rows, heading='All of them')
  with Image.open(path) as image:
    np.testing.assert_array_equal(np.asarray(image), contact_sheet.render(rows, heading='All of them'))
  before = path.read_bytes()
  with pytest.raises(ValueError, match=r'expected uint8 \[H, W, 3\]'):
    contact_sheet.write(path, [SheetRow('a', [SheetCell(np.zeros((4, 4, 3), np.float32))])])
  assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ['sheet.png']


def test_an_empty_sheet_is_refused():
  with pytest.raises(ValueError, match='at least one row'):
    contact_sheet.render([])
