"""Attention by blocks of queries: scores and probabilities are kept for a block at a time only.

Keys that no query of a block may see are left out, so that a NaN in one of them does not reach it
(as zero times NaN would, in the primitive). Backward computes scores anew, as in Dao et al.,
"FlashAttention" (2022), section 3; the products are cuBLAS's. Arrays (..., length, width) are taken
as (heads, length, width).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import cupy
import numpy as np

from fp16sim.backend import Array
from fp16sim.kernels import product
from fp16sim.kernels.fused import rows, source
from fp16sim.kernels.fused.gpu import contiguous, kernel, launch, type_of

#: queries of a block; with fewer of them a causal mask would save more, but products get small
QUERIES = 256
#: bytes of a block's scores in fp32: an H100's cache has 50 MB, but every block costs some launches
SCORE_BYTES = 2**26


class Sight(NamedTuple):
    """Who sees whom: booleans that broadcast to (..., queries, keys), or each what came before."""

    allowed: Array | None
    causal: bool
    scale: float


class _Block(NamedTuple):
    heads: slice
    queries: slice
    #: as many as any of the queries may see
    keys: slice


def forward(q: Array, k: Array, v: Array, sight: Sight) -> Array:
    """softmax(q kᵀ · scale) v, in the dtype of all three."""
    shape = (*q.shape[:-1], v.shape[-1])
    q, k, v = map(_by_head, (q, k, v))
    out: Array = cupy.empty((*q.shape[:2], v.shape[-1]), q.dtype)
    mask = _mask(sight.allowed, shape[:-2], q, k)
    for block in _blocks(q, k, sight.causal):
        p = _weights(q, k, block, mask, sight)
        product(p, v[block.heads, block.keys], out=out[block.heads, block.queries])
    return out.reshape(shape)


def backward(g: Array, q: Array, k: Array, v: Array, sight: Sight) -> tuple[Array, Array, Array]:
    """Gradients of q, in its dtype, and of k and v, in fp32, from that of the result."""
    shapes = [x.shape for x in (q, k, v)]
    leading = q.shape[:-2]
    g, q, k, v = map(_by_head, (g, q, k, v))
    mask = _mask(sight.allowed, leading, q, k)
    of_q: Array = cupy.empty_like(q)
    of_k, of_v = (cupy.zeros(x.shape, np.float32) for x in (k, v))
    for block in _blocks(q, k, sight.causal):
        heads, queries, keys = block
        p = _weights(q, k, block, mask, sight)
        slope = g[heads, queries]
        product(p.swapaxes(1, 2), slope, out=of_v[heads, keys], onto=True)
        of_p = product(slope, v[heads, keys].swapaxes(1, 2))
        of_scores = weights_backward(of_p, p, sight.scale)
        product(of_scores, k[heads, keys], out=of_q[heads, queries])
        product(of_scores.swapaxes(1, 2), q[heads, queries], out=of_k[heads, keys], onto=True)
    gradients = zip((of_q, of_k, of_v), shapes, strict=True)
    one, two, three = (gradient.reshape(shape) for gradient, shape in gradients)
    return one, two, three


def _by_head(x: Array) -> Array:
    (whole,) = contiguous(x)
    return whole.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])


def _mask(allowed: Array | None, leading: tuple[int, ...], q: Array, k: Array) -> Array | None:
    """As (heads, queries, keys), or with one head if it is the same for all; a broadcast view."""
    if allowed is None:
        return None
    last = (1, 1, *allowed.shape)[-2:]
    if all(size == 1 for size in allowed.shape[:-2]):
        by_head = allowed.reshape(1, *last)
    else:
        by_head = cupy.broadcast_to(allowed, (*leading, *last)).reshape(math.prod(leading), *last)
    masks: Array = cupy.broadcast_to(by_head, (len(by_head), q.shape[1], k.shape[1]))
    return masks


def _blocks(q: Array, k: Array, causal: bool) -> Iterator[_Block]:
    heads, queries, _ = q.shape
    keys = k.shape[1]
    length = min(QUERIES, max(1, queries))
    several = max(1, SCORE_BYTES // (4 * length * keys))
    for first in range(0, heads, several):
        for start in range(0, queries, length):
            end = min(start + length, queries)
            seen = min(end, keys) if causal else keys
            yield _Block(slice(first, first + several), slice(start, end), slice(seen))


def _weights(q: Array, k: Array, block: _Block, mask: Array | None, sight: Sight) -> Array:
    """The block's probabilities, in the dtype of q."""
    scores = product(q[block.heads, block.queries], k[block.heads, block.keys].swapaxes(1, 2))
    if mask is not None:
        heads = block.heads if len(mask) > 1 else slice(None)
        mask = mask[heads, block.queries, block.keys]
    first = block.queries.start if sight.causal else None
    return weights(scores, mask, first, sight.scale, q)


def weights(
    scores: Array, allowed: Array | None, first: int | None, scale: float, like: Array
) -> Array:
    """softmax(scores · scale) along the last axis, of like's dtype; -inf for what is not seen.

    scores: fp32 (heads, queries, keys), contiguous. allowed: booleans of that shape, or for one
    head. first: which key the first query is: it and the next ones see no later ones; None: all.
    """
    out: Array = cupy.empty(scores.shape, like.dtype)
    if out.size:
        heads, queries, keys = out.shape
        period = queries
        if allowed is not None:
            (allowed,) = contiguous(allowed)
            period *= len(allowed)
        count, begin = heads * queries, -1 if first is None else first
        function = kernel("attention_weights", source.ROWS, rows.ATTENTION, T=type_of(out))
        arguments = (scores, allowed, out, count, keys, period, queries, begin, float(scale))
        launch(function, source.of_rows(count, keys), *arguments)
    return out


def weights_backward(g: Array, p: Array, scale: float) -> Array:
    """The gradient of the scores, of the weights' dtype; g: that of the weights p, in fp32."""
    (g,), (p,) = contiguous(g), contiguous(p)
    out: Array = cupy.empty_like(p)
    if out.size:
        count, keys = math.prod(out.shape[:-1]), out.shape[-1]
        function = kernel("attention_weights_backward", source.ROWS, rows.ATTENTION, T=type_of(out))
        geometry = source.of_rows(count, keys)
        launch(function, geometry, g, p, out, count, keys, float(scale))
    return out
