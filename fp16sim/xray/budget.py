"""``MemoryReport``: the bytes of a training step, and how large a batch may be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fp16sim.arguments import integer
from fp16sim.xray.holdings import Held

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class MemoryReport:
    """The bytes of one training step, in native storage unless said otherwise. ``print`` it."""

    policy: str
    #: in the batch
    samples: int
    #: parameters, in their formats
    weights: int
    #: tensors of the model that are no parameters: running statistics
    buffers: int
    #: fp32 copies of parameters that are kept in less
    masters: int
    #: moments
    states: int
    #: of all parameters, each in its parameter's format
    gradients: int
    #: what backward reads, array by array, without parameters; casts of weights are among it
    held: tuple[Held, ...] = field(repr=False)
    #: what is held and gradients at every moment of backward, for this batch and for another one
    moments: tuple[int, ...] = field(repr=False)
    other_samples: int = field(repr=False)
    other_moments: tuple[int, ...] = field(repr=False)
    #: the most at a time in this process, whose carriers take 4 or 8 bytes a value: on paper
    carrier_peak: int
    #: and as it was seen, if it was measured
    measured: int | None = None

    @property
    def casts(self) -> int:
        """Casts of weights that are held for backward."""
        return self.by_kind.get("weight", 0)

    @property
    def activations(self) -> int:
        """All else that is held for backward: activations, inputs, statistics, masks, targets."""
        return sum(one.bytes for one in self.held) - self.casts

    @property
    def at_rest(self) -> int:
        """What is there between steps, and does not depend on the batch."""
        return self.weights + self.buffers + self.masters + self.states

    @property
    def peak(self) -> int:
        """The most at a time: at rest, and what is held and gradients at the worst moment."""
        return self.at_rest + max(self.moments)

    @property
    def by_format(self) -> dict[str, int]:
        """What is held by format, the largest first."""
        return self._held_by(lambda one: one.fmt)

    @property
    def by_kind(self) -> dict[str, int]:
        """What is held by kind, see ``Held``, the largest first."""
        return self._held_by(lambda one: one.kind)

    @property
    def by_module(self) -> dict[str, int]:
        """What is held by the path of the module that keeps them, the largest first."""
        return self._held_by(lambda one: one.scope)

    def _held_by(self, key: Callable[[Held], str]) -> dict[str, int]:
        totals: dict[str, int] = {}
        for one in self.held:
            totals[key(one)] = totals.get(key(one), 0) + one.bytes
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    def largest_batch(self, budget: int) -> int:
        """The most samples whose peak fits into so many bytes; 0 if not even one does.

        Every moment of backward is a line over the size of the batch, which two sizes determine;
        the peak is the largest of them, and not always the same one's. Raises ValueError if the
        model computes something else for another size, or needs nothing that grows with it.
        """
        room = integer("budget", budget, at_least=1) - self.at_rest
        if len(self.moments) != len(self.other_moments):
            raise ValueError(
                f"{self.other_samples} samples take other operations than {self.samples}: "
                "what a larger batch needs cannot be told from them"
            )
        between = self.samples - self.other_samples
        lines = [(m, m - other) for m, other in zip(self.moments, self.other_moments, strict=True)]
        if any(m > room for m, rise in lines if rise <= 0):
            return 0
        fits = [self.samples + (room - m) * between // rise for m, rise in lines if rise > 0]
        if not fits:
            raise ValueError("nothing that this model keeps grows with the batch")
        return max(0, min(fits))

    def table(self) -> str:
        """The parts, and activations by module and format."""
        parts = _table(f"A training step in {self.policy}, {self.samples} samples", "part", "bytes")
        for name, size in _parts(self).items():
            parts.add_row(name, f"{size:,}")
        held = _table("Held for backward", "module", "operation", "what", "format", "bytes")
        totals: dict[tuple[str, ...], int] = {}
        for one in self.held:
            totals[one[:4]] = totals.get(one[:4], 0) + one.bytes
        for (scope, *rest), size in totals.items():
            held.add_row(scope or "(program)", *rest, f"{size:,}")
        return _printed(parts, held)

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        parts = ("weights", "buffers", "masters", "casts", "states", "gradients", "activations")
        totals = ("at_rest", "peak", "carrier_peak", "measured", "by_format", "by_kind")
        names = ("policy", "samples", *parts, *totals)
        held = [one._asdict() for one in self.held]
        return {name: getattr(self, name) for name in names} | {"held": held}

    def to_json(self, **options: Any) -> str:
        """``to_dict`` as JSON; options go to ``json.dumps``."""
        return json.dumps(self.to_dict(), **options)


def memory_table(reports: Sequence[MemoryReport], budget: int | None = None) -> str:
    """Reports side by side, and what they take as shares of the first one's bytes.

    reports: one or more. budget: bytes; adds the largest batch that fits. Raises ValueError for no
    reports, or as ``largest_batch``.
    """
    if not reports:
        raise ValueError("reports is empty: there is nothing to compare")
    names = [report.policy for report in reports]
    sizes = _table(f"A training step of {reports[0].samples} samples", "part", *names)
    columns = [_parts(report) for report in reports]
    for name in columns[0]:
        cells = [column[name] for column in columns]
        if any(cells):
            sizes.add_row(name, *map(size_text, cells))
    if reports[0].measured:
        ratios = ((report.measured or 0) / report.carrier_peak for report in reports)
        sizes.add_row("  seen / on paper", *(f"{ratio:.2f}" for ratio in ratios))
    if budget is not None:
        largest = (f"{report.largest_batch(budget):,}" for report in reports)
        sizes.add_row(f"largest batch in {size_text(budget)}", *largest)
    shares = _table(f"Shares of {names[0]}", "part", *names)
    for name, of in _SHARES.items():
        shares.add_row(name, *(f"{of(report) / max(of(reports[0]), 1):.2f}" for report in reports))
    return _printed(sizes, shares)


def size_text(size: float) -> str:
    """Bytes for people: three digits and a unit."""
    for unit in ("B", "KiB", "MiB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.3g} GiB" if size < 999.5 else f"{size:,.0f} GiB"


def _parts(report: MemoryReport) -> dict[str, int]:
    parts = {
        "weights": report.weights,
        "fp32 masters": report.masters,
        "casts of weights": report.casts,
        "buffers": report.buffers,
        "optimiser": report.states,
        "gradients": report.gradients,
        "activations": report.activations,
        "peak": report.peak,
        "this process, on paper": report.carrier_peak,
    }
    return parts if report.measured is None else parts | {"this process, seen": report.measured}


# What Micikevicius et al., "Mixed Precision Training" (2018), section 3.1, tell of the parts: half
# more for weights, as there are two copies; half for activations; about half in all.
_SHARES: dict[str, Callable[[MemoryReport], int]] = {
    "weights, masters, casts": lambda report: report.weights + report.masters + report.casts,
    "activations": lambda report: report.activations,
    "peak": lambda report: report.peak,
}


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE, title_justify="left", title_style="bold")
    for column in columns:
        left = column in ("part", "module", "operation", "what", "format")
        table.add_column(column, justify="left" if left else "right", no_wrap=left)
    return table


def _printed(*tables: Table) -> str:
    from rich.console import Console

    console = Console(width=120, highlight=False)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    return capture.get()
