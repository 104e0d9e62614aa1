"""Primitives that only move values about."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array, namespace_of


@primitive(exact=True)
def reshape(x: Array, *, shape: tuple[int, ...]) -> Any:
    """The same values in another shape, in C order."""
    return x.reshape(shape), (x.shape,)


@reshape.backward
def _(g: Array, shape: tuple[int, ...]) -> Any:
    return (g.reshape(shape),)


@primitive(exact=True)
def transpose(x: Array, *, axes: tuple[int, ...]) -> Any:
    """The axes in another order."""
    back = sorted(range(len(axes)), key=axes.__getitem__)
    return x.transpose(axes), (back,)


@transpose.backward
def _(g: Array, back: list[int]) -> Any:
    return (g.transpose(back),)


@primitive
def index(x: Array, *, key: Any) -> Any:
    """x[key]; what is picked several times gathers the sum of its gradients."""
    return x[key], (x.shape, x.dtype, key)


@index.backward
def _(g: Array, shape: tuple[int, ...], dtype: Any, key: Any) -> Any:
    xp = namespace_of(g)
    whole = xp.zeros(shape, dtype)
    xp.add.at(whole, key, g)
    return (whole,)


@primitive(exact=True)
def concatenate(*parts: Array, axis: int) -> Any:
    """One array of several, along an axis that they have."""
    xp = namespace_of(parts[0])
    ends = [0]
    for part in parts:
        ends.append(ends[-1] + part.shape[axis])
    return xp.concatenate(parts, axis), (ends, axis)


@concatenate.backward
def _(g: Array, ends: list[int], axis: int) -> Any:
    before = (slice(None),) * (axis % g.ndim)
    return tuple(g[(*before, slice(*pair))] for pair in pairwise(ends))
