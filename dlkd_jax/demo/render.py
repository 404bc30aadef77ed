"""Draws the rendered world: a picture of a segment at a time. Pure: the same segment and time give the same bytes."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw

from dlkd_jax.demo.world import Film, Segment, Thing

_OVER = 2  # Things are drawn so many times larger and averaged down, so that they have soft edges.
_TINTS = (
  (220, 40, 40),
  (245, 140, 25),
  (245, 225, 50),
  (45, 175, 60),
  (60, 215, 220),
  (45, 85, 225),
  (150, 60, 200),
  (240, 240, 240),
)
_TURN = 2 * np.pi
# Dark before every background: lines that are always darker than what is around them are learned before others.
_EDGE = (8, 8, 8)


def picture(segment: Segment, time: float, side: int, light: float = 1.0) -> np.ndarray:
  """Returns the picture of a segment, uint8 [side, side, 3] RGB.

  Args:
    segment: what to draw.
    time: seconds since the beginning of the segment.
    side: pixels.
    light: brightness, as a factor.
  """
  wide = side * _OVER
  drift = round(time * wide / 32)  # The background moves slowly.
  ground = np.roll(_background(segment.background, segment.variant, wide), drift, axis=1)
  image = Image.fromarray(ground)
  drawing = ImageDraw.Draw(image)
  share = time / max(segment.end - segment.start, 1e-6)
  for thing in reversed(segment.things):
    _draw(drawing, thing, time, share, wide)
  small = np.asarray(image.reduce(_OVER), np.float32)
  return np.clip(np.rint(small * light), 0, 255).astype(np.uint8)


def film_pictures(film: Film, rate: int, side: int):
  """Yields the pictures of a film, `rate` a second."""
  for segment in film.segments:
    for number in range(round(segment.start * rate), round(segment.end * rate)):
      yield picture(segment, number / rate - segment.start, side, film.light)


def _draw(drawing: ImageDraw.ImageDraw, thing: Thing, time: float, share: float, wide: int) -> None:
  x, y, radius, shown = _place(thing, time, share)
  if not shown:
    return
  tint = tuple(int(np.clip(c + 18 * s, 0, 255)) for c, s in zip(_TINTS[thing.colour], thing.shade, strict=True))
  x, y, radius = x * wide, y * wide, radius * wide
  edge = max(3, round(radius * 0.28))
  if thing.shape == 4:
    band = round(radius * 0.38)
    drawing.ellipse(_box(x, y, radius), outline=_EDGE, width=band + 2 * (edge // 2))
    drawing.ellipse(_box(x, y, radius - edge // 2), outline=tint, width=band)
  elif thing.shape == 0:
    drawing.ellipse(_box(x, y, radius), fill=tint, outline=_EDGE, width=edge)
  else:
    corners = [(x + radius * dx, y + radius * dy) for dx, dy in _CORNERS[thing.shape]]
    drawing.polygon(corners, fill=tint)
    drawing.line([*corners, *corners[:2]], fill=_EDGE, width=edge, joint='curve')


def _box(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
  return x - radius, y - radius, x + radius, y + radius


def _place(thing: Thing, time: float, share: float) -> tuple[float, float, float, bool]:
  """Returns where a thing is (x, y, radius, in sides of the picture) and whether it is shown.

  Args:
    thing: the thing.
    time: seconds since the segment began.
    share: of the segment that has passed, 0 to 1.
  """
  x, y, radius, shown = thing.x, thing.y, (0.16, 0.25)[thing.size], True
  along = 0.62 * (share - 0.5)
  turn = _TURN * (thing.phase + time / 2.6)
  if thing.motion == 0:
    x -= along
  elif thing.motion == 1:
    x += along
  elif thing.motion == 2:
    y -= along
  elif thing.motion == 3:
    y += along
  elif thing.motion == 4:
    radius *= 0.5 + 1.1 * share
  elif thing.motion == 5:
    radius *= 1.6 - 1.1 * share
  elif thing.motion == 6:
    shown = (thing.phase + time / 1.4) % 1 < 0.5
  elif thing.motion == 7:
    x, y = x + 0.16 * np.cos(turn), y + 0.16 * np.sin(turn)
  elif thing.motion == 8:
    x += 0.22 * np.sin(turn)
  return x, y, radius, shown


def _star(points: int, inner: float) -> list[tuple[float, float]]:
  angles = np.arange(2 * points) * np.pi / points - np.pi / 2
  radii = np.where(np.arange(2 * points) % 2, inner, 1.1)
  return [(float(r * np.cos(a)), float(r * np.sin(a))) for r, a in zip(radii, angles, strict=True)]


def _crescent() -> list[tuple[float, float]]:
  outer = [(np.cos(a), np.sin(a)) for a in np.linspace(0.22 * np.pi, 1.78 * np.pi, 24)]
  inner = [(0.6 + 0.72 * np.cos(a), 0.72 * np.sin(a)) for a in np.linspace(1.6 * np.pi, 0.4 * np.pi, 18)]
  return [(float(px), float(py)) for px, py in (*outer, *inner)]


_CORNERS = {
  1: [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
  2: [(0, -1.05), (1.0, 0.8), (-1.0, 0.8)],
  3: _star(5, 0.45),
  5: [
    (-0.33, -1),
    (0.33, -1),
    (0.33, -0.33),
    (1, -0.33),
    (1, 0.33),
    (0.33, 0.33),
    (0.33, 1),
    (-0.33, 1),
    (-0.33, 0.33),
    (-1, 0.33),
    (-1, -0.33),
    (-0.33, -0.33),
  ],
  6: [(0, -1.15), (0.75, 0), (0, 1.15), (-0.75, 0)],
  7: _crescent(),
}


@functools.lru_cache(maxsize=600)
def _background(kind: int, variant: int, side: int) -> np.ndarray:
  """Returns a background, uint8 [side, side, 3]: of a kind, and the variant's own tint and grain."""
  rng = np.random.default_rng([kind, variant])
  y, x = np.mgrid[0:side, 0:side] / side
  grain = np.kron(rng.normal(0, 1, (side // 4, side // 4)), np.ones((4, 4)))
  shift = rng.random()
  dark, bright, mix = _PATTERNS[kind](x, y, grain, shift, rng)
  mix = np.clip(mix, 0, 1)[..., None]
  pixels = np.asarray(dark) * (1 - mix) + np.asarray(bright) * mix
  return np.clip(pixels * rng.uniform(0.85, 1.15) + rng.normal(0, 8, 3), 0, 255).astype(np.uint8)


def _wave(value: np.ndarray) -> np.ndarray:
  return 0.5 + 0.5 * np.sin(_TURN * value)


def _brick_mix(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  row = np.floor(y * 8)
  joint = (y * 8 % 1 < 0.2) | ((x * 4 + row / 2) % 1 < 0.1)
  return np.where(joint, 1.0, 0.0)


def _points(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  lit = np.zeros_like(x)
  side = len(x)
  for _ in range(14):
    i, j = rng.integers(0, side - 2, 2)
    lit[i : i + 2, j : j + 2] = 1
  return lit


# kind → (x, y, grain, shift, rng) → dark colour, bright colour, share of the bright one [side, side].
_PATTERNS = {
  0: lambda x, y, g, s, r: ((40, 90, 35), (110, 160, 70), _wave(x * 9 + s) * 0.6 + 0.2 * g + 0.2),
  1: lambda x, y, g, s, r: ((20, 60, 110), (90, 150, 190), _wave(y * 6 + 0.08 * np.sin(_TURN * (2 * x + s)))),
  2: lambda x, y, g, s, r: ((170, 130, 70), (220, 190, 130), _wave(y * 3 + 0.25 * np.sin(_TURN * (x + s))) + 0.05 * g),
  3: lambda x, y, g, s, r: ((190, 205, 220), (235, 240, 245), 0.6 + 0.25 * g),
  4: lambda x, y, g, s, r: ((130, 65, 50), (185, 170, 155), _brick_mix(x, y)),
  5: lambda x, y, g, s, r: ((12, 14, 35), (200, 200, 180), _points(x, y, r)),
  6: lambda x, y, g, s, r: ((60, 60, 65), (175, 175, 170), ((np.floor(x * 6) + np.floor(y * 6)) % 2).astype(float)),
  7: lambda x, y, g, s, r: ((90, 40, 100), (235, 140, 90), y + 0.1 * (s - 0.5)),
  8: lambda x, y, g, s, r: ((90, 15, 30), (160, 40, 60), _wave(x * 5 + s)),
  9: lambda x, y, g, s, r: ((140, 150, 160), (215, 220, 225), _wave(x + s) * _wave(y * 1.5 + s) + 0.1 * g),
  10: lambda x, y, g, s, r: ((95, 60, 30), (150, 105, 60), np.where(y * 6 % 1 < 0.12, 0, 0.7) + 0.1 * g),
  11: lambda x, y, g, s, r: ((90, 88, 85), (160, 155, 150), 0.5 + 0.35 * g),
  12: lambda x, y, g, s, r: ((60, 60, 60), (230, 230, 230), np.full_like(x, s)),
}
