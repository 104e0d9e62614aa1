"""Initial weights. Each draws float32 values from an explicit generator."""

from __future__ import annotations

import math

import numpy as np

from fp16sim.backend import Array, RandomLike, generator


def xavier_uniform(shape: tuple[int, int], rng: RandomLike = None) -> Array:
    """Uniform in ±sqrt(6 / (in + out)) for shape (out, in); Glorot and Bengio 2010, eq. 16."""
    bound = math.sqrt(6 / sum(shape))
    return generator(rng).uniform(-bound, bound, shape).astype(np.float32)


def fan_in_uniform(shape: tuple[int, ...], fan_in: int, rng: RandomLike = None) -> Array:
    """Uniform in ±1/sqrt(in), PyTorch's default for linear layers, weights and biases alike."""
    bound = 1 / math.sqrt(fan_in)
    return generator(rng).uniform(-bound, bound, shape).astype(np.float32)
