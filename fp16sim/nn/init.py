"""Initial weights. Each draws float32 values from an explicit generator.

fan_in and fan_out are the numbers of terms in a sum of the forward and of the backward pass: for a
weight (out, in, ...) they are in and out times the number of kernel elements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fp16sim.backend import Array, RandomLike, generator


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in, ...)."""
    if len(shape) < 2:
        raise ValueError(f"shape={tuple(shape)} is not allowed; a weight is (out, in, ...)")
    if not all(size > 0 for size in shape):
        raise ValueError(f"shape={tuple(shape)} is not allowed; sizes must be at least 1")
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def uniform(shape: Sequence[int], bound: float, rng: RandomLike = None) -> Array:
    """Uniform in ±bound."""
    return generator(rng).uniform(-bound, bound, shape).astype(np.float32)


def normal(shape: Sequence[int], std: float, rng: RandomLike = None) -> Array:
    """Normal with mean 0 and this standard deviation."""
    return (std * generator(rng).standard_normal(shape)).astype(np.float32)


def fan_in_uniform(shape: Sequence[int], fan_in: int, rng: RandomLike = None) -> Array:
    """Uniform in ±1/√fan_in, PyTorch's default for linear layers and convolutions, biases too."""
    return uniform(shape, 1 / math.sqrt(fan_in), rng)


def xavier_uniform(shape: Sequence[int], rng: RandomLike = None) -> Array:
    """Uniform in ±√(6 / (fan_in + fan_out)); Glorot and Bengio 2010, eq. 16."""
    return uniform(shape, math.sqrt(6 / sum(fans(shape))), rng)


def xavier_normal(shape: Sequence[int], rng: RandomLike = None) -> Array:
    """Normal with variance 2 / (fan_in + fan_out); Glorot and Bengio 2010, eq. 12."""
    return normal(shape, math.sqrt(2 / sum(fans(shape))), rng)


def kaiming_uniform(shape: Sequence[int], rng: RandomLike = None) -> Array:
    """Uniform with variance 2 / fan_in, for ReLU; He et al. 2015, eq. 10."""
    return uniform(shape, math.sqrt(6 / fans(shape)[0]), rng)


def kaiming_normal(shape: Sequence[int], rng: RandomLike = None) -> Array:
    """Normal with variance 2 / fan_in, for ReLU; He et al. 2015, eq. 10."""
    return normal(shape, math.sqrt(2 / fans(shape)[0]), rng)
