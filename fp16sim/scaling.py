"""Loss scaling: multiply the loss so that small gradients survive fp16, divide before the update.

``LossScale`` is the pure rule (a value and what it becomes, in the manner of jmp); ``GradScaler``
is PyTorch's face over it. Source of the idea: Micikevicius et al., "Mixed Precision Training",
ICLR 2018, section 3.2; of the dynamic rule and its constants: torch.amp.GradScaler.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from enum import Enum
from functools import reduce
from typing import Any

import numpy as np

from fp16sim.arguments import integer, real
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, namespace_of
from fp16sim.formats import FP16, FP32
from fp16sim.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class LossScale:
    """A loss scale and the rule by which it moves; one step of the rule is ``next_scale``.

    ::

        if a gradient was not finite:  scale *= backoff_factor;  streak = 0
        else:                          streak += 1
                                       if streak == growth_interval:
                                           scale *= growth_factor, unless that is not finite
                                           streak = 0

    The scale is an fp32 number; products are rounded to it once. There is no floor: a scale that
    keeps falling says that the fault is not the scale's.

    Raises ValueError for a scale below 0 or not finite, growth_factor <= 1, backoff_factor
    outside (0, 1), growth_interval < 1.
    """

    scale: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    #: finite steps in a row since the scale last moved
    streak: int = 0
    #: False: the scale never moves
    dynamic: bool = True

    def __post_init__(self) -> None:
        real("scale", self.scale, at_least=0, below=2.0**128)
        real("growth_factor", self.growth_factor, above=1)
        real("backoff_factor", self.backoff_factor, above=0, below=1)
        integer("growth_interval", self.growth_interval, at_least=1)
        integer("streak", self.streak, at_least=0)


def next_scale(state: LossScale, finite: bool) -> LossScale:
    """The scale after a step whose gradients were all finite, or not."""
    if not state.dynamic:
        return state
    if not finite:
        return replace(state, scale=_float32(state.scale * state.backoff_factor), streak=0)
    if state.streak + 1 != state.growth_interval:
        return replace(state, streak=state.streak + 1)
    grown = _float32(state.scale * state.growth_factor)
    return replace(state, scale=grown if np.isfinite(grown) else state.scale, streak=0)


def _float32(value: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.float32(value))


def _positive_float32(name: str, value: float) -> float:
    """The number rounded to fp32; it must not round to zero or infinity."""
    return _float32(real(name, value, at_least=FP32.smallest_subnormal, below=FP32.max))


class _Stage(Enum):
    READY = "ready"
    UNSCALED = "unscaled"
    STEPPED = "stepped"


class GradScaler:
    """Scales a loss, and steps an optimiser only with finite gradients; semantics of PyTorch 2.13.

    ::

        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)      # optional, as for clipping
        scaler.step(optimizer)          # False: skipped, a gradient was infinite or NaN
        scaler.update()

    init_scale, growth_factor, backoff_factor, growth_interval: see ``LossScale``.
    enabled: False makes every method do nothing but step, so that one loop serves all precisions.
    dynamic: False keeps the scale where it is (static scaling); bad steps are skipped all the same.

    Raises ValueError for settings out of range; RuntimeError for calls out of order.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
        *,
        dynamic: bool = True,
    ) -> None:
        self._state = LossScale(
            scale=_positive_float32("init_scale", init_scale),
            growth_factor=growth_factor,
            backoff_factor=backoff_factor,
            growth_interval=growth_interval,
            dynamic=dynamic,
        )
        self._enabled = bool(enabled)
        # What has happened to each optimiser since the last update(), and whether it was finite.
        self._stages: dict[int, _Stage] = {}
        self._finite: dict[int, bool] = {}

    def is_enabled(self) -> bool:
        """Whether it scales at all."""
        return self._enabled

    def get_scale(self) -> float:
        """The scale now; 1 if disabled."""
        return self._state.scale if self._enabled else 1.0

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale, which is an fp32 number: an fp16 loss becomes fp32.

        Its gradient is still fp16, as every gradient lives in its value's format, and begins as
        the scale itself: 2^16 is infinite there. Under autocast losses are fp32.
        """
        if not isinstance(loss, Tensor):
            raise TypeError(f"loss must be a Tensor, got {type(loss).__name__}")
        if not self._enabled:
            return loss
        return loss * Tensor(np.float32(self._state.scale), device=loss.device)

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale, in fp32, and note whether all were finite before.

        Raises RuntimeError if called twice, or after ``step``, since the last ``update``;
        ValueError for fp16 gradients: divided by the scale, they would underflow after all.
        """
        _check_optimizer(optimizer)
        if not self._enabled:
            return
        match self._stages.get(id(optimizer), _Stage.READY):
            case _Stage.UNSCALED:
                raise RuntimeError("unscale_() was already called on this optimizer since update()")
            case _Stage.STEPPED:
                raise RuntimeError("unscale_() must come before step(), not after it")
        for position, p in enumerate(optimizer.params):
            if p.gradient is not None and p.fmt == FP16:
                raise ValueError(
                    f"params[{position}] has an fp16 gradient, which cannot be unscaled without "
                    "underflow; keep parameters in fp32 and cast them with autocast"
                )
        gradients = [p.gradient for p in optimizer.params if p.gradient is not None]
        if not gradients:
            return
        self._finite[id(optimizer)] = _all_finite(gradients)
        with np.errstate(all="ignore"):
            inverse = np.float32(1.0 / np.float64(self._state.scale))
            for p in optimizer.params:
                if p.gradient is not None:
                    p.grad = Tensor(p.gradient * inverse, fmt=p.fmt)
        self._stages[id(optimizer)] = _Stage.UNSCALED

    def step(self, optimizer: Optimizer) -> bool:
        """Unscale if that is still to do, and step unless a gradient was not finite.

        Gradients of an optimiser with ``master_weights`` may be in fp16: they stay scaled, and the
        optimiser divides them as it reads them, in fp32.

        Returns whether the optimiser stepped. Raises RuntimeError if called twice since the last
        ``update``, or if no parameter has a gradient.
        """
        _check_optimizer(optimizer)
        if not self._enabled:
            optimizer.step()
            return True
        stage = self._stages.get(id(optimizer), _Stage.READY)
        if stage is _Stage.STEPPED:
            raise RuntimeError("step() was already called on this optimizer since update()")
        in_fp16 = any(p.gradient is not None and p.fmt == FP16 for p in optimizer.params)
        left_scaled = stage is _Stage.READY and optimizer.master_weights and in_fp16
        if left_scaled:
            self._check_scaled(optimizer)
        elif stage is _Stage.READY:
            self.unscale_(optimizer)
        if id(optimizer) not in self._finite:
            raise RuntimeError("step() found no gradients: call scale(loss).backward() before it")
        self._stages[id(optimizer)] = _Stage.STEPPED
        if self._finite[id(optimizer)]:
            optimizer.grad_factor = 1.0 / self._state.scale if left_scaled else 1.0
            try:
                optimizer.step()
            finally:
                optimizer.grad_factor = 1.0
        return self._finite[id(optimizer)]

    def _check_scaled(self, optimizer: Optimizer) -> None:
        """For master copies: note whether gradients are finite, and leave them as they are.

        The optimiser divides them by the scale as it reads them, in fp32: what apex's O2 and
        PyTorch's fused optimisers do.
        """
        gradients = [p.gradient for p in optimizer.params if p.gradient is not None]
        if gradients:
            self._finite[id(optimizer)] = _all_finite(gradients)

    def update(self, new_scale: float | None = None) -> None:
        """Move the scale by what happened since the last call, or set it to ``new_scale``.

        One optimiser with a gradient that was not finite is enough to back off. Raises
        RuntimeError if no gradients were checked since then; ValueError for a bad ``new_scale``.
        """
        if not self._enabled:
            return
        if new_scale is not None:
            scale = _positive_float32("new_scale", new_scale)
            self._state = replace(self._state, scale=scale)
        elif not self._finite:
            raise RuntimeError("update() without a step() or unscale_() before it")
        else:
            self._state = next_scale(self._state, all(self._finite.values()))
        self._stages.clear()
        self._finite.clear()

    def state_dict(self) -> dict[str, Any]:
        """The scale, its settings and its streak, under PyTorch's names; empty if disabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self._state.scale,
            "growth_factor": self._state.growth_factor,
            "backoff_factor": self._state.backoff_factor,
            "growth_interval": self._state.growth_interval,
            "_growth_tracker": self._state.streak,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a ``state_dict()``.

        Raises RuntimeError for one of a disabled scaler, ValueError for missing or other entries.
        """
        if not self._enabled:
            return
        if state == {}:
            raise RuntimeError("the state is empty: it was saved from a disabled GradScaler")
        allowed = set(self.state_dict())
        if not isinstance(state, dict) or set(state) != allowed:
            raise ValueError(f"state must have just the entries {', '.join(sorted(allowed))}")
        renamed = {"streak" if name == "_growth_tracker" else name: v for name, v in state.items()}
        self._state = replace(self._state, **renamed)


def _all_finite(gradients: list[Array]) -> bool:
    """Whether all values of all gradients are finite; a GPU is waited for once."""
    each = (namespace_of(g).isfinite(g).all() for g in gradients)
    return bool(reduce(operator.and_, each))


def _check_optimizer(optimizer: Optimizer) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be one of fp16sim.optim, got {optimizer!r}")
