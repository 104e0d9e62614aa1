"""GradScaler: PyTorch's face of a loss scale."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from functools import reduce
from typing import Any

import numpy as np

from fp16sim import events
from fp16sim.arguments import one_of
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, carried, namespace_of, to_host
from fp16sim.formats import FP16
from fp16sim.optim import Optimizer
from fp16sim.scaling.rules import SCALERS, LossScale, next_scale

#: entries of a state: PyTorch's, which are always there, and ours, which are if they say anything
_PYTORCH = {
    "scale": "scale",
    "growth_factor": "growth_factor",
    "backoff_factor": "backoff_factor",
    "growth_interval": "growth_interval",
    "streak": "_growth_tracker",
}
_OURS = ("min_scale", "max_scale", "hysteresis", "dynamic", "borne")


class _Stage(Enum):
    READY = "ready"
    UNSCALED = "unscaled"
    STEPPED = "stepped"


@dataclass(frozen=True)
class StepStatus:
    """What ``GradScaler.step`` did. It is true if the optimiser stepped, and prints as a sentence.

    nonfinite: how many values of a gradient were infinite or NaN, by the position of its parameter
        in ``optimizer.params``; empty if all were finite.
    """

    nonfinite: Mapping[int, int]

    @property
    def stepped(self) -> bool:
        """Whether the optimiser stepped; if not, ``nonfinite`` says why."""
        return not self.nonfinite

    def __bool__(self) -> bool:
        return self.stepped

    def __str__(self) -> str:
        if self.stepped:
            return "stepped"
        places = (f"{count} of params[{where}]" for where, count in self.nonfinite.items())
        return f"skipped: gradients were not finite, {', '.join(places)}"


class GradScaler:
    """Scales a loss, and steps an optimiser only with finite gradients; semantics of PyTorch 2.13.

    ::

        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)      # optional, as for clipping
        scaler.step(optimizer)          # false: skipped, a gradient was infinite or NaN
        scaler.update()

    init_scale: above 0, within the limits; rounded to fp32. growth_factor, backoff_factor,
    growth_interval, min_scale, max_scale, hysteresis: see ``LossScale``.
    enabled: False makes every method do nothing but step, so that one loop serves all precisions.
    dynamic: False keeps the scale where it is (static scaling); bad steps are skipped all the same.

    Raises TypeError or ValueError for settings out of range; RuntimeError for calls out of order.
    Where this is not what PyTorch does, ``fp16sim.scaling`` says so.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
        *,
        min_scale: float | None = None,
        max_scale: float | None = None,
        hysteresis: int = 1,
        dynamic: bool = True,
    ) -> None:
        rule = LossScale(
            growth_factor=growth_factor,
            backoff_factor=backoff_factor,
            growth_interval=growth_interval,
            min_scale=min_scale,
            max_scale=max_scale,
            hysteresis=hysteresis,
            dynamic=dynamic,
        )
        if not isinstance(enabled, bool):
            raise TypeError(f"enabled must be True or False, got {enabled!r}")
        self._state = rule.at(init_scale, "init_scale")
        self._enabled = enabled
        self._in_use = False  # scale() was called
        self._warned = False
        # What has happened to each optimiser since the last update(), and what was not finite.
        self._stages: dict[int, _Stage] = {}
        self._nonfinite: dict[int, dict[int, int]] = {}

    @staticmethod
    def preset(rule: str | LossScale, *, enabled: bool = True) -> GradScaler:
        """A scaler that moves its scale by a rule: one of ``SCALERS``, by name, or your own."""
        if not isinstance(rule, LossScale):
            rule = SCALERS[one_of("rule", rule, SCALERS)]
        scaler = GradScaler(enabled=enabled)
        scaler._state = rule.at(rule.scale)
        return scaler

    def is_enabled(self) -> bool:
        """Whether it scales at all."""
        return self._enabled

    def get_scale(self) -> float:
        """The scale now; 1 if disabled."""
        return self._state.scale if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """What the scale is multiplied by when it grows."""
        return self._state.growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Set it, above 1."""
        self._state = replace(self._state, growth_factor=new_factor)

    def get_backoff_factor(self) -> float:
        """What the scale is multiplied by when it backs off."""
        return self._state.backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set it, between 0 and 1."""
        self._state = replace(self._state, backoff_factor=new_factor)

    def get_growth_interval(self) -> int:
        """After how many finite steps in a row the scale grows."""
        return self._state.growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set it, at least 1. Not above the present streak, the scale grows no more: as PyTorch's.

        It grows when the streak *equals* the interval; an overflow begins a new streak.
        """
        self._state = replace(self._state, growth_interval=new_interval)

    def scale(self, outputs: Any) -> Any:
        """The loss times the scale, or all of several losses.

        outputs: a Tensor; or a list or a tuple, nested ones too, and the result is of the same
        kind; or another iterable, and the result is an iterator.

        The scale is an fp32 number without axes, and types are promoted as in PyTorch: an fp16
        loss without axes becomes fp32, one with axes stays fp16. The gradient of either is fp16,
        as every gradient lives in its value's format, and begins as the scale itself: 2^16 is
        infinite there. Under autocast losses are fp32.

        Raises TypeError for other things; RuntimeError if the scale is so small that gradients
        could not be divided by it.
        """
        if not self._enabled:
            return outputs
        self._inverse()
        scaled = self._scaled(outputs)
        self._in_use = True
        if events.observed():
            events.announce(events.Scaled(self._state.scale))
        return scaled

    def _scaled(self, outputs: Any) -> Any:
        if isinstance(outputs, Tensor):
            product = outputs * Tensor(np.float32(self._state.scale), device=outputs.device)
            return product if outputs.ndim == 0 else product.to(outputs.fmt)
        if isinstance(outputs, list | tuple):
            return type(outputs)(map(self._scaled, outputs))
        if isinstance(outputs, Iterable) and not isinstance(outputs, str | bytes | np.ndarray):
            return map(self._scaled, outputs)
        raise TypeError(
            f"outputs must be a Tensor, or an iterable of Tensors, got {type(outputs).__name__}"
        )

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale, in fp32, and note whether all were finite before.

        Raises RuntimeError if called twice, or after ``step``, since the last ``update``, or if
        ``scale`` was never called; ValueError for fp16 gradients: divided by the scale, they would
        underflow after all.
        """
        _check_optimizer(optimizer)
        if not self._enabled:
            return
        self._check_in_use("unscale_")
        match self._stages.get(id(optimizer), _Stage.READY):
            case _Stage.UNSCALED:
                raise RuntimeError("unscale_() was already called on this optimizer since update()")
            case _Stage.STEPPED:
                raise RuntimeError("unscale_() must come before step(), not after it")
        gradients: dict[int, Array] = {}
        for position, p in enumerate(optimizer.params):
            if p.gradient is None:
                continue
            if p.fmt == FP16:
                raise ValueError(
                    f"params[{position}] has an fp16 gradient, which cannot be unscaled without "
                    "underflow; keep parameters in fp32 and cast them with autocast"
                )
            gradients[position] = carried(p.gradient)
        if not gradients:
            return
        inverse = self._inverse()
        self._nonfinite[id(optimizer)] = nonfinite = _count_nonfinite(gradients)
        with np.errstate(all="ignore"):
            for position, gradient in gradients.items():
                p = optimizer.params[position]
                p.grad = Tensor(gradient * inverse, fmt=p.fmt)
        self._stages[id(optimizer)] = _Stage.UNSCALED
        if events.observed():
            finite = not nonfinite
            events.announce(events.Unscaled(optimizer, self._state.scale, finite))

    def step(self, optimizer: Optimizer) -> StepStatus:
        """Unscale if that is still to do, and step unless a gradient was not finite.

        Gradients of an optimiser with ``master_weights`` may be in fp16: they stay scaled, and the
        optimiser divides them as it reads them, in fp32, as apex's O2 and PyTorch's fused
        optimisers do.

        Returns what it did, which is true if the optimiser stepped. Raises RuntimeError if called
        twice since the last ``update``, if no parameter has a gradient, or if ``scale`` was never
        called.
        """
        _check_optimizer(optimizer)
        if not self._enabled:
            optimizer.step()
            return StepStatus({})
        self._check_in_use("step")
        stage = self._stages.get(id(optimizer), _Stage.READY)
        if stage is _Stage.STEPPED:
            raise RuntimeError("step() was already called on this optimizer since update()")
        left_scaled = stage is _Stage.READY and optimizer.master_weights and _has_fp16(optimizer)
        if left_scaled:
            self._check_scaled(optimizer)
        elif stage is _Stage.READY:
            self.unscale_(optimizer)
        if id(optimizer) not in self._nonfinite:
            raise RuntimeError("step() found no gradients: call scale(loss).backward() before it")
        self._stages[id(optimizer)] = _Stage.STEPPED
        status = StepStatus(self._nonfinite[id(optimizer)])
        if status.stepped:
            optimizer.grad_factor = float(self._inverse()) if left_scaled else 1.0
            try:
                optimizer.step()
            finally:
                optimizer.grad_factor = 1.0
        elif events.observed():
            events.announce(events.Stepped(optimizer, taken=False))
        return status

    def _check_scaled(self, optimizer: Optimizer) -> None:
        """Note what is not finite, and leave gradients as they are."""
        gradients = {
            i: p.gradient for i, p in enumerate(optimizer.params) if p.gradient is not None
        }
        self._nonfinite[id(optimizer)] = _count_nonfinite(gradients)
        if events.observed():
            finite = not self._nonfinite[id(optimizer)]
            events.announce(events.Unscaled(optimizer, self._state.scale, finite))

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Move the scale by what happened since the last call, or set it to ``new_scale``.

        One optimiser with a gradient that was not finite is enough to back off. new_scale: above 0,
        within the limits, rounded to fp32; a number, or a Tensor of one value that requires no
        gradient. It leaves the streak as it is.

        Raises RuntimeError if no gradients were checked since then, or if ``scale`` was never
        called; TypeError or ValueError for a bad ``new_scale``. Warns, once, when the scale falls
        below 1.
        """
        if not self._enabled:
            return
        self._check_in_use("update")
        before, finite = self._state.scale, not any(self._nonfinite.values())
        if new_scale is not None:
            self._state = self._state.at(_number(new_scale), "new_scale")
        elif not self._nonfinite:
            raise RuntimeError("update() without a step() or unscale_() before it")
        else:
            self._state = next_scale(self._state, finite)
        self._stages.clear()
        self._nonfinite.clear()
        if events.observed():
            events.announce(events.Rescaled(before, self._state.scale, finite))
        if new_scale is None and self._state.scale < min(before, 1.0) and not self._warned:
            self._warned = True
            warnings.warn(
                f"the loss scale has fallen to {self._state.scale:g}: it now makes gradients "
                f"smaller, and they still are not finite. {_NOT_THE_SCALE}",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """The scale, its settings and its streak, under PyTorch's names; empty if disabled.

        Settings that PyTorch does not have are in it if they are not their defaults, and so is
        the number of overflows borne.
        """
        if not self._enabled:
            return {}
        state, default = asdict(self._state), LossScale()
        ours = {name: state[name] for name in _OURS if state[name] != getattr(default, name)}
        return {name: state[field] for field, name in _PYTORCH.items()} | ours

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a ``state_dict()``, or from that of a torch.amp.GradScaler.

        Settings that it does not have stay as they are. Raises RuntimeError for one of a disabled
        scaler, TypeError or ValueError for missing or other entries and for bad values.
        """
        if not self._enabled:
            return
        if state == {}:
            raise RuntimeError("the state is empty: it was saved from a disabled GradScaler")
        if not isinstance(state, dict):
            raise TypeError(f"state must be a dict, got {state!r}")
        needed = set(_PYTORCH.values())
        if not needed <= set(state) <= needed | set(_OURS):
            raise ValueError(
                f"state must have just the entries {', '.join(sorted(needed))}, and may have "
                f"{', '.join(_OURS)}; got {state!r}"
            )
        fields = {field: state[name] for field, name in _PYTORCH.items()}
        ours = {"borne": 0} | {name: state[name] for name in _OURS if name in state}
        try:
            loaded = replace(self._state, **fields, **ours)
            # A scale of 0 is where PyTorch's may have fallen to.
            self._state = loaded.at(loaded.scale) if loaded.scale else loaded
        except (TypeError, ValueError) as error:
            raise type(error)(f"state does not fit: {error}") from None

    def _inverse(self) -> np.float32:
        """1/scale as unscaling needs it; RuntimeError if that is infinite in fp32."""
        with np.errstate(all="ignore"):
            inverse = np.float32(1.0 / np.float64(self._state.scale))
        if not np.isfinite(inverse):
            raise RuntimeError(
                f"the loss scale has fallen to {self._state.scale:g}, and 1/scale is infinite in "
                f"fp32: unscaling would make infinities and NaNs of all gradients. {_NOT_THE_SCALE}"
            )
        return inverse

    def _check_in_use(self, method: str) -> None:
        if not self._in_use:
            raise RuntimeError(
                f"{method}() before any scale(): call scale(loss).backward(), not loss.backward()"
            )


class StaticScaler(GradScaler):
    """A scaler whose scale never moves; steps with gradients that are not finite are skipped.

    scale: above 0 and finite in fp32. Micikevicius et al. (2018), section 3.2, used 8 to 32768.
    """

    def __init__(self, scale: float) -> None:
        super().__init__(scale, dynamic=False)


class NoScaler(GradScaler):
    """A disabled scaler: no scaling, and every step is taken."""

    def __init__(self) -> None:
        super().__init__(enabled=False)


_NOT_THE_SCALE = (
    "A gradient that overflows by its size is mended by a smaller scale, but an infinity or NaN "
    "that is born in the forward pass is not mended by any: fs.watch(model) names the operation "
    "that made the first."
)


def _count_nonfinite(gradients: dict[int, Array]) -> dict[int, int]:
    """How many values are infinite or NaN, where there are any; a GPU is waited for once if not."""
    xp = namespace_of(next(iter(gradients.values())))
    each = {position: xp.isfinite(gradient) for position, gradient in gradients.items()}
    if bool(reduce(operator.and_, (finite.all() for finite in each.values()))):
        return {}
    counts = to_host(xp.stack([(~finite).sum() for finite in each.values()]))
    return {position: int(n) for position, n in zip(each, counts, strict=True) if n}


def _number(new_scale: float | Tensor) -> float:
    """A new scale as a number, if it is a tensor."""
    if not isinstance(new_scale, Tensor):
        return new_scale
    if new_scale.requires_grad:
        raise ValueError("new_scale must be a number, or a tensor that requires no gradient")
    if new_scale.size != 1:
        raise ValueError(f"new_scale has shape {new_scale.shape}; it must be of one value")
    return new_scale.item()


def _has_fp16(optimizer: Optimizer) -> bool:
    return any(p.gradient is not None and p.fmt == FP16 for p in optimizer.params)


def _check_optimizer(optimizer: object) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be one of fp16sim.optim, got {optimizer!r}")
