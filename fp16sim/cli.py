"""The command line: thin. Results go to standard output, progress and remarks to standard error."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fp16sim.experiments.accumulation import Accumulation
    from fp16sim.experiments.rescue import Rescue, Run
    from fp16sim.explain import Explanation


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="fp16sim")
def main() -> None:
    """See what half precision does to a neural network."""


@main.command(
    epilog="Examples: fp16sim explain 0.1     fp16sim explain 2^-25 --format fp16 --mode to_odd",
    short_help="Show what becomes of one number: bits, neighbours, modes, error.",
    context_settings={"ignore_unknown_options": True},  # so that -1.5 is a number
)
@click.argument("number")
@click.option(
    "--format", "names", multiple=True, metavar="NAME", help="May be repeated. Default: several."
)
@click.option("--mode", default="ties_to_even", show_default=True, metavar="NAME")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
def explain(number: str, names: tuple[str, ...], mode: str, as_json: bool) -> None:
    """Show what becomes of NUMBER (0.1, 1e-7, 1/3, 0x1.8p-3, 2^-24, inf, nan) in formats: the bits
    as sign, exponent and fraction, the error in units in the last place, and whether it
    underflowed or overflowed. With one --format also its neighbours and every mode's choice.
    """
    from fp16sim import explain as explaining

    try:
        value = explaining.parse_number(number)
        rows = [explaining.explain(value, name, mode) for name in names or _EXPLAINED]
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        click.echo(json.dumps([_explanation_record(row) for row in rows]))
        return
    console = _console()
    table = _table(f"{number} in {mode}", "format", "becomes", "bits", "error, ulp", "")
    for row in rows:
        off = "" if math.isnan(row.error_in_ulps) else f"{row.error_in_ulps:+.4g}"
        table.add_row(row.fmt.name, repr(row.result), row.bits, off, row.fate)
    console.print(table)
    if len(rows) == 1:
        row = rows[0]
        modes = _table(f"Neighbours and modes in {row.fmt}", "", "number", "bits")
        for name, value in (("below", row.below), ("above", row.above)):
            modes.add_row(name, repr(value), explaining.bit_fields(value, row.fmt))
        for name in explaining.MODES:
            picked = explaining.explain(row.number, row.fmt, name)
            modes.add_row(name, repr(picked.result), picked.bits)
        console.print(modes)


_EXPLAINED = ("fp32", "tf32", "fp16", "bf16", "e4m3", "e5m2")


def _explanation_record(row: Explanation) -> dict[str, object]:
    """Plain data; what is not finite as text, since JSON has no numbers for it."""

    def plain(value: float) -> float | str:
        return value if math.isfinite(value) else str(value)

    return {
        "format": row.fmt.name,
        "mode": row.mode,
        "result": plain(row.result),
        "bits": row.bits,
        "below": plain(row.below),
        "above": plain(row.above),
        "ulp": plain(row.ulp),
        "error_in_ulps": plain(row.error_in_ulps),
        "fate": row.fate,
    }


def _console() -> Console:
    """Standard output; 100 columns wide if it is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 100
    return console


def _table(title: str, *columns: str) -> Table:
    """An empty table: the first column to the left and unbroken, the others to the right."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE, title_justify="left", title_style="bold")
    for position, column in enumerate(columns):
        made.add_column(
            column,
            justify="right" if position else "left",
            no_wrap=position == 0,
            overflow="fold",
        )
    return made


_MOST_SEEDS = 1000


def _seeds(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    """A count ("5" is seeds 0 to 4) or a list ("0,3,7", or "7," for one)."""
    try:
        numbers = [int(part) for part in value.removesuffix(",").split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a count nor a list like 0,3,7") from None
    if "," not in value:
        numbers = list(range(numbers[0])) if 1 <= numbers[0] <= _MOST_SEEDS else []
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise click.BadParameter(
            f"{value!r} gives no usable seeds; allowed is a count from 1 to {_MOST_SEEDS}, or a "
            "list of different numbers >= 0 (7, is the list of 7 alone)"
        )
    return numbers


@main.command(
    epilog="Example: fp16sim rescue --seeds 1 --out /tmp/rescue",
    short_help="Train in fp16 with and without loss scaling, and see the difference.",
)
@click.option(
    "--seeds",
    callback=_seeds,
    default="5",
    show_default=True,
    metavar="COUNT|LIST",
    help="How many, or which: 5 is 0 to 4; 0,3,7 is these; 7, is 7 alone.",
)
@click.option("--steps", type=click.IntRange(min=1), default=600, show_default=True)
@click.option("--fast", is_flag=True, help="One seed and 250 steps, unless said otherwise.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("figures"),
    show_default=True,
    help="Folder for rescue.svg and rescue.png.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON, nothing else.")
@click.pass_context
def rescue(
    ctx: click.Context, seeds: list[int], steps: int, fast: bool, out: Path, as_json: bool
) -> None:
    """Train a deep autoencoder on real digits in fp32; with weights, activations and gradients in
    fp16; with fp32 master weights; and with master weights and loss scaling. Same initial weights,
    same batches. Print what became of the gradients, and draw it.
    """
    from fp16sim import plots
    from fp16sim.experiments import rescue as experiment

    if fast:
        given = click.core.ParameterSource.DEFAULT
        seeds = [0] if ctx.get_parameter_source("seeds") is given else seeds
        steps = 250 if ctx.get_parameter_source("steps") is given else steps
    _check_writable(out)
    try:
        result = _with_progress(seeds, steps)
    except ImportError as error:
        raise click.ClickException(str(error)) from error
    labels = {name: variant.label for name, variant in experiment.VARIANTS.items()}
    paths = plots.save(plots.rescue_figure(result, labels), out, "rescue")
    if as_json:
        click.echo(json.dumps(result.to_dict()))
    else:
        _print_rescue(result, labels)
    click.echo("Figure: " + ", ".join(str(path) for path in paths), err=True)


def _check_writable(out: Path) -> None:
    """Create the folder now, so that no work is lost if it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        raise click.BadParameter(f"cannot write to {out}: {error}", param_hint="--out") from error


def _with_progress(seeds: list[int], steps: int) -> Rescue:
    from fp16sim.experiments import rescue as experiment

    with _progress("training runs", len(seeds) * len(experiment.VARIANTS)) as (executor, advance):

        def on_run(name: str, run: Run) -> None:
            advance()

        return experiment.rescue(seeds, steps, executor=executor, on_run=on_run)


@contextmanager
def _progress(what: str, jobs: int) -> Iterator[tuple[Executor, Callable[[], None]]]:
    """A bar on standard error, processes to do the jobs, and what to call when one is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress, _workers(jobs) as executor:
        task = progress.add_task(what, total=jobs)
        yield executor, lambda: progress.advance(task)


@contextmanager
def _workers(jobs: int) -> Iterator[Executor]:
    """A process per core, each with one BLAS thread.

    These matrices are too small for several BLAS threads to pay, and with one the results do not
    depend on the number of cores.
    """
    settings = dict.fromkeys(
        ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
        "1",
    )
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)  # read by the workers as they load NumPy
    # Not all cores may be ours (macOS and Windows cannot say); Windows allows 61 processes.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    executor = ProcessPoolExecutor(
        min(cores or 1, jobs, 61), mp_context=multiprocessing.get_context("spawn")
    )
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _print_rescue(result: Rescue, labels: dict[str, str]) -> None:
    import numpy as np

    from fp16sim.experiments.rescue import explain

    console = _console()
    seeds = [run.seed for run in result.runs["fp32"]]

    errors = _table(
        f"Test error per pixel after {result.steps} steps "
        f"(the mean image: {result.baseline_mse:.4f}), and how far that is from fp32",
        "seed",
        *(f"{labels[name]}" for name in result.runs),
    )
    for position, seed in enumerate(seeds):
        fp32 = result.runs["fp32"][position].test_mse
        cells = [
            f"{runs[position].test_mse:.5f} ({runs[position].test_mse / fp32 - 1:+.1%})"
            for runs in result.runs.values()
        ]
        errors.add_row(str(seed), f"{fp32:.5f}", *cells[1:])
    console.print(errors)

    fates = _table(
        f"What became of all gradient values that were stored (median of {len(seeds)} seeds)",
        "run",
        "zero\nalready",
        "flushed",
        "subnormal",
        "overflowed",
        "updates with\nno effect",
        "steps\nskipped",
        "final\nscale",
    )
    for name, runs in result.runs.items():

        def median(values: list[float]) -> float:
            return float(np.median(values))

        fates.add_row(
            labels[name],
            *(
                f"{median([run.gradients.share(fate) for run in runs]):.2%}"
                for fate in ("zero", "flushed", "subnormal", "overflowed")
            ),
            f"{median([run.updates_unchanged for run in runs]):.1%}",
            f"{median([run.steps_skipped for run in runs]):g}",
            f"{median([run.final_scale for run in runs]):g}",
        )
    console.print(fates)

    layers = _table(
        f"Where the signal dies: fp16 with master weights, loss x 1, seed {seeds[0]}",
        "from the loss down",
        "activation gradients:\nzero already",
        "flushed",
        "weight gradients:\nzero already",
        "flushed",
    )
    for layer, roles in result.runs["fp16_master"][0].layers.items():
        counts = (roles["activation gradient"], roles["weight gradient"])
        layers.add_row(
            layer, *(f"{c.share(fate):.2%}" for c in counts for fate in ("zero", "flushed"))
        )
    console.print(layers)
    console.print(explain(result))


@main.command(
    epilog="Example: fp16sim accumulate --fast --out /tmp/accumulate",
    short_help="Measure dot products by how they add: formats, orders, Tensor Cores.",
)
@click.option(
    "--longest",
    type=click.IntRange(4, 24),
    default=20,
    show_default=True,
    help="Lengths from 2^4 to 2^LONGEST.",
)
@click.option("--trials", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--fast", is_flag=True, help="Lengths to 2^14, unless said otherwise.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("figures"),
    show_default=True,
    help="Folder for accumulate.svg and accumulate.png.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON, nothing else.")
@click.pass_context
def accumulate(
    ctx: click.Context, longest: int, trials: int, seed: int, fast: bool, out: Path, as_json: bool
) -> None:
    """Measure the error of dot products of fp16 numbers against the exact result, as they grow
    longer: accumulated in fp16 in several orders, in fp32, and as Tensor Cores of V100, A100 and
    H100 do. Print the errors in units in the last place of fp16, and draw them with their bounds.
    """
    from fp16sim import plots
    from fp16sim.experiments import accumulation as experiment

    if fast and ctx.get_parameter_source("longest") is click.core.ParameterSource.DEFAULT:
        longest = 14
    _check_writable(out)
    with _progress("accumulators", len(experiment.ACCUMULATORS)) as (executor, advance):
        result = experiment.accumulation(
            longest, trials, seed, executor=executor, on_result=lambda name: advance()
        )
    paths = plots.save(plots.accumulation_figure(result, experiment.KINDS), out, "accumulate")
    if as_json:
        click.echo(json.dumps(result.to_dict()))
    else:
        _print_accumulation(result, experiment.KINDS)
    click.echo("Figure: " + ", ".join(str(path) for path in paths), err=True)


def _print_accumulation(result: Accumulation, titles: dict[str, str]) -> None:
    console = _console()
    shown = result.lengths[:: max(1, len(result.lengths) // 4)]
    shown += [result.lengths[-1]] * (result.lengths[-1] not in shown)
    for kind, title in titles.items():
        table = _table(
            f"Error in ulps of fp16, {title}"
            + (f" (median of {result.trials})" if kind != "ones" else ""),
            "accumulator",
            *(f"n = 2^{length.bit_length() - 1}" for length in shown),
        )
        for name, errors in result.errors[kind].items():
            cells = [errors[result.lengths.index(length)] for length in shown]
            table.add_row(name, *(f"{e:.2g}" if math.isfinite(e) else "overflow" for e in cells))
        console.print(table)
