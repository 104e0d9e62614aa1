"""Cutting matrix products and dot products into tiles of results and runs of factors.

Two layouts, told apart by the shape of the results: (m, n) from factors (m, k) and (k, n), and
(t) from (t, k) and (t, k).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fp16sim.backend import Array

# Columns a tile: enough for NumPy's inner loops to be fast.
COLUMNS = 1024


def tiles(a: Array, b: Array, out: Array, size: int) -> Iterator[tuple[Array, Array, Array]]:
    """Parts of at most ``size`` results, with their factors; all of them views."""
    if out.ndim == 1:
        for start in range(0, len(out), size):
            part = slice(start, start + size)
            yield a[part], b[part], out[part]
        return
    if out.shape[1] < out.shape[0]:  # long rows are faster, and products commute
        a, b, out = b.T, a.T, out.T
    width = min(COLUMNS, max(1, out.shape[1]))
    height = max(1, size // width)
    for top in range(0, out.shape[0], height):
        rows = slice(top, top + height)
        for left in range(0, out.shape[1], width):
            columns = slice(left, left + width)
            yield a[rows], b[:, columns], out[rows, columns]


def runs(a: Array, b: Array, out: Array, length: int, dtype: Any) -> Iterator[tuple[Array, Array]]:
    """Factors of ``length`` products at a time, in order: copies, k first, that broadcast to

    (length, m, n) or (length, t). The last may be shorter.
    """
    for start in range(0, a.shape[1], length):
        part = slice(start, start + length)
        left = np.ascontiguousarray(a[:, part].T, dtype)
        if out.ndim == 1:
            yield left, np.ascontiguousarray(b[:, part].T, dtype)
        else:
            yield left[:, :, None], np.ascontiguousarray(b[part], dtype)[:, None, :]
