"""``fp16sim bench``: time, memory, energy and losses of the zoo, measured on this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fp16sim.cli.bench_tables import print_record
from fp16sim.cli.common import bar, check_writable, json_option, left_alone

if TYPE_CHECKING:
    from fp16sim.bench.plan import Plan
    from fp16sim.bench.record import Record

#: what is said where there is no GPU
_NO_GPU = (
    "No GPU: {reason}\n"
    "For one: an NVIDIA driver (nvidia-smi must work), and pip install 'fp16sim[gpu]'; the CPU's "
    "part runs now."
)


@click.command(
    epilog="Examples: fp16sim bench gpt --fast     fp16sim bench --compare torch --sweeps "
    "--out /tmp/bench     fp16sim bench --redraw /tmp/bench/bench.json",
    short_help="Measure training steps: time, memory, energy, by precision; against PyTorch.",
)
@click.argument("names", nargs=-1)
@click.option("--size", help="tiny, laptop or gpu. Default: gpu on a GPU, else laptop.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: a GPU if there is one.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "tf32", "bf16", "fp16"]),
    multiple=True,
    help="May be given several times. Default: all on a GPU; fp32 and emulated fp16 on a CPU.",
)
@click.option(
    "--compare", type=click.Choice(["torch"]), help="The same in PyTorch, in turns with ours."
)
@click.option("--fidelity", is_flag=True, help="Train twice, emulated and natively, and compare.")
@click.option("--sweeps", is_flag=True, help="Also products and elementwise passes of all sizes.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--fast", is_flag=True, help="The size tiny, and few repeats, unless said otherwise.")
@json_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for bench.json and the figure. Default on a GPU: "
    "benchmarks/results/DEVICE-DATE; on a CPU nothing is written.",
)
@click.option(
    "--redraw",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Measure nothing: print this record, and draw it beside the file, or to --out.",
)
@click.pass_context
def bench(
    ctx: click.Context,
    names: tuple[str, ...],
    size: str | None,
    device: str,
    precisions: tuple[str, ...],
    compare: str | None,
    fidelity: bool,
    sweeps: bool,
    seed: int,
    fast: bool,
    as_json: bool,
    out: Path | None,
    redraw: Path | None,
) -> None:
    """Measure a training step of the networks NAMES (default: the whole zoo) in every precision:
    seconds, samples a second, memory, and on a GPU joules; and the loss after some steps. On a CPU
    all but fp32 is emulated, and says so: its times are no hardware's.
    """
    if redraw is not None:
        _refuse_with_redraw(ctx)
        _redraw(redraw, out, as_json)
        return
    from fp16sim.bench.plan import PRECISIONS, Plan
    from fp16sim.models import TASKS

    where = _device(device)
    size = size or ("tiny" if fast else "gpu" if where == "cuda" else "laptop")
    precisions = precisions or (PRECISIONS if where == "cuda" else ("fp32", "fp16"))
    try:
        plan = Plan(
            tuple(dict.fromkeys(names)) or tuple(TASKS), size, where,
            tuple(dict.fromkeys(precisions)), seed,
        )  # fmt: skip
        if fast:
            plan = replace(plan, fast=True, steps=3, repeats=7, seconds=0.1, turns=2)
        _check_packages(plan, compare)
    except (ValueError, ImportError) as error:
        raise click.UsageError(str(error)) from error
    _measure(plan, compare == "torch", sweeps, fidelity, out, as_json)


def _refuse_with_redraw(ctx: click.Context) -> None:
    given = [
        name
        for name in ctx.params
        if name not in ("redraw", "out", "as_json") and not left_alone(ctx, name)
    ]
    if given:
        raise click.UsageError(f"--redraw measures nothing, so {', '.join(given)} cannot be given")


def _device(wanted: str) -> str:
    from fp16sim.bench.device import missing

    if wanted == "cpu":
        return "cpu"
    reason = missing("cuda")
    if not reason:
        return "cuda"
    if wanted == "cuda":
        raise click.UsageError(f"--device cuda: {reason}")
    click.echo(_NO_GPU.format(reason=reason), err=True)
    return "cpu"


def _check_packages(plan: Plan, compare: str | None) -> None:
    """What would only be found missing after some work."""
    from fp16sim.bench.peers import load_threadpoolctl, load_torch
    from fp16sim.models import task

    for name in plan.names:
        task(name, "tiny")  # the digits want scikit-learn
    if compare:
        load_torch()
    if compare and plan.device == "cpu":
        load_threadpoolctl()


def _measure(
    plan: Plan, torch: bool, sweeps: bool, fidelity: bool, out: Path | None, as_json: bool
) -> None:
    from fp16sim.bench import run
    from fp16sim.bench.record import FILE, default_folder

    record = run.start(plan)
    if out is None and plan.device == "cuda":
        out = default_folder(record.device, record.date)
    if out is not None:
        check_writable(out)
    memory = record.device.memory
    todo = run.jobs(plan, memory, torch=torch, sweeps=sweeps, fidelities=fidelity)
    with bar("measurements", len(todo), still=True) as advance:
        for job in todo:
            record = run.do(record, job)
            if out is not None:
                record.save(out / FILE)  # what is done is kept if the rest breaks
            advance(job.title)
    _show(record, as_json)
    if out is not None:
        click.echo(f"Record: {out / FILE}", err=True)
        _draw(record, out)
    broken = run.failures(record.left_out)
    if broken:
        said = "; ".join(f"{one.what}: {one.why}" for one in broken)
        raise click.ClickException(f"{len(broken)} of {len(todo)} measurements failed: {said}")


def _redraw(path: Path, out: Path | None, as_json: bool) -> None:
    from fp16sim.bench.record import Record

    try:
        record = Record.load(path)
    except (ValueError, OSError) as error:
        raise click.UsageError(f"--redraw: {error}") from error
    folder = path.parent if out is None else out
    check_writable(folder)
    _show(record, as_json)
    _draw(record, folder)


def _show(record: Record, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(record.to_dict()))
    else:
        print_record(record)


def _draw(record: Record, folder: Path) -> None:
    from fp16sim import plots

    paths = plots.save(plots.bench_figure(record), folder, "bench")
    click.echo("Figure: " + ", ".join(str(path) for path in paths), err=True)
