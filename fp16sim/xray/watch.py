"""``watch``: what became of every number that a model stored, by layer, operation and role."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from fp16sim import events
from fp16sim.arguments import one_of
from fp16sim.events import Counts, Rounded, UpdateCounts
from fp16sim.formats import Format, FormatLike, format_of
from fp16sim.nn import Module

#: what a stored value can be; "gradient" stands for all kinds of gradients
ROLES = (
    "activation",
    "weight",
    "input",
    "value",
    "moment",
    "gradient",
    "activation gradient",
    "weight gradient",
    "input gradient",
)


class Key(NamedTuple):
    """What values are counted together."""

    #: module path, as "encoder.0.linear"
    scope: str
    #: primitive, as "linear"
    op: str
    #: "activation", "weight", "activation gradient", "weight gradient", ...
    role: str
    fmt: Format


class XRay:
    """Counts collected by ``watch``."""

    def __init__(self, model: Module) -> None:
        if not isinstance(model, Module):
            raise TypeError(f"model must be a Module, got {model!r}")
        #: what became of stored values
        self.counts: dict[Key, Counts] = {}
        #: what became of updates, by parameter path
        self.updates: dict[str, UpdateCounts] = {}
        self._names = {id(p): name for name, p in model.named_parameters()}

    def __call__(self, event: events.Event) -> None:
        """Count one event; ``watch`` makes this the observer."""
        if isinstance(event, Rounded):
            key = Key(*event.origin, event.fmt)
            self.counts.setdefault(key, Counts()).add(event.before, event.after, event.fmt)
        elif isinstance(event, events.Updated):
            name = self._names.get(id(event.parameter), "")
            self.updates.setdefault(name, UpdateCounts()).add(event)

    def select(
        self, *, scope: str = "", role: str | None = None, fmt: FormatLike | None = None
    ) -> Counts:
        """The sum of all counts under a module path, in a role (or all), in a format (or all).

        role: one of ``ROLES``; "gradient" is every kind of gradient. Raises ValueError for others.
        A gradient is counted under the module whose value it is the gradient of.
        """
        if role is not None:
            one_of("role", role, ROLES)
        fmt = None if fmt is None else format_of(fmt)
        total = Counts()
        for key, counts in self.counts.items():
            inside = not scope or key.scope == scope or key.scope.startswith(scope + ".")
            wanted = role in (None, key.role) or (
                role == "gradient" and key.role.endswith(" gradient")
            )
            if inside and wanted and fmt in (None, key.fmt):
                total.merge(counts)
        return total

    def all_updates(self) -> UpdateCounts:
        """The sum over all parameters."""
        total = UpdateCounts()
        for counts in self.updates.values():
            total.merge(counts)
        return total


@contextmanager
def watch(model: Module) -> Iterator[XRay]:
    """Count what becomes of every value that is stored in the block, and of every update.

    Everything counts that this thread computes there, in the model or beside it; modules are told
    apart by their paths, and updates by the names of the model's parameters.

    ::

        with fs.watch(model) as xray:
            loss_of(model, batch).backward()
        xray.select(scope="encoder", role="activation gradient").share("flushed")
    """
    xray = XRay(model)
    with events.observe(xray):
        yield xray
