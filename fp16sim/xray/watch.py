"""``watch``: what became of every number that a model stored, by layer, operation and role."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from fp16sim import events
from fp16sim.events import Counts, Rounded, UpdateCounts
from fp16sim.formats import Format
from fp16sim.nn import Module


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
        else:
            name = self._names.get(id(event.parameter), "")
            self.updates.setdefault(name, UpdateCounts()).add(event)

    def select(
        self, *, scope: str = "", role: str | None = None, fmt: Format | None = None
    ) -> Counts:
        """The sum of all counts under a module path, in a role (or all), in a format (or all).

        A role that begins with a space matches every role that ends with it: " gradient".
        """
        total = Counts()
        for key, counts in self.counts.items():
            inside = not scope or key.scope == scope or key.scope.startswith(scope + ".")
            if inside and _matches(role, key.role) and (fmt is None or key.fmt == fmt):
                total.merge(counts)
        return total

    def all_updates(self) -> UpdateCounts:
        """The sum over all parameters."""
        total = UpdateCounts()
        for counts in self.updates.values():
            total.merge(counts)
        return total


def _matches(wanted: str | None, role: str) -> bool:
    if wanted is None:
        return True
    return role.endswith(wanted) if wanted.startswith(" ") else role == wanted


@contextmanager
def watch(model: Module) -> Iterator[XRay]:
    """Count, inside the block, what becomes of every value the model stores and every update.

    ::

        with fs.watch(model) as xray:
            loss_of(model, batch).backward()
        xray.select(scope="encoder", role="activation gradient").share("flushed")
    """
    xray = XRay(model)
    with events.observe(xray):
        yield xray
