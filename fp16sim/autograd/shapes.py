"""Whether shapes and axes fit what is asked: errors that say what was given, before any work."""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import numpy as np

from fp16sim.autograd.tape import Node

N = TypeVar("N", bound=Node)

#: an axis, several, or all of them
Axes: TypeAlias = int | tuple[int, ...] | None


def check_broadcast(left: tuple[int, ...], right: tuple[int, ...], what: str) -> None:
    """Raises ValueError unless two shapes broadcast; ``what`` has places for both."""
    try:
        np.broadcast_shapes(left, right)
    except ValueError:
        raise ValueError(what.format(left, right) + " do not broadcast") from None


def checked_axes(node: Node, axis: Axes) -> Axes:
    """The axes of a reduction. Raises TypeError, or ValueError for those that are not there."""
    shape, axes = node.data.shape, _several(axis)
    for one in axes:
        if isinstance(one, bool) or not isinstance(one, int | np.integer):
            raise TypeError(f"axis={axis!r} must be an integer, a tuple of integers or None")
        if not -len(shape) <= one < len(shape):
            raise ValueError(f"axis={axis!r} is out of range for shape {shape}")
    if len({one % len(shape) for one in axes}) < len(axes):
        raise ValueError(f"axis={axis!r} names an axis twice")
    return axis


def not_empty(node: N, axis: Axes, what: str) -> N:
    """The node. Raises ValueError if a reduction over these axes has no values."""
    shape = node.data.shape
    axes = range(len(shape)) if axis is None else _several(axis)
    if any(shape[one] == 0 for one in axes):
        raise ValueError(f"{what} over axis {axis} of shape {shape}: there are no values")
    return node


def _several(axis: Axes) -> tuple[int, ...]:
    return () if axis is None else axis if isinstance(axis, tuple) else (axis,)
