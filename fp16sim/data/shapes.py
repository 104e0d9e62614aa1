"""How much of every pixel a shape covers: soft edges, one pixel wide, by signed distance."""

from __future__ import annotations

import numpy as np

from fp16sim.backend import Array


def ellipse(x: Array, y: Array, half_width: float, half_height: float) -> Array:
    """Coverage 0..1 of pixels at (x, y), in pixels from the centre; x and y broadcast.

    The distance to the edge is estimated as f/|grad f|, which is exact on the axes (Quilez,
    "Ellipse - distance estimation", 2013).
    """
    u, v = x / half_width, y / half_height
    radius = np.sqrt(u * u + v * v)
    slope = np.sqrt((u / half_width) ** 2 + (v / half_height) ** 2)
    distance = radius * (radius - 1) / np.maximum(slope, 1e-9)
    # In the very centre the estimate is 0/0; there is no doubt that the centre is covered.
    return np.asarray(np.where(radius < 0.5, 1.0, _soft(distance)))


def slab(
    x: Array,
    y: Array,
    half_width: Array | float,
    half_height: float,
    corner: float = 0.0,
) -> Array:
    """The same of a box with round corners of radius ``corner``.

    The half width may be an array like ``y``, a width for every row: then it is a trapezium.
    """
    beside = np.abs(x) - half_width + corner
    above = np.abs(y) - half_height + corner
    outside = np.sqrt(np.maximum(beside, 0) ** 2 + np.maximum(above, 0) ** 2)
    distance = outside + np.minimum(np.maximum(beside, above), 0) - corner
    return _soft(distance)


def _soft(distance: Array) -> Array:
    return np.asarray(np.minimum(np.maximum(0.5 - distance, 0), 1))  # faster than np.clip
