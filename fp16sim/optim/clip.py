"""Clipping of gradients, in PyTorch's names and semantics; the results are rounded once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from fp16sim.arguments import real
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, carried, is_on_gpu, namespace_of
from fp16sim.events import Origin
from fp16sim.rounding import store

# Values whose squares are added at a time, to spare a float64 copy of everything.
BLOCK = 2**16


def clip_grad_norm_(
    params: Iterable[Tensor] | Tensor, max_norm: float, error_if_nonfinite: bool = False
) -> float:
    """Scale all gradients by max_norm/(norm + 1e-6) if that is less than 1; returns the norm.

    params: tensors, or one; those without a gradient are left out. max_norm: >= 0; infinity only
    measures, if the norm is finite. The norm is that of all gradients as one vector, added up in
    float64. Scaled gradients are rounded to their format.
    error_if_nonfinite: raise RuntimeError, before anything is changed, if the norm is infinite or
    NaN. Otherwise an infinite one makes zeros of finite gradients and NaN of infinite ones, and NaN
    makes NaN of all, which a GradScaler would have caught: unscale first, then clip.

    Raises TypeError or ValueError for anything else.
    """
    if max_norm != math.inf:
        max_norm = real("max_norm", max_norm, at_least=0)
    if not isinstance(error_if_nonfinite, bool | np.bool_):
        raise TypeError(f"error_if_nonfinite must be True or False, got {error_if_nonfinite!r}")
    with_gradient = _with_gradient(params)
    with np.errstate(all="ignore"):
        # A GPU is waited for once, for the sum of all.
        norm = math.sqrt(float(sum(_sum_of_squares(gradient) for _, gradient in with_gradient)))
        if error_if_nonfinite and not math.isfinite(norm):
            raise RuntimeError(
                f"the norm of the gradients is {norm}, so they cannot be clipped by it; to go on "
                "all the same, say error_if_nonfinite=False"
            )
        coefficient = max_norm / (norm + 1e-6)
        if not coefficient >= 1:  # NaN passes too
            for p, gradient in with_gradient:
                _replace(p, gradient * coefficient, "clip_grad_norm_")
    return norm


def clip_grad_value_(params: Iterable[Tensor] | Tensor, value: float) -> None:
    """Clip every gradient to [-value, value]; NaN stays NaN. The ends are rounded to its format.

    params: tensors, or one; those without a gradient are left out. value: finite and >= 0.
    Raises TypeError or ValueError for anything else.
    """
    value = real("value", value, at_least=0)
    with np.errstate(all="ignore"):
        for p, gradient in _with_gradient(params):
            clipped = namespace_of(gradient).clip(gradient, -value, value)
            _replace(p, clipped, "clip_grad_value_")


def _with_gradient(params: Iterable[Tensor] | Tensor) -> list[tuple[Tensor, Array]]:
    try:
        tensors = [params] if isinstance(params, Tensor) else list(params)
    except TypeError:
        raise TypeError(f"params must be tensors, as model.parameters(); got {params!r}") from None
    for position, p in enumerate(tensors):
        if not isinstance(p, Tensor):
            raise TypeError(f"params[{position}] must be a Tensor, got {type(p).__name__}")
    return [(p, carried(p.gradient)) for p in tensors if p.gradient is not None]


def _sum_of_squares(gradient: Array) -> Any:
    """A number; of a GPU's array, an array of one value that is there."""
    flat = gradient.reshape(-1)
    if is_on_gpu(flat):
        wide = flat.astype(np.float64)
        return wide @ wide
    total = 0.0
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK].astype(np.float64)
        total += float(block @ block)
    return total


def _replace(p: Tensor, gradient: Array, op: str) -> None:
    """A new array: the old one may be somebody's ``p.grad``."""
    origin = Origin("", op, f"{p.origin.role} gradient")
    p.gradient = store(gradient, p.fmt, origin, (p.gradient,))
