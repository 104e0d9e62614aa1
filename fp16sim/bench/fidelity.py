"""Is the emulation true? The same training twice, emulated on the host and natively on the device.

Both start from the same bits and see the same batches. In their first step everything that was
stored is compared, value by value and bit by bit, in the order in which it was stored: by
primitive, how many are the same; and the first that are not, which is where the two part. Two
devices sum in different orders, so that a product may differ by a rounding; an operation that
rounds once from the same inputs may not. After that, losses are compared. (A watched step runs
array code; later ones, and their losses, a GPU's fused kernels.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from fp16sim import events
from fp16sim.backend import Array, to_host
from fp16sim.bench.plan import Plan
from fp16sim.bench.zoo import Trainer
from fp16sim.bench.zoo import stored as stored_as
from fp16sim.rounding import decode

#: seconds of training need not be many to see curves part
STEPS = 50


class Stored(NamedTuple):
    """Something that was stored in the first step."""

    scope: str
    op: str
    role: str
    #: float32, or float64 for fp64: the values
    values: Array


@dataclass(frozen=True)
class Agreement:
    """All that one primitive stored in one role, in both."""

    #: the primitive, as "linear"
    op: str
    #: "activation", "weight", "input", or one of these with " gradient" behind
    role: str
    values: int
    #: how many have the same bits, any NaN counting as any other
    equal: int
    #: the largest difference, relative to the largest value that the other one stored there
    largest: float

    @property
    def share(self) -> float:
        """Of values that are the same."""
        return self.equal / self.values if self.values else 1.0


@dataclass(frozen=True)
class FidelityRow:
    """One network in one precision, twice."""

    network: str
    size: str
    precision: str
    #: what was run, in words
    first: str
    second: str
    #: of every step
    first_losses: tuple[float, ...]
    second_losses: tuple[float, ...]
    #: of the first step, in the order of their first values
    agreements: tuple[Agreement, ...]
    #: the first values that differ, as "layers.0: linear, activation"; empty if none do
    parted: str
    #: values that only one of the two stored: other operations than the other
    unmatched: int


def fidelity(name: str, plan: Plan, precision: str) -> FidelityRow:
    """Train a network twice, ``STEPS`` steps or the plan's, whichever are more; compare.

    Networks of the size "gpu" are too large for the host: "laptop" is trained instead.
    """
    plan = replace(plan, size="laptop") if plan.size == "gpu" else plan
    steps = plan.steps if plan.fast else max(plan.steps, STEPS)
    one, losses = trained(name, plan, precision, "cpu", steps, native=False)
    other, others = trained(name, plan, precision, plan.device, steps, native=True)
    second = f"native, {'CuPy' if plan.device == 'cuda' else 'NumPy on the host, not a GPU'}"
    return FidelityRow(
        name, plan.size, precision, "emulated, NumPy", second, tuple(losses), tuple(others),
        *agreement(one, other),
    )  # fmt: skip


def trained(
    name: str, plan: Plan, precision: str, device: str, steps: int, *, native: bool
) -> tuple[list[Stored], list[float]]:
    """What the first step stored, copied to the host, and the losses of all."""
    stored: list[Stored] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Rounded):
            origin = event.origin
            stored.append(Stored(origin.scope, origin.op, origin.role, _values(event)))

    with stored_as(precision, native):
        network = Trainer.of(name, plan, device, precision, native)
        with events.observe(listen):
            losses = network.train(1)
        losses += network.train(steps - 1, start=1)
    return stored, losses


def _values(event: events.Rounded) -> Array:
    values = to_host(event.after)
    if values.dtype.kind in "iu":  # stored as patterns of bits
        return np.asarray(decode(values, event.fmt))
    return values.astype(np.float64 if values.dtype.itemsize == 8 else np.float32)  # copies


def agreement(
    one: Sequence[Stored], other: Sequence[Stored]
) -> tuple[tuple[Agreement, ...], str, int]:
    """By primitive and role how many values are the same; where they part first; and how many
    values only one of the two has. The n-th array of a module, primitive and role is compared with
    the n-th; arrays of different shapes count as had by one only.
    """
    theirs, unmatched = _by_name(other), 0
    sums: dict[tuple[str, str], tuple[int, int, float]] = {}
    parted = ""
    for name, mine in _by_name(one).items():
        values = theirs.pop(name, None)
        if values is None or values.shape != mine.shape:
            unmatched += mine.size
            continue
        scope, op, role, _ = name
        equal, largest = _compared(mine, values)
        before = sums.get((op, role), (0, 0, 0.0))
        sums[op, role] = (
            before[0] + mine.size, before[1] + equal, max(before[2], largest),
        )  # fmt: skip
        if equal < mine.size and not parted:
            parted = f"{scope or '(program)'}: {op}, {role}"
    unmatched += sum(values.size for values in theirs.values())
    rows = tuple(Agreement(op, role, *found) for (op, role), found in sums.items())
    return rows, parted, unmatched


def _by_name(stored: Sequence[Stored]) -> dict[tuple[str, str, str, int], Array]:
    found: dict[tuple[str, str, str, int], Array] = {}
    seen: dict[tuple[str, str, str], int] = {}
    for scope, op, role, values in stored:
        place = seen[scope, op, role] = seen.get((scope, op, role), -1) + 1
        found[scope, op, role, place] = values
    return found


def _compared(mine: Array, theirs: Array) -> tuple[int, float]:
    """How many values have the same bits, and the largest difference over the largest value."""
    if not mine.size:
        return 0, 0.0
    both_nan = np.isnan(mine) & np.isnan(theirs)
    same = (mine == theirs) & (np.signbit(mine) == np.signbit(theirs)) | both_nan
    with np.errstate(all="ignore"):
        difference = np.abs(mine.astype(np.float64) - theirs)[~same]
        scale = float(np.max(np.abs(mine), initial=0, where=np.isfinite(mine)))
    largest = float(np.max(difference, initial=0.0)) / scale if scale else 0.0
    return int(np.count_nonzero(same)), largest
