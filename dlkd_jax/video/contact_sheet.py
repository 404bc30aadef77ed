"""Contact sheets: rows of labelled pictures below a line of text, as one PNG that a person looks at."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _FAINT, _MARK, _BACK = (255, 255, 255), (25, 25, 25), (95, 95, 95), (0, 140, 60), (32, 32, 36)
_MARGIN, _GAP, _BORDER = 16, 12, 6
_HEADING, _TITLE, _LABEL = 24, 18, 14  # Sizes of the letters in pixels.
_LABEL_LINES = 2


@dataclasses.dataclass(frozen=True)
class SheetCell:
  """A picture (uint8 [H, W, 3] RGB, any size), what is written below it, and whether it is framed as the right one."""

  image: np.ndarray
  label: str = ''
  marked: bool = False


@dataclasses.dataclass(frozen=True)
class SheetRow:
  """A line of text, such as a caption, and the pictures below it."""

  title: str
  cells: Sequence[SheetCell]


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
  """DejaVu where the system has it, since it knows many alphabets; otherwise Pillow's own, which knows English."""
  try:
    return ImageFont.truetype('DejaVuSans.ttf', size)
  except OSError:
    return ImageFont.load_default(size)


def _lines(text: str, font: ImageFont.FreeTypeFont, width: int, most: int | None = None) -> list[str]:
  """Breaks text between words so that no line is wider than `width` pixels; what does not fit into `most` ends in …"""
  words, lines = text.split(), []
  while words and (most is None or len(lines) < most):
    count = 1
    while count < len(words) and font.getlength(' '.join(words[: count + 1])) <= width:
      count += 1
    line, words = ' '.join(words[:count]), words[count:]
    last = words and len(lines) + 1 == most
    if last or font.getlength(line) > width:  # A single word that is too long is cut, too.
      while len(line) > 1 and font.getlength(line + '…') > width:
        line = line[:-1]
      line += '…'
    lines.append(line)
  return lines


def _tile(cell: SheetCell, width: int, height: int) -> Image.Image:
  """The picture of a cell, scaled to fit into the middle of a dark tile."""
  image = np.asarray(cell.image)
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
    raise ValueError(f'a cell has an image {image.dtype} {list(image.shape)}; expected uint8 [H, W, 3]')
  scale = min(width / image.shape[1], height / image.shape[0])
  size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
  tile = Image.new('RGB', (width, height), _BACK)
  tile.paste(
    Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), ((width - size[0]) // 2, (height - size[1]) // 2)
  )
  return tile


class _Sheet:
  """What has been drawn so far on a canvas that is as wide as the sheet and grows downwards."""

  def __init__(self, width: int):
    self.width = width
    self.bands: list[Image.Image] = []

  def space(self, height: int) -> Image.Image:
    self.bands.append(Image.new('RGB', (self.width, height), _PAPER))
    return self.bands[-1]

  def text(self, text: str, size: int) -> None:
    font = _font(size)
    lines = _lines(text, font, self.width - 2 * _MARGIN)
    band = ImageDraw.Draw(self.space(len(lines) * (size + 6) + 4))
    for n, line in enumerate(lines):
      band.text((_MARGIN, n * (size + 6)), line, _INK, font)

  def cells(self, cells: Sequence[SheetCell], width: int, height: int) -> None:
    font = _font(_LABEL)
    labels = [_lines(cell.label, font, width, _LABEL_LINES) for cell in cells]
    step = _LABEL + 4
    band = self.space(height + 2 * _BORDER + max(map(len, labels), default=0) * step + _GAP)
    draw = ImageDraw.Draw(band)
    for n, (cell, lines) in enumerate(zip(cells, labels, strict=True)):
      left = _MARGIN + n * (width + 2 * _BORDER + _GAP)
      if cell.marked:
        draw.rectangle((left, 0, left + width + 2 * _BORDER - 1, height + 2 * _BORDER - 1), fill=_MARK)
      band.paste(_tile(cell, width, height), (left + _BORDER, _BORDER))
      for k, line in enumerate(lines):
        place = left + _BORDER, height + 2 * _BORDER + 1 + k * step
        draw.text(place, line, _MARK if cell.marked else _FAINT, font)

  def image(self) -> Image.Image:
    whole = Image.new('RGB', (self.width, sum(band.height for band in self.bands)), _PAPER)
    top = 0
    for band in self.bands:
      whole.paste(band, (0, top))
      top += band.height
    return whole


def render(
  rows: Sequence[SheetRow], heading: str = '', columns: int = 6, cell_size: tuple[int, int] = (208, 156)
) -> np.ndarray:
  """Draws a contact sheet.

  Args:
    rows: top to bottom. Long titles are broken into lines, labels longer than two lines end in an ellipsis.
    heading: a line above all rows.
    columns: pictures side by side; the rest of a row goes on below.
    cell_size: (width, height) in pixels of the place for each picture, which is scaled to fit and never distorted.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: there is no row, or an image is not uint8 [H, W, 3].
  """
  if not rows:
    raise ValueError('a contact sheet needs at least one row')
  width, height = cell_size
  across = min(columns, max(3, *(len(row.cells) for row in rows)))
  sheet = _Sheet(2 * _MARGIN + across * (width + 2 * _BORDER + _GAP) - _GAP)
  sheet.space(_MARGIN)
  if heading:
    sheet.text(heading, _HEADING)
    sheet.space(_GAP)
  for row in rows:
    sheet.text(row.title, _TITLE)
    for start in range(0, len(row.cells), across):
      sheet.cells(row.cells[start : start + across], width, height)
    sheet.space(_GAP // 2)
  return np.asarray(sheet.image())


def write(path: str | os.PathLike[str], rows: Sequence[SheetRow], **options) -> None:
  """Draws a contact sheet as `render` does and writes it as a PNG file, whole or not at all.

  Raises:
    ValueError: as `render`.
    OSError: the file cannot be written; what was there is unchanged.
  """
  path = pathlib.Path(path)
  image = Image.fromarray(render(rows, **options))
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + '.tmp')
  try:
    image.save(temporary, 'png')
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
