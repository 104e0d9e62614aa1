"""Primitives that only move values about."""

from __future__ import annotations

from typing import Any

from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array


@primitive(exact=True)
def reshape(x: Array, *, shape: tuple[int, ...]) -> Any:
    """The same values in another shape, in C order."""
    return x.reshape(shape), (x.shape,)


@reshape.backward
def _(g: Array, shape: tuple[int, ...]) -> Any:
    return (g.reshape(shape),)
