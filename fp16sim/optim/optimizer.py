"""What all optimisers have in common: parameters, a step, and where rounding happens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, TypedDict

import numpy as np

from fp16sim import events
from fp16sim.arguments import one_of, real
from fp16sim.autograd import Tensor
from fp16sim.backend import (
    Array,
    RandomLike,
    carried,
    carrier_of,
    generator,
    namespace_of,
    stored_dtype,
)
from fp16sim.formats import FP32, FP64, Format, FormatLike, format_of
from fp16sim.optim import saving
from fp16sim.optim.moments import Moments
from fp16sim.rounding import Rounding, store

# Values that are moved at a time. Measured: the calls cost more than misses of the L2 cache, and
# less than those of the L3 cache.
BLOCK = 2**17


class Storage(TypedDict, total=False):
    """The keywords that all optimisers share: in what weights and moments are kept."""

    master_weights: bool
    state_fmt: FormatLike | None
    rounding: str
    rng: RandomLike


class Optimizer:
    """Parameters, a learning rate, state, and how weights and moments are stored.

    params: leaf tensors that require a gradient. lr: learning rate, finite and >= 0; may be
    changed between steps, as the other settings of an optimiser.
    master_weights: for parameters in less than fp32, keep an fp32 copy that takes the updates; the
        parameter is that copy, rounded, after every step. Without it the update is added to the
        rounded weight, and is lost (swamped) if it is below half the weight's spacing.
    state_fmt: the format, or its name, in which moments are kept; fp32 if None, and fp64 for fp64
        parameters. They are computed in its carrier or the parameter's, whichever is wider, rounded
        once per step, and the update is made of the rounded ones.
    rounding: "ties_to_even", or "stochastic", which instead of a master copy lets a small update
        move the weight now and then: weight minus update is formed in float64 and rounded up or
        down with the probabilities of ``round_to``. Not for fp64 parameters, nor with master
        weights: the copy has nothing to round.
    rng: for "stochastic", which needs it: a seed or a ``np.random.Generator``. The same seed gives
        the same run.

    Raises TypeError or ValueError for anything else.
    """

    #: settings that may change between steps and are saved
    _settings: ClassVar[tuple[str, ...]] = ("lr",)
    #: what state a parameter has that was moved, beside its master copy
    _state_names: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        *,
        master_weights: bool = False,
        state_fmt: FormatLike | None = None,
        rounding: str = "ties_to_even",
        rng: RandomLike = None,
    ) -> None:
        self.params = _checked_params(params)
        self.lr = real("lr", lr, at_least=0)
        self.state: list[dict[str, Any]] = [{} for _ in self.params]
        self.store_in(
            master_weights=master_weights, state_fmt=state_fmt, rounding=rounding, rng=rng
        )
        #: what gradients are multiplied by when a step reads them: 1 / loss scale, if a scaler has
        #: left them scaled, since in half precision they would not survive being unscaled
        self.grad_factor = 1.0

    def store_in(
        self,
        *,
        master_weights: bool = False,
        state_fmt: FormatLike | None = None,
        rounding: str = "ties_to_even",
        rng: RandomLike = None,
    ) -> None:
        """Change how weights and moments are stored: the arguments, as those of the class.

        Raises RuntimeError after the first step: what is stored by then stays as it is.
        """
        if any(self.state):
            raise RuntimeError("store_in() must come before the first step()")
        if not isinstance(master_weights, bool | np.bool_):
            raise TypeError(f"master_weights must be True or False, got {master_weights!r}")
        self.master_weights = bool(master_weights)
        self.state_fmt = None if state_fmt is None else format_of(state_fmt, "state_fmt")
        if self.state_fmt is not None and not self.state_fmt.signed:
            raise ValueError(f"state_fmt={self.state_fmt} is not allowed; moments need a sign")
        self.rounding = one_of("rounding", rounding, ("ties_to_even", "stochastic"))
        self.rng = self._checked_rng(rng)

    def _checked_rng(self, rng: RandomLike) -> np.random.Generator | None:
        if self.rounding != "stochastic":
            if rng is not None:
                raise ValueError("rng is for rounding='stochastic' only, not for 'ties_to_even'")
            return None
        if rng is None:
            raise ValueError(
                "rng=None is not allowed for rounding='stochastic'; give a seed or a Generator"
            )
        if self.master_weights:
            raise ValueError(
                "rounding='stochastic' is not allowed with master_weights=True: "
                "updates go to the copy, where small ones are not lost"
            )
        for position, p in enumerate(self.params):
            if p.fmt.contains(FP64):
                raise ValueError(
                    f"rounding='stochastic' is not allowed for params[{position}] in {p.fmt}: "
                    "its updates are computed in fp64, and nothing is left to round"
                )
        return generator(rng)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.params:
            p.grad = None

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        self._check_settings()
        with np.errstate(all="ignore"):
            for p, state in zip(self.params, self.state, strict=True):
                if p.gradient is not None:
                    gradient = carried(p.gradient)
                    if self.grad_factor != 1:
                        gradient = gradient * gradient.dtype.type(self.grad_factor)
                    self._move(p, state, gradient)
        events.announce(events.Stepped(self, taken=True))

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had been: copies, which do not change.

        "settings": the class's name and the settings, plain Python values. "state": for every
        parameter, by position, its arrays and step count; empty if it was never moved. "rng": the
        state of the random generator, as JSON could hold it, if there is one. The parameters
        themselves are the model's to save.
        """
        return saving.save(self)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from a ``state_dict()``; arrays are copied.

        Raises ValueError, and changes nothing, if it is of another class, of other parameters
        (number, shapes), stores in other formats, or has missing or other entries.
        """
        saving.load(self, saved)

    def _check_settings(self) -> None:
        """Settings may be changed between steps: make them finite Python numbers again, or raise.

        NumPy scalars would make float64 of the arrays they meet.
        """
        self.lr = real("lr", self.lr, at_least=0)

    def state_formats(self, fmt: Format) -> dict[str, Format]:
        """The arrays that a parameter in ``fmt`` has once it was moved, each of its shape.

        From names, as in ``state``, to formats: moments, and "master" where a copy is kept.
        """
        moment = self._moment_format(fmt)
        formats = {name: moment for name in self._used_names() if name != "step"}
        return formats | ({"master": FP32} if self._keeps_master(fmt) else {})

    def _keeps_master(self, fmt: Format) -> bool:
        return self.master_weights and FP32.contains(fmt) and not fmt.contains(FP32)

    def _moment_format(self, fmt: Format) -> Format:
        if self.state_fmt is not None:
            return self.state_fmt
        return FP32 if carrier_of(fmt) == np.float32 else FP64

    def _move(self, p: Tensor, state: dict[str, Any], gradient: Array) -> None:
        keeps_master = self._keeps_master(p.fmt)
        if keeps_master and "master" not in state:
            state["master"] = p.data.astype(carrier_of(FP32))
        weight = state["master"] if keeps_master else p.data
        moved, update = self._moved(p, weight, gradient, state)
        if keeps_master:
            state["master"] = moved = store(moved, FP32, None)
        new = self._stored(moved, p.fmt, (weight, gradient))
        if update is not None:
            kept = moved if keeps_master else new
            events.announce(events.Updated(weight, kept, update, p))
        p.data = new

    def _moved(
        self, p: Tensor, weight: Array, gradient: Array, state: dict[str, Any]
    ) -> tuple[Array, Array | None]:
        """The weight less its update, not rounded yet; and the update, if anybody observes.

        It goes block by block, so that what is computed on the way stays in the cache.
        """
        xp = namespace_of(weight)
        fmt = self._moment_format(p.fmt)
        dtype = np.result_type(weight.dtype, carrier_of(fmt))
        fresh = self._begin(state, xp.zeros, weight.shape, carrier_of(fmt))
        moved: Array = xp.empty(weight.shape, np.float64 if self.rng is not None else dtype)
        weights, gradients, sums = (x.reshape(-1) for x in (weight, gradient, moved))
        whole = events.observed() or xp is not np
        for where in _blocks(weight.size, whole):
            w, g = (x[where].astype(dtype, copy=False) for x in (weights, gradients))
            update = self._update(w, g, Moments(state, where, fmt, dtype, fresh))
            xp.subtract(w, update, out=sums[where], dtype=moved.dtype)
        return moved, update.reshape(weight.shape) if events.observed() else None

    def _begin(
        self, state: dict[str, Any], zeros: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> bool:
        """Make the arrays that are not there yet; whether that was so."""
        missing = [name for name in self._used_names() if name not in state]
        for name in missing:
            state[name] = 0 if name == "step" else zeros(shape, dtype)
        if "step" in state:
            state["step"] += 1
        return bool(missing)

    def _used_names(self) -> tuple[str, ...]:
        """Which of ``_state_names`` a step needs with the settings of now."""
        return self._state_names

    def _stored(self, moved: Array, fmt: Format, sources: tuple[Array, ...]) -> Array:
        origin = events.Origin("", "optimizer", "weight")
        if self.rng is None:
            return store(moved, fmt, origin, sources)
        rounded = Rounding.of(fmt, "stochastic", rng=self.rng)(moved)
        if events.observed():
            events.announce(events.Rounded(moved, rounded, fmt, origin, sources))
        return rounded.astype(stored_dtype(fmt, rounded), copy=False)

    def _update(self, weight: Array, gradient: Array, moments: Moments) -> Array:
        """What to subtract from a block of a weight; every optimiser has its own.

        weight, gradient: 1-d arrays of one dtype, to be read only. Returns a new one.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define an update")


def _checked_params(params: Iterable[Tensor]) -> list[Tensor]:
    try:
        params = list(params)
    except TypeError:
        raise TypeError(
            f"params must be an iterable of tensors, as model.parameters(); got {params!r}"
        ) from None
    if len({id(p) for p in params}) < len(params):
        raise ValueError("params has a tensor twice: it would be moved twice in a step")
    if not params:
        raise ValueError("params is empty: there is nothing to optimise")
    for position, p in enumerate(params):
        if not isinstance(p, Tensor):
            raise TypeError(f"params[{position}] must be a Tensor, got {type(p).__name__}")
        if not (p.is_leaf and p.requires_grad):
            raise ValueError(f"params[{position}] must be a leaf with requires_grad=True")
    return params


def _blocks(size: int, whole: bool) -> Iterator[slice]:
    """The parts of a flat array that are moved one after the other."""
    if whole or size <= BLOCK:
        yield slice(0, size)
        return
    for start in range(0, size, BLOCK):
        yield slice(start, start + BLOCK)
