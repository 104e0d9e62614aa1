"""Recipes of 8-bit training: with which scales the operands of a product are quantized.

``fs.autocast("bf16", recipe=fs.recipes.DelayedScaling())``: inside, ``F.linear`` rounds both
operands to E4M3 and, on the way back, the gradient of its output to E5M2, each multiplied by a
scale that brings it into the format's range; the products are added in fp32 and multiplied by the
inverse scales. The formats are those of Micikevicius et al., "FP8 formats for deep learning",
arXiv 2209.05433, section 3 (the "hybrid" of NVIDIA's Transformer Engine).

==================  ===============================================================================
``DelayedScaling``  a scale per tensor, from the largest magnitudes (amax) of *earlier* steps: known
                    before the tensor is, so that a GPU need not read it twice
``CurrentScaling``  a scale per tensor, from its own amax
``MXFP8``           a power of two per 32 values that are added up, from their own amax; E4M3
                    everywhere
==================  ===============================================================================

An amax with an infinity or a NaN, or of nothing but zeros, makes no scale. What is larger than the
format's largest number saturates, as on the hardware: an overflow in 8 bits is not seen by a loss
scaler. So do infinities, except in MXFP8, where an infinity or a NaN makes a NaN of its block.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fp16sim.arguments import integer, one_of, real
from fp16sim.backend import Array, namespace_of
from fp16sim.blocks import MXFP8_E4M3, BlockFormat, store_blocks
from fp16sim.events import Origin
from fp16sim.formats import E4M3, E5M2, FP32, Format
from fp16sim.rounding import store

#: what the operands of the forward pass are rounded to, and gradients: precision there, range here
FORWARD, BACKWARD = E4M3, E5M2


class Quantized(NamedTuple):
    """A matrix as a product reads it."""

    #: numbers of the 8-bit format; of a block format, multiplied by their scales already
    values: Array
    #: what products with it are to be multiplied by: 1 / scale, an fp32 number
    inverse: np.float32
    #: what it takes to keep it
    fmt: Format | BlockFormat
    #: what it is, as ``Origin.role`` says it
    role: str


class Recipe(ABC):
    """How a matrix is quantized. Stateless unless a subclass says otherwise."""

    @abstractmethod
    def quantize(
        self, x: Array, origin: Origin, record: bool = True
    ) -> tuple[Quantized, Quantized]:
        """The matrix as read by products that add along its last axis, and along its first.

        x: 2-d, float32. origin: whose ``role`` ("activation", "weight", "activation gradient") says
        what it is and ``scope`` of which module; observers hear of the rounding under it.
        record: whether scales of later steps may depend on this (not in evaluation).
        """

    def roll(self) -> None:  # noqa: B027 - most recipes have nothing to do
        """A step begins: make scales of what the steps before recorded."""

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on, as plain values and arrays."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict()``; ValueError, and nothing changes, if it is no such."""
        if not isinstance(state, Mapping) or state:
            raise ValueError(f"state={state!r} is not allowed; {type(self).__name__} has none")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class _PerTensor(Recipe):
    """One scale for the whole tensor, the same for both products that read it."""

    def quantize(
        self, x: Array, origin: Origin, record: bool = True
    ) -> tuple[Quantized, Quantized]:
        fmt = BACKWARD if origin.role.endswith("gradient") else FORWARD
        scale = self._scale(x, fmt, origin, record)
        with np.errstate(all="ignore"):
            values = store(x * scale, fmt, origin, (x,), saturate=True)
        quantized = Quantized(values, np.float32(1) / scale, fmt, origin.role)
        return quantized, quantized

    @abstractmethod
    def _scale(self, x: Array, fmt: Format, origin: Origin, record: bool) -> np.float32:
        """What to multiply by before rounding."""


class CurrentScaling(_PerTensor):
    """scale = fmt.max / amax of the tensor itself, in fp32; 1 if amax is 0 or not finite.

    A scale that overflows is the largest fp32 number. Source: Transformer Engine's
    Float8CurrentScaling. On a GPU every tensor's amax is waited for.
    """

    def _scale(self, x: Array, fmt: Format, origin: Origin, record: bool) -> np.float32:
        return _scale_for(_amax(x), fmt, 0, np.float32(1))


@dataclass
class _History:
    """What is known of one tensor."""

    #: what the tensor is multiplied by in this step
    scale: np.float32
    #: amaxes, fp32: of this step at 0, of the one before at the end, and so on backwards
    amaxes: Array


class DelayedScaling(_PerTensor):
    """Scales from the amaxes of earlier steps; 1 in the first. State per path of module and role.

    When a step begins, for every tensor that was seen since the last one began::

        amax = max(history)           or, with "most_recent", history[0]
        scale = (fmt.max / amax) / 2^margin      in fp32; at most the largest fp32 number;
                                                 as before if amax is 0, infinite or NaN
        roll history by -1;  history[0] = 0

    and history[0] takes the largest amax of the step that follows. That is Transformer Engine's
    rule (DelayedScaling in common/recipe, its update in pytorch/fp8.py; tensors of amax 0 are left
    out as in its fused kernel). A step begins when an ``autocast`` region with this recipe is
    entered that is not inside of another. Transformer Engine rolls at the end instead: forward
    histories when the region is left, those of gradients after backward. With one backward pass to
    a region the scales are the same; and here a recomputation in the backward pass
    (``nn.checkpoint``) finds the scales of its forward pass. Backward passes that come before the
    next region count as one step, and so do products in one scope. Without a tape (``no_grad``),
    scales are used and nothing is recorded. One infinite amax keeps "max" from moving the scale as
    long as it is in the history; that is Transformer Engine's rule, too.

    Paths begin at the model that is called: two models that are called beside each other need a
    recipe each, or to be parts of one Module; under one recipe they would share their scales.

    margin: how many powers of two are left above amax, -16 to 16. amax_history_len: how many steps
        are looked back, this one included. amax_compute_algo: "max" or "most_recent".
    Raises TypeError or ValueError for other values.
    """

    def __init__(
        self, margin: int = 0, amax_history_len: int = 1024, amax_compute_algo: str = "max"
    ) -> None:
        self.margin = integer("margin", margin, at_least=-16, at_most=16)
        self.amax_history_len = integer("amax_history_len", amax_history_len, at_least=1)
        self.amax_compute_algo = one_of(
            "amax_compute_algo", amax_compute_algo, ("max", "most_recent")
        )
        self._tensors: dict[str, _History] = {}

    def _scale(self, x: Array, fmt: Format, origin: Origin, record: bool) -> np.float32:
        key = f"{origin.scope}/{origin.role}"
        history = self._tensors.get(key) or self._new_history()
        if record:
            self._tensors[key] = history
            history.amaxes[0] = np.maximum(history.amaxes[0], _amax(x))
        return history.scale

    def _new_history(self) -> _History:
        return _History(np.float32(1), np.zeros(self.amax_history_len, np.float32))

    def roll(self) -> None:
        """A step begins: see the class."""
        for key, history in self._tensors.items():
            if history.amaxes[0] == 0:
                continue
            recent = self.amax_compute_algo == "most_recent"
            amax = history.amaxes[0] if recent else history.amaxes.max()
            fmt = BACKWARD if key.endswith("gradient") else FORWARD
            history.scale = _scale_for(amax, fmt, self.margin, history.scale)
            history.amaxes = np.roll(history.amaxes, -1)
            history.amaxes[0] = 0

    def state_dict(self) -> dict[str, Any]:
        """By "module/role": "scale", a number, and "amaxes", float32 (amax_history_len,)."""
        return {
            key: {"scale": float(history.scale), "amaxes": history.amaxes.copy()}
            for key, history in self._tensors.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict()``; ValueError, and nothing changes, if it is no such."""
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a mapping, got {type(state).__name__}")
        if not all(isinstance(key, str) for key in state):
            raise ValueError("state must have names as keys, as 'encoder.0/weight'")
        self._tensors = {key: self._loaded(key, saved) for key, saved in state.items()}

    def _loaded(self, key: str, saved: Any) -> _History:
        if not isinstance(saved, Mapping) or set(saved) != {"scale", "amaxes"}:
            raise ValueError(f"state[{key!r}] must have just the entries scale, amaxes")
        amaxes, wanted = np.asarray(saved["amaxes"]), (self.amax_history_len,)
        if amaxes.dtype != np.float32 or amaxes.shape != wanted:
            raise ValueError(
                f"state[{key!r}]['amaxes'] is {amaxes.dtype} of shape {amaxes.shape}; it must be "
                f"float32 of shape {wanted}"
            )
        if (amaxes < 0).any():
            raise ValueError(f"state[{key!r}]['amaxes'] has negative numbers; amaxes have none")
        scale = real(f"state[{key!r}]['scale']", saved["scale"], above=0, at_most=FP32.max)
        return _History(np.float32(scale), amaxes.copy())

    def __repr__(self) -> str:
        settings = f"{self.margin}, {self.amax_history_len}, {self.amax_compute_algo!r}"
        return f"DelayedScaling({settings})"


class MXFP8(Recipe):
    """Blocks of 32 values along the axis that is added up, E4M3 with a power of two each.

    A matrix that two products read is quantized twice, along each of its axes. Scales as in
    ``fs.round_blocks`` (OCP MX 1.0: rounded down, so that the largest values of a block may
    saturate; Transformer Engine's MXFP8BlockScaling rounds up).
    """

    def quantize(
        self, x: Array, origin: Origin, record: bool = True
    ) -> tuple[Quantized, Quantized]:
        """See ``Recipe.quantize``."""
        last, first = (store_blocks(x, MXFP8_E4M3, axis, origin) for axis in (-1, 0))
        one, role = np.float32(1), origin.role
        return Quantized(last, one, MXFP8_E4M3, role), Quantized(first, one, MXFP8_E4M3, role)


def _amax(x: Array) -> np.float32:
    """The largest magnitude; NaN if there is one; 0 of nothing."""
    return np.float32(namespace_of(x).abs(x).max().item() if x.size else 0)


def _scale_for(amax: np.float32, fmt: Format, margin: int, otherwise: np.float32) -> np.float32:
    """(fmt.max / amax) / 2^margin in fp32, or ``otherwise`` if amax makes no scale."""
    if not (math.isfinite(amax) and amax > 0):
        return otherwise
    with np.errstate(all="ignore"):
        scale = np.float32(fmt.max) / amax / np.float32(2.0**margin)
    return np.float32(min(float(scale), FP32.max))
