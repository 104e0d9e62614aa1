"""Recomputation: memory for time. A part's inner values are computed again when backward comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fp16sim import events
from fp16sim.autograd import Tensor, no_grad, tape
from fp16sim.backend import Array, namespace_of
from fp16sim.nn.module import Module, _cast_whole, _paths
from fp16sim.precision import kept_casts, regions


def checkpoint(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function(*inputs)``, keeping only inputs and output until backward.

    function: from tensors to one tensor; a Module, or a function that uses modules. It runs twice,
    under the same autocast, and must do the same both times: dropout inside a Module draws the
    same numbers again, other random functions must not draw anew. Gradients are those of the plain
    call, but those of parameters are added when this part's backward runs, before others', and an
    input's are added up inside before what comes from outside. Running statistics move twice.

    Source: Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174.
    """
    if not callable(function):
        raise TypeError(f"function must be a Module or a function, got {function!r}")
    for position, x in enumerate(inputs):
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs[{position}] must be a Tensor, got {type(x).__name__}")
    frozen = isinstance(function, Module) and not any(
        x.requires_grad for x in (*inputs, *function.parameters())
    )
    if frozen or not tape.recording():
        return function(*inputs)
    precision, scope, paths = regions.get(), events.current_scope(), _paths.get()
    inside = _cast_whole.get()
    generators = _generators(function)
    before = [random.bit_generator.state for random in generators]
    with no_grad():
        output = function(*inputs)
    if not isinstance(output, Tensor):
        raise TypeError(f"function must return a Tensor, got {type(output).__name__}")

    def again(gradient: Array) -> tuple[Array | Callable[[], Array], ...]:
        after = [random.bit_generator.state for random in generators]
        leaves = [Tensor(x, requires_grad=x.requires_grad) for x in inputs]
        token, recording = regions.set(precision), tape._recording.set(True)
        # Casts of its own: those of the forward pass are gone, or belong to another one by now.
        running, casts = _paths.set(paths), kept_casts.set({})
        whole = _cast_whole.set(inside)
        try:
            for random, state in zip(generators, before, strict=True):
                random.bit_generator.state = state
            with events.scope_at(scope):
                once_more = function(*leaves)
        finally:
            regions.reset(token)
            tape._recording.reset(recording)
            _paths.reset(running)
            kept_casts.reset(casts)
            _cast_whole.reset(whole)
            for random, state in zip(generators, after, strict=True):
                random.bit_generator.state = state
        if once_more.requires_grad:
            tape.backward(once_more, gradient)
        return tuple(
            namespace_of(x.data).zeros_like(x.data) if x.gradient is None else x.gradient
            for x in leaves
        )

    result = output.detach()
    result.requires_grad = True
    result.rule, result.parents, result.exact = again, inputs, True
    result.origin = events.Origin(scope, "checkpoint", "activation")
    return result


def _generators(function: Any) -> list[Any]:
    """The generators that the parts of a Module draw from, each once."""
    return [rng for _, rng in function.named_generators()] if isinstance(function, Module) else []
