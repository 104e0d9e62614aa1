"""``fp16sim accumulate``: the error of dot products, by how they add."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fp16sim.cli.common import (
    check_writable,
    console,
    json_option,
    left_alone,
    out_option,
    progress,
    table,
)

if TYPE_CHECKING:
    from fp16sim.experiments.accumulation import Accumulation


@click.command(
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
@out_option("accumulate")
@json_option
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

    if fast and left_alone(ctx, "longest"):
        longest = 14
    check_writable(out)
    with progress("accumulators", len(experiment.ACCUMULATORS)) as (executor, advance):
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
    out = console()
    shown = result.lengths[:: max(1, len(result.lengths) // 4)]
    shown += [result.lengths[-1]] * (result.lengths[-1] not in shown)
    for kind, title in titles.items():
        rows = table(
            f"Error in ulps of fp16, {title}"
            + (f" (median of {result.trials})" if kind != "ones" else ""),
            "accumulator",
            *(f"n = 2^{length.bit_length() - 1}" for length in shown),
        )
        for name, errors in result.errors[kind].items():
            cells = [errors[result.lengths.index(length)] for length in shown]
            rows.add_row(name, *(f"{e:.2g}" if math.isfinite(e) else "overflow" for e in cells))
        out.print(rows)
