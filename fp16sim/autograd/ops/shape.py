"""Primitives that move values about, and what they repeat, add up on the way back."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array, add_at, namespace_of


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
    return x[key], (x.shape, key)


@index.backward
def of_index(g: Array, shape: tuple[int, ...], key: Any) -> Any:
    """Zeros of this shape with g at x[key], added up where a value was picked several times."""
    whole = namespace_of(g).zeros(shape, g.dtype)
    if picks_once(key):
        whole[key] = g
    else:
        add_at(whole, key, g)
    return (whole,)


def picks_once(key: Any) -> bool:
    """Whether a key is one of numbers and slices only, which pick no value several times."""
    parts = key if isinstance(key, tuple) else (key,)
    kinds = int | np.integer | slice
    return all(part is None or part is ... or isinstance(part, kinds) for part in parts)


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


@primitive(exact=True)
def expand(x: Array, *, shape: tuple[int, ...]) -> Any:
    """x repeated along new axes and axes of size 1; the tape sums over them."""
    return namespace_of(x).broadcast_to(x, shape), ()


@expand.backward
def _(g: Array) -> Any:
    return (g,)


@primitive
def pad(x: Array, *, widths: tuple[tuple[int, int], ...], value: float) -> Any:
    """x with a border of a constant."""
    sizes = zip(x.shape, widths, strict=True)
    padded = namespace_of(x).full(
        tuple(before + n + after for n, (before, after) in sizes), value, x.dtype
    )
    inside = tuple(
        slice(before, before + n) for n, (before, _) in zip(x.shape, widths, strict=True)
    )
    padded[inside] = x
    return padded, (inside,)


@pad.backward
def _(g: Array, inside: tuple[slice, ...]) -> Any:
    return (g[inside],)


@primitive
def embedding(weight: Array, *, ids: Array) -> Any:
    """Rows of a table (entries, width) by their numbers; a row gathers all its gradients."""
    return weight[ids], (ids, weight.shape)


@embedding.backward
def _(g: Array, ids: Array, shape: tuple[int, ...]) -> Any:
    rows = namespace_of(g).zeros(shape, g.dtype)
    add_at(rows, ids.reshape(-1), g.reshape(ids.size, shape[1]))
    return (rows,)


@primitive
def dropout(x: Array, *, kept: Array, p: float) -> Any:
    """x where ``kept`` holds, over 1 - p; zero elsewhere."""
    scale = kept * x.dtype.type(1 / (1 - p) if p < 1 else 0)
    return x * scale, (scale,)


@dropout.backward
def _(g: Array, scale: Array) -> Any:
    return (g * scale,)
