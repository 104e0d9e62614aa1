"""Where the ideas meet: policy, casts, arithmetic, one rounding on store, and the tape.

A primitive is written on arrays alone and returns its value and what its backward will need (the
value itself, if named there, as it will be stored)::

    @primitive
    def multiply(x, y):
        return x * y, (x, y)

    @multiply.backward
    def _(g, x, y):
        return g * y, g * x

Calling it with tensors does, in this order: ask the policy for a format; cast inputs that are in
another one (casts are on the tape, too); compute in the carrier's precision; round once, on store;
record. The tape sums over broadcast axes and rounds what the rule returns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np

from fp16sim import events
from fp16sim.autograd.tape import LazyGradient, Node, Rule, recording
from fp16sim.backend import (
    Array,
    carried,
    device_of,
    is_half,
    is_on_gpu,
    kept_natively,
    namespace_of,
    stored_dtype,
    to_device,
)
from fp16sim.formats import BF16, FP16, FP32, Format
from fp16sim.precision import (
    KeptCast,
    casts_of_weights,
    format_for,
    multiplier_for,
    policy_in_force,
)
from fp16sim.rounding import store

N = TypeVar("N", bound=Node)
R = TypeVar("R", bound=Rule)
Forward: TypeAlias = Callable[..., tuple[Array, tuple[Any, ...]]]

#: every primitive by name: tests and tables go over all of them
PRIMITIVES: dict[str, Primitive] = {}


class Primitive:
    """A forward function on arrays with its backward rule; see the module's text."""

    def __init__(
        self,
        forward: Forward,
        *,
        exact: bool = False,
        knows_format: bool = False,
        multiplies: bool = False,
        mixed: bool = False,
    ) -> None:
        self.name = forward.__name__
        self.__doc__ = forward.__doc__
        self.exact = exact
        self.knows_format = knows_format
        self.multiplies = multiplies
        self.mixed = mixed
        self._forward = forward
        self._rule: Rule | None = None
        self._fused: tuple[Callable[..., Any], Rule] | None = None
        taken = PRIMITIVES.get(self.name)
        if taken is not None and taken._forward.__module__.startswith(__package__):
            raise ValueError(f"there is a primitive {self.name!r} already; choose another name")
        PRIMITIVES[self.name] = self

    def backward(self, rule: R) -> R:
        """Decorator that registers the rule: gradient and residuals to one gradient per input."""
        self._rule = rule if self._reads_stored else _reading_carried(rule)
        return rule

    def fuse(self, forward: Callable[..., Any], rule: Rule) -> None:
        """What takes the place of both functions where values are kept natively on a GPU.

        They are given arrays as they are kept; forward may return None to decline.
        """
        self._fused = forward, rule

    def _run_fused(self, kept: tuple[Array, ...], fmt: Format, options: dict[str, Any]) -> Any:
        """Value, residuals and rule, if a kernel of the GPU's does all of it; None otherwise."""
        # An observer wants to see values before they are rounded.
        if self._fused is None or not is_on_gpu(kept[0]) or events.observed():
            return None
        dtype = stored_dtype(fmt, kept[0])
        own = kept[:1] if self.mixed else kept
        # In other formats what is kept for backward would not be what was stored.
        if fmt not in (FP16, BF16, FP32) or any(x.dtype != dtype for x in own):
            return None
        if not kept_natively(kept[0]):
            return None
        forward, rule = self._fused
        done = forward(*kept, **options)
        return None if done is None else (*done, partial(_given_stored, rule))

    @property
    def _reads_stored(self) -> bool:
        """Whether it takes arrays as they are kept: it moves values about, or hands them to BLAS.

        Others are given them in the dtype that computes.
        """
        return self.exact or self.multiplies

    def __call__(self, *inputs: N, fmt: Format | None = None, **options: Any) -> N:
        """Apply to tensors in any formats; ``options`` go to the forward function as they are.

        fmt: what to compute and store in; None: what the policy in force says.
        """
        check_devices(f"inputs of {self.name!r}", *(node.data for node in inputs))
        own = inputs[:1] if self.mixed else inputs
        if fmt is None:
            fmt = format_for(self.name, [_format_seen(node) for node in own])
        inputs = (*(cast_input(node, fmt) for node in own), *inputs[len(own) :])
        if self.knows_format:
            options["fmt"] = fmt
        if self.multiplies:
            options["multiply"] = multiplier_for(fmt)
        kept = tuple(node.data for node in inputs)
        origin = _origin(self.name, "activation")
        done = self._run_fused(kept, fmt, options)
        if done is not None:
            value, residuals, rule = done
            return _recorded(inputs, store(value, fmt, origin), fmt, origin, rule, residuals, False)
        read = kept if self._reads_stored else tuple(map(carried, kept))
        with np.errstate(all="ignore"):
            value, residuals = self._forward(*read, **options)
            array = namespace_of(value).asarray(value)  # 0-d arithmetic leaves scalars
        stored = array if self.exact else store(array, fmt, origin, kept)
        # Backward sees what was stored, not the value before rounding, which no longer exists.
        later = {id(value): stored} | {id(x): y for x, y in zip(read, kept, strict=True)}
        residuals = tuple(later.get(id(one), one) for one in residuals)
        return _recorded(inputs, stored, fmt, origin, self._rule, residuals, self.exact)


@overload
def primitive(forward: Forward) -> Primitive: ...


@overload
def primitive(forward: None = None, **options: bool) -> Callable[[Forward], Primitive]: ...


def primitive(
    forward: Forward | None = None, **options: bool
) -> Primitive | Callable[[Forward], Primitive]:
    """Decorator: make a primitive of a function on arrays.

    The options are False unless given:

    exact: the values of the result, and of the gradients it passes on, are values of its inputs
        or their negatives (reshape, relu), so that there is nothing to round or to count.
    knows_format: the forward function takes the format of its result as ``fmt``, to give values
        that are right after rounding to it.
    multiplies: the forward function takes ``multiply``, which is ``@`` added up as the policy
        says, for itself and for its backward.
    mixed: inputs after the first keep their formats, and the result has the first one's
        (normalisation of fp16 values by fp32 statistics and weights).
    """
    if forward is None:
        return lambda function: Primitive(function, **options)
    return Primitive(forward, **options)


def cast(node: N, fmt: Format) -> N:
    """The same values rounded to another format; the gradient is cast back on the way back."""
    if node.fmt == fmt:
        return node
    # A cast weight is still that weight, and its gradient the weight's.
    origin = _origin("cast", node.origin.role)
    widening = fmt.contains(node.fmt)
    stored = store(node.data, fmt, None if widening else origin, (node.data,))
    return _recorded((node,), stored, fmt, origin, _cast_rule, (), exact=True)


def cast_input(node: N, fmt: Format) -> N:
    """What a primitive sees of an input: a weight is cast once in an autocast region."""
    if node.fmt == fmt:
        return node
    casts = casts_of_weights(node.fmt, fmt) if _is_weight(node) else None
    if casts is None:
        return cast(node, fmt)
    kept = casts.get((id(node), fmt))
    # Without a tape it was cast off it: no gradient would come through.
    usable = kept is not None and (kept.result.requires_grad or not recording())
    if kept is None or not usable or kept.values is not node.data:
        kept = casts[id(node), fmt] = KeptCast(node, node.data, cast(node, fmt))
    result: N = kept.result
    return result


def _is_weight(node: Node) -> bool:
    return node.requires_grad and node.is_leaf


def _format_seen(node: Node) -> Format:
    """The format that an input counts as having: a weight the low one, if that holds for all."""
    policy = policy_in_force()
    # A weight is one also while it is frozen.
    if policy is not None and policy.whole and node.is_leaf and node.origin.role == "weight":
        return policy.low
    return node.fmt


def _given_stored(rule: Rule, gradient: Array, *residuals: Any) -> tuple[LazyGradient, ...]:
    """A fused rule, whose kernels want the gradient in the dtype of what they kept.

    It has another one if it was computed in another storage.
    """
    kept = next((x.dtype for x in residuals if hasattr(x, "dtype") and is_half(x)), None)
    return rule(gradient if kept is None else gradient.astype(kept, copy=False), *residuals)


def _reading_carried(rule: Rule) -> Rule:
    """The rule, given its gradient and residuals in the dtype that computes."""

    def carrying(gradient: Array, *residuals: Any) -> tuple[LazyGradient, ...]:
        read = (carried(one) if hasattr(one, "dtype") else one for one in residuals)
        return rule(carried(gradient), *read)

    return carrying


def _cast_rule(gradient: Array) -> tuple[LazyGradient, ...]:
    return (gradient,)


def move(node: N, device: str) -> N:
    """The same values on another device; the gradient is moved back on the way back."""
    home, data = device_of(node.data), to_device(node.data, device)
    if data is node.data:
        return node
    data = store(data, node.fmt, None)  # as values are kept there
    origin = _origin("move", node.origin.role)
    return _recorded((node,), data, node.fmt, origin, _move_rule, (home,), exact=True)


def _move_rule(gradient: Array, home: str) -> tuple[LazyGradient, ...]:
    return (lambda: to_device(gradient, home),)  # the tape stores it


def _origin(op: str, role: str) -> events.Origin:
    line = events.calling_line() if events.observed() else ""
    return events.Origin(events.current_scope(), op, role, line)


_WHERE = {"cpu": "on the host", "cuda": "on the GPU"}


def check_devices(what: str, first: Array, *others: Array) -> None:
    """TypeError if some are on the GPU and some on the host: nothing is moved unasked."""
    for position, array in enumerate(others, 1):
        if type(array) is not type(first) and device_of(array) != device_of(first):
            raise TypeError(
                f"{what} must be on one device: number 0 is {_WHERE[device_of(first)]}, number "
                f"{position} is {_WHERE[device_of(array)]}; move one, by .to('cuda') or .to('cpu')"
            )


def _recorded(
    inputs: tuple[N, ...],
    data: Array,
    fmt: Format,
    origin: events.Origin,
    rule: Rule | None,
    residuals: tuple[Any, ...],
    exact: bool,
) -> N:
    """A result node of its inputs' class; on the tape if an input wants a gradient."""
    kind = type(inputs[0])
    result = kind.__new__(kind)
    on_tape = recording() and any(node.requires_grad for node in inputs)
    result._init(data, fmt, on_tape, origin)
    if on_tape:
        if rule is None:
            raise NotImplementedError(f"the primitive {origin.op!r} has no backward rule")
        result.rule, result.residuals, result.parents = rule, residuals, inputs
        result.exact = exact
    return result
