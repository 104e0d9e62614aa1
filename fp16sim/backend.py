"""Where arrays live. Code above asks the array for its module instead of assuming NumPy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fp16sim.formats import FP32, Format

#: a NumPy array, or a CuPy array, which has the same interface
Array: TypeAlias = NDArray[Any]

#: makes so many uniform random numbers, uint32
Draw: TypeAlias = "Callable[[int], Array]"

#: what ``rng`` arguments accept: a seed, a generator, or None for fresh entropy
RandomLike: TypeAlias = "int | np.random.Generator | None"  # a string: np.random loads slowly


def namespace_of(x: object) -> ModuleType:
    """The module whose functions work on ``x``: ``numpy``, or ``cupy`` for a GPU array.

    Raises TypeError for anything that is not an array. CuPy is looked up, never imported: who
    holds one of its arrays has imported it.
    """
    if isinstance(x, np.ndarray | np.generic):
        return np
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        return cupy
    raise TypeError(f"expected a NumPy or CuPy array, got {type(x).__name__}")


def carrier_of(fmt: Format) -> np.dtype[Any]:
    """The dtype in which an emulated array of this format is stored: float32 if it fits."""
    return np.dtype(np.float32 if FP32.contains(fmt) else np.float64)


def generator(rng: RandomLike) -> np.random.Generator:
    """A random generator from a seed, or the given one.

    Raises TypeError for other types, ValueError for negative seeds.
    """
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer | np.random.Generator | None):
        raise TypeError(f"rng must be an integer seed, a np.random.Generator or None, got {rng!r}")
    if isinstance(rng, int | np.integer) and rng < 0:
        raise ValueError(f"rng={rng} is not allowed; a seed must be at least 0")
    return np.random.default_rng(rng)


def add_at(target: Array, key: Any, values: Array) -> None:
    """``target[key] += values``, where a place that is named several times gets all its values."""
    xp = namespace_of(target)
    if xp is not np or not (isinstance(key, np.ndarray) and key.ndim == 1 and key.dtype != bool):
        xp.add.at(target, key, values)
        return
    if not len(key):
        return
    # Rows: sorted by their places, each place's are next to each other, and are summed at once.
    key = key % len(target)  # -1 is the last
    order = np.argsort(key, kind="stable")
    places = key[order]
    starts = np.flatnonzero(np.concatenate([[True], places[1:] != places[:-1]]))
    target[places[starts]] += np.add.reduceat(values[order], starts, axis=0)
