"""Sky, hills, fields and a road that vanishes at the horizon: what the scenes play before."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fp16sim.backend import Array


class View(NamedTuple):
    """Where the camera looks, in pixels.

    What is t of the way from the horizon to the lower edge is about t times as large as there.
    """

    size: int
    horizon: float  #: y
    vanishing: float  #: x where the road meets the horizon

    def middle(self, t: Array | float) -> Array | float:
        """x of the middle of the road."""
        return self.vanishing + t * (self.size / 2 - self.vanishing)

    def half_road(self, t: Array | float) -> Array | float:
        """Half the width of the road."""
        return self.size * (0.02 + 0.5 * t)


def view(size: int, random: np.random.Generator) -> View:
    """A random one: a little up or down, left or right."""
    return View(size, size * random.uniform(0.36, 0.46), size * random.uniform(0.4, 0.6))


def landscape(seen: View, random: np.random.Generator) -> Array:
    """An image (3, size, size) float32, in daylight: values from 0 to 1."""
    size = seen.size
    y, x = (np.arange(size, dtype=np.float32) + 0.5)[:, None], np.arange(size) + 0.5
    image = np.empty((3, size, size), dtype=np.float32)
    image[:] = _sky(y / seen.horizon, random)
    t = np.maximum((y - seen.horizon) / (size - seen.horizon), 1e-3)
    _paint(image, np.clip(y - _hills(seen, random), 0, 1), _colour((0.2, 0.3, 0.25), 0.1, random))
    meadow = _colour([(0.3, 0.42, 0.2), (0.5, 0.45, 0.3)][random.integers(2)], 0.06, random)
    below = np.clip(y - seen.horizon + 0.5, 0, 1)
    _paint(image, below * np.ones(size), meadow)
    aside = np.abs(x - seen.middle(t))
    _paint(image, below * _band(aside, 0, seen.half_road(t)), random.uniform(0.27, 0.4))
    _marks(image, below, t, aside, seen, random)
    return image


def _sky(height: Array, random: np.random.Generator) -> Array:
    """(3, size, 1): blue or grey above, lighter towards the horizon, where height is 1."""
    top = _colour([(0.3, 0.5, 0.85), (0.55, 0.6, 0.65)][random.integers(2)], 0.08, random)
    low = np.minimum(top + random.uniform(0.1, 0.35), 1)
    return np.asarray(top + (low - top) * np.clip(height, 0, 1))


def _hills(seen: View, random: np.random.Generator) -> Array:
    """y (size,) of a skyline: three waves above the horizon."""
    x = np.arange(seen.size) / seen.size * 2 * np.pi
    phases = random.uniform(0, 2 * np.pi, 3)
    waves = sum(np.sin(x * k + phases[k - 1]) / k for k in (1, 2, 3))
    return np.asarray(seen.horizon - seen.size * (0.05 + 0.03 * np.asarray(waves)))


def _marks(
    image: Array, below: Array, t: Array, aside: Array, seen: View, random: np.random.Generator
) -> None:
    """White lines along both edges, and dashes in the middle, evenly long on the ground."""
    half, thick = seen.half_road(t), seen.size * (0.002 + 0.022 * t)
    edges = _band(aside, half * 0.93 - thick, half * 0.93)
    distance = 1 / (t + 0.06)  # along the road, in units of the height of the camera
    dashes = (distance * 1.6 + random.uniform()) % 1 < 0.5
    white = random.uniform(0.7, 0.9)
    _paint(image, below * edges, white)
    _paint(image, below * dashes * _band(aside, -thick / 2, thick / 2), white)


def _band(x: Array, start: Array | float, stop: Array | float) -> Array:
    """How much of pixels around x lies between start and stop."""
    cover = np.minimum(x + 0.5, stop) - np.maximum(x - 0.5, start)
    return np.asarray(np.clip(cover, 0, 1))


def _paint(image: Array, cover: Array, colour: Array | float) -> None:
    image += cover.astype(np.float32) * (np.asarray(colour, dtype=np.float32) - image)


def _colour(about: tuple[float, float, float], spread: float, random: np.random.Generator) -> Array:
    colour = np.clip(about + random.uniform(-spread, spread, 3), 0, 1)
    return np.asarray(colour.reshape(3, 1, 1))
