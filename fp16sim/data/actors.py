"""Cars, pedestrians and speed signs, drawn into a box so that they touch all four of its sides."""

from __future__ import annotations

import numpy as np

from fp16sim.backend import Array
from fp16sim.data.shapes import ellipse, slab

#: left, top, right, bottom as fractions of the box
Place = tuple[float, float, float, float]

#: red, green, blue from 0 to 1, or one number for grey
Colour = Array | tuple[float, float, float] | float

_PAINTS = np.array(
    [
        (0.8, 0.1, 0.1),
        (0.1, 0.2, 0.7),
        (0.9, 0.9, 0.9),
        (0.12, 0.12, 0.13),
        (0.65, 0.67, 0.7),
        (0.9, 0.75, 0.1),
        (0.1, 0.45, 0.25),
        (0.85, 0.4, 0.1),
    ]
)
_SKINS = np.array([(0.95, 0.78, 0.65), (0.78, 0.57, 0.42), (0.45, 0.3, 0.2)])


def pigment(colour: Colour) -> Array:
    """Shaped (3, 1, 1) or (1, 1, 1), float32, to be mixed into an image (3, height, width)."""
    return np.asarray(colour, dtype=np.float32).reshape(-1, 1, 1)


class Brush:
    """Paints into a box [cx, cy, width, height] of an image (3, height, width), in place."""

    def __init__(self, image: Array, box: Array) -> None:
        cx, cy, self.width, self.height = (float(number) for number in box)
        left, top = cx - self.width / 2, cy - self.height / 2
        x0, y0 = max(int(left) - 1, 0), max(int(top) - 1, 0)
        self.patch = image[:, y0 : int(top + self.height) + 2, x0 : int(left + self.width) + 2]
        rows, columns = self.patch.shape[1:]
        self.x = np.arange(columns, dtype=np.float32) + (x0 + 0.5 - left)
        self.y = (np.arange(rows, dtype=np.float32) + (y0 + 0.5 - top))[:, None]

    def paint(self, cover: Array, colour: Colour) -> None:
        """Mix the colour in, as much as the cover (rows, columns) says."""
        self.patch += cover.astype(np.float32) * (pigment(colour) - self.patch)

    def oval(self, place: Place, colour: Colour, strength: float = 1.0) -> None:
        """An ellipse that fills the place, opaque at strength 1."""
        x, y, half_width, half_height = self._locate(place)
        self.paint(strength * ellipse(x, y, half_width, half_height), colour)

    def slab(self, place: Place, colour: Colour, corner: float = 0.0, inset: float = 0.0) -> None:
        """A box with corners rounded by a part of its shorter half, narrower on top by the inset.

        The inset is a fraction of the place's half width, at either side.
        """
        x, y, half_width, half_height = self._locate(place)
        radius = corner * min(half_width, half_height)
        widths: Array | float = half_width
        if inset:
            widths = half_width * (1 - inset * np.clip(0.5 - y / half_height / 2, 0, 1))
        self.paint(slab(x, y, widths, half_height, radius), colour)

    def _locate(self, place: Place) -> tuple[Array, Array, float, float]:
        """Pixels from the middle of the place, and half its size."""
        left, right = place[0] * self.width, place[2] * self.width
        top, bottom = place[1] * self.height, place[3] * self.height
        half_width, half_height = (right - left) / 2, (bottom - top) / 2
        return self.x - left - half_width, self.y - top - half_height, half_width, half_height


def car_from_behind(brush: Brush, random: np.random.Generator) -> None:
    """Wheels, cabin with rear window, body, bumper, red lights and a number plate."""
    paint = _PAINTS[random.integers(len(_PAINTS))]
    for left in (0.06, 0.72):
        brush.slab(
            (
                left,
                0.7,
                left + 0.22,
                1,
            ),
            0.05,
            corner=0.3,
        )
    brush.slab((0.1, 0, 0.9, 0.55), paint * 0.85, corner=0.3, inset=0.25)
    brush.slab((0.2, 0.08, 0.8, 0.42), (0.25, 0.33, 0.4), inset=0.22)
    brush.slab((0, 0.4, 1, 0.86), paint, corner=0.4)
    brush.slab((0.02, 0.72, 0.98, 0.86), paint * 0.55, corner=0.4)
    for left in (0.04, 0.78):
        brush.slab((left, 0.48, left + 0.18, 0.62), (0.95, 0.12, 0.08))
    brush.slab((0.36, 0.56, 0.64, 0.68), 0.92)


def car_from_the_side(brush: Brush, random: np.random.Generator) -> None:
    """Body, cabin with two windows, a light at either end, two wheels with hubs."""
    paint = _PAINTS[random.integers(len(_PAINTS))]
    lights: list[Colour] = [(0.95, 0.12, 0.08), (1.0, 0.95, 0.7)]
    if random.integers(2):
        lights.reverse()
    brush.slab((0.18, 0, 0.8, 0.56), paint * 0.9, corner=0.3, inset=0.35)
    brush.slab((0.27, 0.1, 0.485, 0.44), (0.6, 0.75, 0.85), inset=0.3)
    brush.slab((0.515, 0.1, 0.72, 0.44), (0.6, 0.75, 0.85), inset=0.3)
    brush.slab((0, 0.38, 1, 0.84), paint, corner=0.5)
    brush.slab((0.03, 0.68, 0.97, 0.84), paint * 0.6, corner=0.5)
    brush.slab((0, 0.48, 0.07, 0.6), lights[0])
    brush.slab((0.93, 0.48, 1, 0.6), lights[1])
    reach = 0.21 * brush.height / brush.width  # makes the wheels round
    for middle in (0.22, 0.78):
        brush.oval((middle - reach, 0.58, middle + reach, 1), 0.05)
        brush.oval((middle - reach * 0.45, 0.7, middle + reach * 0.45, 0.88), 0.6)


def pedestrian(brush: Brush, random: np.random.Generator) -> None:
    """Legs apart in mid-step, arms, a coat, a head with hair."""
    coat, trousers = _PAINTS[random.integers(len(_PAINTS), size=2)]
    skin = _SKINS[random.integers(len(_SKINS))]
    stride = random.uniform(0, 0.12)
    for left in (0.24 - stride, 0.52 + stride):
        brush.slab((left, 0.55, left + 0.24, 0.97), trousers * 0.6)
        brush.slab((left - 0.02, 0.94, left + 0.28, 1), 0.05)
    for left in (0, 0.82):
        brush.slab((left, 0.22, left + 0.18, 0.56), coat * 0.75, corner=0.8)
    brush.slab((0.12, 0.19, 0.88, 0.62), coat, corner=0.5)
    head = 0.1 * brush.height / brush.width  # makes the head round
    brush.oval((0.5 - head, 0, 0.5 + head, 0.2), skin)
    brush.oval((0.5 - head, 0, 0.5 + head, 0.09), (0.15, 0.1, 0.06))


def sign(brush: Brush, digit: Array) -> None:
    """A white disc in a red ring, with a digit (8, 8) from 0 to 1 scaled to fit."""
    brush.oval((0, 0, 1, 1), (0.85, 0.05, 0.08))
    brush.oval((0.14, 0.14, 0.86, 0.86), 0.97)
    down = _tents(brush.y[:, 0], 0.22 * brush.height, 0.78 * brush.height)
    across = _tents(brush.x, 0.22 * brush.width, 0.78 * brush.width)
    brush.paint(down @ digit @ across.T, 0.05)


def _tents(pixels: Array, start: float, stop: float) -> Array:
    """(pixels, 8): weights of linear interpolation of 8 samples spread from start to stop."""
    samples = (pixels - start) / (stop - start) * 8 - 0.5
    return np.asarray(np.maximum(1 - np.abs(samples[:, None] - np.arange(8)), 0))


def shadow(image: Array, box: Array) -> None:
    """Darkens the ground below a box, a little wider than the box."""
    cx, cy, width, height = box
    flat = np.array([cx, cy + height / 2, width * 1.1, max(width * 0.12, 1.5)])
    Brush(image, flat).oval((0, 0, 1, 1), 0.05, strength=0.6)


def pole(image: Array, box: Array, foot: float) -> None:
    """A grey pole from the middle of a sign's box down to y = foot."""
    cx, cy, width, _ = box
    thick = max(width * 0.12, 1)
    Brush(image, np.array([cx, (cy + foot) / 2, thick, foot - cy])).slab((0, 0, 1, 1), 0.5)
