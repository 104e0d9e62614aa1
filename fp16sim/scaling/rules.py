"""How a loss scale moves: pure rules, as values (in the manner of jmp), and those of well-known
libraries by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from fp16sim.arguments import integer, real
from fp16sim.formats import FP32


@dataclass(frozen=True, kw_only=True)
class LossScale:
    """A loss scale and the rule by which it moves; one step of the rule is ``next_scale``.

    ::

        if a gradient was not finite:
            streak = 0
            if borne + 1 < hysteresis:  borne += 1
            else:                       scale *= backoff_factor
        else:
            streak += 1
            if streak == growth_interval:
                streak = borne = 0
                scale *= growth_factor

    A product stays between min_scale and max_scale, and is rounded to fp32 once; if that makes
    it infinite, the scale stays what it was. Without min_scale there is no floor: a scale that
    keeps falling says that the fault is not the scale's.

    Raises TypeError or ValueError for a scale below 0 or not finite, growth_factor <= 1,
    backoff_factor outside (0, 1), growth_interval or hysteresis < 1, limits that are not
    0 < min_scale <= max_scale.
    """

    scale: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    #: where the scale stops falling, and growing; None: nowhere
    min_scale: float | None = None
    max_scale: float | None = None
    #: the scale backs off from this overflow on, counted since it last grew; 1: from the first
    hysteresis: int = 1
    #: False: the scale never moves
    dynamic: bool = True
    #: finite steps in a row since the scale last moved
    streak: int = 0
    #: overflows since the scale last grew that it did not back off from; less than hysteresis
    borne: int = 0

    def __post_init__(self) -> None:
        checked: dict[str, float | int] = {
            "scale": real("scale", self.scale, at_least=0, below=2.0**128),
            "growth_factor": real("growth_factor", self.growth_factor, above=1),
            "backoff_factor": real("backoff_factor", self.backoff_factor, above=0, below=1),
            "growth_interval": integer("growth_interval", self.growth_interval, at_least=1),
            "hysteresis": integer("hysteresis", self.hysteresis, at_least=1),
            "streak": integer("streak", self.streak, at_least=0),
            "borne": integer("borne", self.borne, at_least=0, at_most=self.hysteresis - 1),
        }
        least = FP32.smallest_subnormal
        for name in ("min_scale", "max_scale"):
            if getattr(self, name) is not None:
                least = real(name, getattr(self, name), at_least=least, at_most=FP32.max)
                checked[name] = least
        if not isinstance(self.dynamic, bool):
            raise TypeError(f"dynamic must be True or False, got {self.dynamic!r}")
        for name, value in checked.items():  # Python's numbers: NumPy's would warn when they grow
            object.__setattr__(self, name, value)

    def at(self, scale: float, name: str = "scale") -> LossScale:
        """The same rule at another scale, which is rounded to fp32.

        scale: above 0 and finite in fp32, and within the limits. name: what errors call it.
        Raises TypeError or ValueError for anything else.
        """
        least = FP32.smallest_subnormal if self.min_scale is None else self.min_scale
        most = FP32.max if self.max_scale is None else self.max_scale
        number = real(name, scale, at_least=least, at_most=most)
        return replace(self, scale=float(np.float32(number)))


def next_scale(state: LossScale, finite: bool) -> LossScale:
    """The scale after a step whose gradients were all finite, or not."""
    if not state.dynamic:
        return state
    if not finite:
        if state.borne + 1 < state.hysteresis:
            return replace(state, borne=state.borne + 1, streak=0)
        return replace(state, scale=_product(state, state.backoff_factor), streak=0)
    if state.streak + 1 != state.growth_interval:
        return replace(state, streak=state.streak + 1)
    return replace(state, scale=_product(state, state.growth_factor), streak=0, borne=0)


def _product(state: LossScale, factor: float) -> float:
    """The scale times a factor, within its limits, in fp32; if that is infinite, as it was."""
    scale = state.scale * factor
    if state.max_scale is not None:
        scale = min(scale, state.max_scale)
    if state.min_scale is not None:
        scale = max(scale, state.min_scale)
    with np.errstate(all="ignore"):
        rounded = float(np.float32(scale))
    return rounded if math.isfinite(rounded) else state.scale


def trace(rule: LossScale, finite: Iterable[bool]) -> list[float]:
    """The scale after each step of a run.

    rule: where it starts, and how it moves; one of ``SCALERS``, or your own. finite: for each
    step, whether all its gradients were. The result has as many numbers.
    """
    if not isinstance(rule, LossScale):
        raise TypeError(f"rule must be a LossScale, as SCALERS['torch'], got {rule!r}")
    scales = []
    for good in finite:
        rule = next_scale(rule, good)
        scales.append(rule.scale)
    return scales


#: Rules of other libraries, with their own defaults. All of them double and halve. Their scales
#: are fp32 here; Keras, Megatron and fairseq, which let theirs grow to infinity, stay finite here.
SCALERS: Mapping[str, LossScale] = MappingProxyType(
    {
        # torch.amp.GradScaler, PyTorch 2.13
        "torch": LossScale(),
        # apex.amp.scaler.LossScaler, as it was until apex.amp was removed in 2025
        "apex": LossScale(max_scale=2.0**24),
        # keras.optimizers.LossScaleOptimizer, Keras 3.15
        "keras": LossScale(scale=2.0**15),
        # tf.keras.mixed_precision.LossScaleOptimizer, until Keras 3
        "tf.keras": LossScale(scale=2.0**15, min_scale=1.0),
        # jmp.DynamicLossScale, jmp 0.0.4; the scale to start from is that of its documentation
        "jmp": LossScale(scale=2.0**15, min_scale=1.0),
        # DynamicGradScaler in megatron/core/optimizer/grad_scaler.py, and its default arguments.
        # Its documentation says that consecutive overflows count; its code counts those since
        # the scale last grew, and so does this.
        "megatron": LossScale(scale=2.0**32, growth_interval=1000, min_scale=1.0, hysteresis=2),
        # fairseq/optim/dynamic_loss_scaler.py. It ends the training rather than let the scale fall
        # to 1e-4; 2^-13 is the last power of two above.
        "fairseq": LossScale(scale=2.0**15, min_scale=2.0**-13),
    }
)
