"""Loss scaling: multiply the loss so that small gradients survive fp16, divide before the update.

``LossScale`` is the pure rule (a value and what it becomes, in the manner of jmp); ``GradScaler``
is PyTorch's face over it. Source of the idea: Micikevicius et al., "Mixed Precision Training",
ICLR 2018, section 3.2; of the dynamic rule and its constants: torch.amp.GradScaler.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np

from fp16sim.autograd import Tensor
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
        interval = self.growth_interval
        _require(0 <= self.scale <= FP32.max, "scale", self.scale, "0 to fp32's max")
        _require(
            1 < self.growth_factor <= FP32.max,
            "growth_factor",
            self.growth_factor,
            "over 1, finite",
        )
        _require(
            0 < self.backoff_factor < 1, "backoff_factor", self.backoff_factor, "between 0 and 1"
        )
        _require(
            isinstance(interval, int) and interval >= 1,
            "growth_interval",
            interval,
            "an integer of at least 1",
        )


def _require(good: bool, name: str, value: object, allowed: str) -> None:
    if not good:
        raise ValueError(f"{name}={value!r} is not allowed; allowed is {allowed}")


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
        _require(init_scale > 0, "init_scale", init_scale, "over 0, finite")
        self._state = LossScale(
            scale=_float32(init_scale) if init_scale <= FP32.max else init_scale,
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
        """The loss times the scale, which is an fp32 number: an fp16 loss becomes fp32."""
        if not isinstance(loss, Tensor):
            raise TypeError(f"loss must be a Tensor, got {type(loss).__name__}")
        if not self._enabled:
            return loss
        return loss * Tensor(np.float32(self._state.scale))

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale, in fp32, and note whether all were finite before.

        Raises RuntimeError if called twice, or after ``step``, since the last ``update``;
        ValueError for fp16 gradients: divided by the scale, they would underflow after all.
        """
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
        with np.errstate(all="ignore"):
            inverse = np.float32(1.0 / np.float64(self._state.scale))
            gradients = [p.gradient for p in optimizer.params if p.gradient is not None]
            if gradients:
                self._finite[id(optimizer)] = all(bool(np.isfinite(g).all()) for g in gradients)
            for p in optimizer.params:
                if p.gradient is not None:
                    p.grad = Tensor(p.gradient * inverse, fmt=p.fmt)
        self._stages[id(optimizer)] = _Stage.UNSCALED

    def step(self, optimizer: Optimizer) -> bool:
        """Unscale if that is still to do, and step unless a gradient was not finite.

        Returns whether the optimiser stepped. Raises RuntimeError if called twice since the last
        ``update``, or if no parameter has a gradient.
        """
        if not self._enabled:
            optimizer.step()
            return True
        stage = self._stages.get(id(optimizer), _Stage.READY)
        if stage is _Stage.STEPPED:
            raise RuntimeError("step() was already called on this optimizer since update()")
        if stage is _Stage.READY:
            self.unscale_(optimizer)
        if id(optimizer) not in self._finite:
            raise RuntimeError("step() found no gradients: call scale(loss).backward() before it")
        self._stages[id(optimizer)] = _Stage.STEPPED
        if self._finite[id(optimizer)]:
            optimizer.step()
        return self._finite[id(optimizer)]

    def update(self, new_scale: float | None = None) -> None:
        """Move the scale by what happened since the last call, or set it to ``new_scale``.

        One optimiser with a gradient that was not finite is enough to back off. Raises
        RuntimeError if no gradients were checked since then; ValueError for a bad ``new_scale``.
        """
        if not self._enabled:
            return
        if new_scale is not None:
            _require(0 < new_scale <= FP32.max, "new_scale", new_scale, "over 0, finite")
            self._state = replace(self._state, scale=_float32(new_scale))
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
        """Continue from a ``state_dict()``; raises RuntimeError for one of a disabled scaler."""
        if not self._enabled:
            return
        if not state:
            raise RuntimeError("the state is empty: it was saved from a disabled GradScaler")
        renamed = {"streak" if name == "_growth_tracker" else name: v for name, v in state.items()}
        self._state = replace(self._state, **renamed)
