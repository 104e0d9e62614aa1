"""What happens to numbers when they are stored: the one place that sees them before and after.

*events tells, counts counts, xray explains, bench measures.* The rounding layer, the optimisers
and scalers announce what they do; observers listen. When nobody does, announcing costs one look at
an empty tuple.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeAlias

from fp16sim.backend import Array
from fp16sim.formats import Format


class Origin(NamedTuple):
    """Where in a computation a value is stored, and what it is."""

    #: the path of the module that stored the value, and for a gradient, of the module whose value
    #: it is the gradient of, as "encoder.0"; empty outside modules
    scope: str
    #: the primitive, as "linear"; for a gradient, the one whose backward made it
    op: str
    #: what the value is: "activation", "weight", "input", or one of these with " gradient" behind
    role: str
    #: the line of the user's program that asked for it, as "train.py:42"; empty if nobody observes
    line: str = ""


class Rounded(NamedTuple):
    """An array was stored in a format: ``before`` and ``after`` have the same shape."""

    before: Array
    after: Array
    fmt: Format
    origin: Origin
    #: what the operation was given, arrays among it; empty if the values themselves were given
    sources: tuple[Any, ...] = ()


class Exceptions(NamedTuple):
    """How often an operation raised IEEE 754's exceptions; ``status`` judges and counts."""

    inexact: int
    #: underflow, where tininess is detected after rounding, and where before
    underflow_after: int
    underflow_before: int
    overflow: int
    divide_by_zero: int
    invalid: int
    origin: Origin


class Updated(NamedTuple):
    """An optimiser moved a weight: ``after`` is ``before - update``, rounded to its format."""

    before: Array
    after: Array
    update: Array
    parameter: object


class Scaled(NamedTuple):
    """A loss was multiplied by a loss scale."""

    scale: float


class Unscaled(NamedTuple):
    """The gradients of an optimiser were divided by the loss scale; ``finite``: before that."""

    optimizer: object
    scale: float
    finite: bool


class Stepped(NamedTuple):
    """An optimiser has moved its parameters, or (not ``taken``) a scaler has kept it from it."""

    optimizer: object
    taken: bool


class Rescaled(NamedTuple):
    """A scaler has settled on the scale of the next step."""

    before: float
    after: float
    finite: bool


class Scheduled(NamedTuple):
    """A schedule has moved on, and set the learning rate of an optimiser."""

    optimizer: object


class Entered(NamedTuple):
    """A module was called that is not part of another one's call."""

    module: object


Event: TypeAlias = (
    Rounded | Updated | Exceptions | Scaled | Unscaled | Stepped | Rescaled | Scheduled | Entered
)
Observer: TypeAlias = Callable[[Event], None]

_observers: ContextVar[tuple[Observer, ...]] = ContextVar("observers", default=())
_scope: ContextVar[str] = ContextVar("scope", default="")


def observed() -> bool:
    """Whether anybody is listening."""
    return bool(_observers.get())


def announce(event: Event) -> None:
    """Hand an event to every observer."""
    for observer in _observers.get():
        observer(event)


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Call ``observer`` with every event inside the block (and in this thread only)."""
    token = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(token)


@contextmanager
def unobserved() -> Iterator[None]:
    """Nobody hears of what happens inside the block: steps of what is announced as a whole."""
    token = _observers.set(())
    try:
        yield
    finally:
        _observers.reset(token)


def current_scope() -> str:
    """The path of the scopes entered and not left, joined by dots."""
    return _scope.get()


class scope_at:  # noqa: N801 - used as a function
    """Name a part of the computation by its whole path, whatever scopes it is in.

    A class, since every call of a module enters one: a generator's takes three times as long.
    """

    __slots__ = ("_path", "_token")

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._token = _scope.set(self._path)

    def __exit__(self, *_: object) -> None:
        _scope.reset(self._token)


def scope(name: str) -> scope_at:
    """Name a part of the computation; scopes nest. An empty name changes nothing."""
    outer = _scope.get()
    return scope_at(f"{outer}.{name}" if outer and name else outer or name)


# Folders of this package whose code is, for its user, somebody else's program: lines there count.
_PROGRAMS = ("models", "experiments", "clinic")
_PACKAGE = Path(__file__).parent


def calling_line() -> str:
    """The innermost line of the running program outside the engine, as "train.py:42"."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = program_of(frame.f_code.co_filename)
        if name:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


@cache
def program_of(filename: str) -> str:
    """The name of a file of the running program; empty if it belongs to the engine."""
    path = Path(filename)
    inside = path.is_relative_to(_PACKAGE)
    return "" if inside and path.relative_to(_PACKAGE).parts[0] not in _PROGRAMS else path.name
