"""The tape: what was computed from what, and the walk back. It knows no operation.

The second rule of the engine lives here: a value and its gradient live in the same format. Every
gradient that a rule returns is rounded to the format of the value it belongs to, and where several
meet, each addition is rounded again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any, ClassVar, TypeAlias

import numpy as np

from fp16sim.backend import Array, carried, computing_dtype
from fp16sim.events import Origin, observed
from fp16sim.formats import Format
from fp16sim.kernels import add
from fp16sim.rounding import store

#: a gradient, or a function that computes it, called only if somebody wants it
LazyGradient: TypeAlias = Array | Callable[[], Array]
#: from the gradient of the value and the residuals to one gradient per input
Rule: TypeAlias = Callable[..., tuple[LazyGradient, ...]]

_recording: ContextVar[bool] = ContextVar("recording", default=True)


def recording() -> bool:
    """Whether operations go on the tape; False inside ``no_grad``."""
    return _recording.get()


@contextmanager
def no_grad() -> Iterator[None]:
    """Compute without a tape, as for evaluation: results do not require gradients.

    In this thread only.
    """
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


class Node:
    """A value in a format, and how it came to be."""

    __slots__ = (
        "_order",
        "data",
        "exact",
        "fmt",
        "gradient",
        "origin",
        "parents",
        "requires_grad",
        "residuals",
        "rule",
    )
    _clock: ClassVar[Iterator[int]] = count()

    data: Array  #: the values, on the grid of fmt
    fmt: Format
    requires_grad: bool
    gradient: Array | None  #: of a leaf, after backward; in fmt too
    rule: Rule | None  #: None for a leaf
    residuals: tuple[Any, ...]  #: what the rule needs beside the gradient
    parents: tuple[Node, ...]
    origin: Origin
    exact: bool  #: the operation only moves values about: nothing to round, nothing to count

    def _init(self, data: Array, fmt: Format, requires_grad: bool, origin: Origin) -> None:
        self.data, self.fmt, self.requires_grad, self.origin = data, fmt, requires_grad, origin
        self.gradient, self.rule, self.residuals, self.parents = None, None, (), ()
        self.exact = False
        self._order = next(Node._clock)  # a result is younger than everything it was made from

    @property
    def is_leaf(self) -> bool:
        """Whether this value was given, not computed on the tape."""
        return self.rule is None


def nodes(root: Node) -> list[Node]:
    """All that ``backward`` would visit from here, in its order: the youngest first."""
    found, waiting = {id(root): root}, [root]
    while waiting:
        for parent in waiting.pop().parents:
            if parent.requires_grad and id(parent) not in found:
                found[id(parent)] = parent
                waiting.append(parent)
    return sorted(found.values(), key=lambda node: -node._order)


def _keeps_nothing(node: Node) -> bool:
    """A cast of a leaf, say: nothing to free, and autocast may have put it into two graphs."""
    return not node.residuals and all(parent.is_leaf for parent in node.parents)


def _freed_rule(*_: Any) -> tuple[LazyGradient, ...]:
    raise RuntimeError("backward() through the same graph twice: its residuals are freed already")


def backward(root: Node, seed: Array, retain: bool = False) -> None:
    """Add d(root)/d(leaf), weighted by ``seed``, to every leaf's gradient.

    retain: keep the residuals for another walk; otherwise they are freed on the way.

    root: requires grad. seed: of root's shape, on the grid of its format.
    Youngest first is an order in which every gradient is complete before it is passed on, and it
    is the same in every run, which matters when each addition rounds.
    """
    gradients: dict[int, Array] = {id(root): seed}
    owned: set[int] = set()  # nodes whose gradient is an array that no other node has
    waiting = [(-root._order, root)]
    with np.errstate(all="ignore"):
        while waiting:
            _, node = heapq.heappop(waiting)
            gradient = gradients.pop(id(node))
            if node.rule is None:
                own = id(node) in owned or node.gradient is not None
                own = own and not observed()  # who may keep what was announced
                total = _add(node.gradient, gradient, node, "accumulate_grad")
                # The array may be another leaf's gradient, too, or a broadcast or turned view.
                node.gradient = total if own and total.flags.c_contiguous else total.copy()
                continue
            shares = node.rule(gradient, *node.residuals)
            for parent, share in zip(node.parents, shares, strict=True):
                if not parent.requires_grad:
                    continue
                share = share() if callable(share) else share
                incoming = _stored(_unbroadcast(share, parent.data.shape), parent, node, gradient)
                if id(parent) not in gradients:
                    gradients[id(parent)] = incoming
                    if incoming is not share and incoming.flags.owndata:
                        owned.add(id(parent))
                    heapq.heappush(waiting, (-parent._order, parent))
                else:
                    gradients[id(parent)] = _add(gradients[id(parent)], incoming, parent)
                    owned.add(id(parent))
            if not retain and not _keeps_nothing(node):
                node.rule, node.residuals, node.parents = _freed_rule, (), ()


def _stored(gradient: Array, parent: Node, node: Node, given: Array) -> Array:
    same = node.exact and parent.data.shape == gradient.shape and parent.fmt.contains(node.fmt)
    if same or not observed():
        return store(gradient, parent.fmt, None)
    # A gradient belongs to the module that made the value; a leaf, to the one that uses it.
    scope = (node if parent.is_leaf else parent).origin.scope
    origin = Origin(scope, node.origin.op, parent.origin.role + " gradient", node.origin.line)
    return store(gradient, parent.fmt, origin, (given, *node.residuals))


def _add(total: Array | None, gradient: Array, node: Node, op: str = "accumulate") -> Array:
    if total is None:
        return gradient
    if not observed():
        return store(add(total, gradient), node.fmt, None)
    role = node.origin.role + " gradient"
    origin = Origin(node.origin.scope, op, role, node.origin.line)
    total, gradient = carried(total), carried(gradient)  # to see the sum before it is rounded
    return store(total + gradient, node.fmt, origin, (total, gradient))


def _unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which broadcasting had repeated a value of this shape."""
    if gradient.shape == shape:
        return gradient
    added = gradient.ndim - len(shape)
    stretched = tuple(added + axis for axis, size in enumerate(shape) if size == 1)
    axes, dtype = (*range(added), *stretched), computing_dtype(gradient)
    summed: Array = gradient.sum(axis=axes, dtype=dtype, keepdims=True)
    return summed.reshape(shape)
