"""The tables of ``fp16sim bench``: what a record says, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fp16sim.cli.common import console, table

if TYPE_CHECKING:
    from rich.table import Table

    from fp16sim.bench.clock import Timing
    from fp16sim.bench.record import Record
    from fp16sim.bench.zoo import InferenceRow, StepRow

#: sizes of a sweep that are shown
_SHOWN = 6


def print_record(record: Record) -> None:
    """All tables that the record has rows for, on standard output."""
    out = console()
    out.print(_machine(record))
    if record.steps:
        out.print(_steps(record))
    if record.recorded:
        out.print(_recorded(record))
    if record.inference:
        out.print(_inference(record))
    if record.peers:
        out.print(_peers(record))
    if record.sweeps:
        out.print(_sweeps(record))
    if record.fidelity:
        out.print(_fidelity(record))
        if any(one.equal < one.values for row in record.fidelity for one in row.agreements):
            out.print(_differences(record))
    for line in _left_out(record):
        out.print(line, markup=False)


def _machine(record: Record) -> str:
    device = record.device
    parts = [device.name]
    if device.kind == "cpu":
        parts.append(f"{device.cores} cores")
    else:
        parts += [f"driver {device.driver or 'unknown'}", f"CUDA {device.cuda}"]
    if device.memory is not None:
        parts.append(f"{device.memory / 2**30:.1f} GiB")
    if device.power_limit is not None:
        parts.append(f"at most {device.power_limit:.0f} W")
    parts += [f"{name}: {mhz} MHz" for name, mhz in device.clocks.items()]
    parts += [device.system, f"Python {device.python}"]
    parts += [f"{name} {version}" for name, version in device.versions.items()]
    parts += [f"{name}={value}" for name, value in device.environment.items()]
    return f"{', '.join(parts)}; {record.date}"


def _steps(record: Record) -> Table:
    """Without columns for energy if there is none: they would be empty."""
    energy = any(row.energy.joules is not None for row in record.steps)
    rows = table(
        f"A training step, size {record.plan.size}",
        "network, samples",
        "ms\na step",
        "quartiles",
        "samples\n/s",
        "peak\nMiB",
        *(("J\na step", "mean\nW") if energy else ()),
        f"loss after\n{record.plan.steps} steps",
        "largest batch\non paper",
    )
    for row in record.steps:
        joules = "" if row.energy.joules is None else f"{row.energy.joules:.3g}"
        watts = "" if row.energy.watts is None else f"{row.energy.watts:.0f}"
        rows.add_row(
            f"{_name(row)}, {row.samples:,}",
            *_milliseconds(row.timing),
            f"{row.samples_per_second:,.0f}",
            "" if row.peak is None else f"{row.peak / 2**20:,.1f}",
            *((joules, watts) if energy else ()),
            f"{row.loss:.4f}",
            "" if row.largest_batch is None else f"{row.largest_batch:,}",
        )
    return rows


def _recorded(record: Record) -> Table:
    rows = table(
        "The same steps with forward and backward as a CUDA graph",
        "network, samples", "ms a step", "quartiles", "of the step above",
    )  # fmt: skip
    plain = {(row.network, row.precision): row.timing.median for row in record.steps}
    for row in record.recorded:
        base = plain.get((row.network, row.precision))
        rows.add_row(
            f"{row.network}, {row.precision}, {row.samples:,}",
            *_milliseconds(row.timing),
            "" if base is None else f"{row.timing.median / base:.2f}",
        )
    return rows


def _name(row: StepRow | InferenceRow) -> str:
    """As "gpt, fp16, emulated"."""
    emulated = "" if row.storage == "native" else ", emulated"
    return f"{row.network}, {row.precision}{emulated}"


def _inference(record: Record) -> Table:
    rows = table(
        "In use: forward passes over whole batches",
        "network", "ms a batch", "quartiles", "a second", "unit",
    )  # fmt: skip
    for row in record.inference:
        rows.add_row(_name(row), *_milliseconds(row.timing), f"{row.per_second:,.0f}", row.unit)
    return rows


def _peers(record: Record) -> Table:
    """With a column for PyTorch's memory where its allocator counts."""
    counted = any(row.peak is not None for row in record.peers)
    rows = table(
        f"Training steps in turns with PyTorch's, size {record.plan.size}"
        + (", one thread each" if record.device.kind == "cpu" else ""),
        "network", "engine", "ms a step", "quartiles", "x our\ntime", "first loss",
        *(("peak\nMiB",) if counted else ()),
    )  # fmt: skip
    ours = {
        (row.network, row.precision): row.timing.median
        for row in record.peers
        if row.engine == "fp16sim"
    }
    for row in record.peers:
        key = row.network, row.precision
        emulated = "" if row.storage == "native" else ", emulated"
        rows.add_row(
            f"{row.network}, {row.precision}",
            row.engine + emulated,
            *_milliseconds(row.timing),
            f"{row.timing.median / ours[key]:.2f}" if key in ours else "",
            f"{row.first_loss:.5f}",
            *(("" if row.peak is None else f"{row.peak / 2**20:,.1f}",) if counted else ()),
        )
    return rows


def _sweeps(record: Record) -> Table:
    from fp16sim.bench.sweeps import share_of

    best = record.ceilings
    rows = table(
        "Sweeps (share: of the best of this run, products by dtype, passes by bytes a second)",
        "operation", "size", "us a call", "TFLOP/s", "GB/s", "share",
    )  # fmt: skip
    groups: dict[tuple[str, str], list[int]] = {}
    for at, row in enumerate(record.sweeps):
        groups.setdefault((row.operation, row.dtype), []).append(at)
    for (operation, dtype), members in groups.items():
        for at in members[-_SHOWN:]:
            row = record.sweeps[at]
            rows.add_row(
                operation if operation.endswith("fp16") else f"{operation}, {dtype}",
                f"2^{row.size.bit_length() - 1}",
                f"{1e6 * row.timing.median:,.1f}",
                f"{row.tflops:.3g}" if row.flop else "",
                f"{row.gbs:.3g}",
                f"{share_of(row, best):.0%}",
            )
    return rows


def _fidelity(record: Record) -> Table:
    rows = table(
        "The same training twice: what the first step stored, and the last losses",
        "network", "against", "values", "same bits", "first to differ", "losses",
    )  # fmt: skip
    for row in record.fidelity:
        values = sum(one.values for one in row.agreements)
        equal = sum(one.equal for one in row.agreements)
        losses = [one[-1] for one in (row.first_losses, row.second_losses)]
        rows.add_row(
            f"{row.network}, {row.precision}",
            row.second,
            f"{values:,}",
            f"{equal / values:.4%}",
            row.parted or "none",
            " / ".join(f"{loss:.5f}" for loss in losses),
        )
    return rows


def _differences(record: Record) -> Table:
    """Primitives that did not store the same bits everywhere."""
    rows = table(
        "What was not the same in the first step (largest: difference over the largest value)",
        "network", "primitive", "values", "same bits", "largest",
    )  # fmt: skip
    for row in record.fidelity:
        for one in row.agreements:
            if one.equal < one.values:
                rows.add_row(
                    f"{row.network}, {row.precision}",
                    f"{one.op}, {one.role}",
                    f"{one.values:,}",
                    f"{one.share:.4%}",
                    f"{one.largest:.1e}",
                )
    return rows


def _left_out(record: Record) -> list[str]:
    """A line for each reason, with how often it was one."""
    by_reason: dict[str, list[str]] = {}
    for one in record.left_out:
        by_reason.setdefault(one.why, []).append(one.what)
    for step in record.steps:
        if step.energy.reason:
            by_reason.setdefault(step.energy.reason, []).append(f"energy of {_name(step)}")
    return [
        f"Not measured: {what[0]}{f' and {len(what) - 1} more' * (len(what) > 1)}: {why}"
        for why, what in by_reason.items()
    ]


def _milliseconds(timing: Timing) -> tuple[str, str]:
    """The median and the quartiles, as "1.23" and "1.20-1.31"."""
    median, lower, upper = (1e3 * t for t in (timing.median, timing.lower, timing.upper))
    digits = 3 if median < 1 else 2 if median < 10 else 1 if median < 100 else 0
    return f"{median:.{digits}f}", f"{lower:.{digits}f}-{upper:.{digits}f}"
