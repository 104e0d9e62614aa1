"""``fp16sim underflow``: gradients below fp16's range, and the loss scale that rescues them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fp16sim.cli.common import (
    check_writable,
    console,
    json_option,
    left_alone,
    median_and_range,
    out_option,
    progress,
    seeds_option,
    table,
)

if TYPE_CHECKING:
    from fp16sim.experiments.underflow import Run, Underflow


@click.command(
    epilog="Example: fp16sim underflow --fast --out /tmp/underflow",
    short_help="Train a U-Net in fp16 under many loss scales, and find the one it needs.",
)
@seeds_option
@click.option("--steps", type=click.IntRange(min=1), default=250, show_default=True)
@click.option("--fast", is_flag=True, help="One seed and 100 steps, unless said otherwise.")
@out_option("underflow")
@json_option
@click.pass_context
def underflow(
    ctx: click.Context, seeds: list[int], steps: int, fast: bool, out: Path, as_json: bool
) -> None:
    """Train a segmentation network in fp32, and in fp16 with the loss multiplied by 2^-12 to 2^15
    and by a dynamic scale. Print how many gradients fp16 flushes to zero, how many fp32's
    histogram predicts, and how well the network finds lesions; draw both. After Micikevicius et
    al., "Mixed Precision Training" (2018), figure 3.
    """
    from fp16sim import plots
    from fp16sim.experiments import underflow as experiment

    if fast:
        seeds = [0] if left_alone(ctx, "seeds") else seeds
        steps = 100 if left_alone(ctx, "steps") else steps
    check_writable(out)
    variants = experiment.VARIANTS
    with progress("training runs", len(seeds) * len(variants)) as (executor, advance):

        def on_run(name: str, run: Run) -> None:
            advance(f"{variants[name].label}, seed {run.seed}: mean Dice {run.mean_dice:.3f}")

        result = experiment.underflow(seeds, steps, executor=executor, on_run=on_run)
    paths = plots.save(plots.underflow_figure(result), out, "underflow")
    if as_json:
        click.echo(json.dumps(result.to_dict()))
    else:
        _print_underflow(result)
    click.echo("Figure: " + ", ".join(str(path) for path in paths), err=True)


def _print_underflow(result: Underflow) -> None:
    import numpy as np

    from fp16sim.experiments import underflow as experiment

    out = console()
    count = len(result.runs["fp32"])
    rows = table(
        f"A U-Net after {result.steps} steps on batches of {experiment.PIXELS} pixels "
        f"(median{' and range' * (count > 1)} of {count} seed{'s' * (count != 1)})",
        "run",
        "mean Dice",
        "lesion Dice",
        "steps\nskipped",
        "final\nscale",
    )
    for name, runs in result.runs.items():
        rows.add_row(
            experiment.VARIANTS[name].label,
            median_and_range(run.mean_dice for run in runs),
            median_and_range(run.lesion_dice for run in runs),
            f"{np.median([run.steps_skipped for run in runs]):g}",
            "" if name == "fp32" else f"2^{np.log2(np.median([r.final_scale for r in runs])):g}",
        )
    out.print(rows)

    fates = table(
        f"Activation gradients, by what fp16 makes of them (median of {count})",
        "run",
        "zero\nalready",
        "flushed",
        "zero\nin all",
        "predicted\nfrom fp32",
        "subnormal",
        "overflowed",
    )
    for name, runs in result.runs.items():
        scale = experiment.VARIANTS[name].scale
        shares = {
            fate: f"{np.median([run.gradients.share(fate) for run in runs]):.2%}"
            for fate in ("zero", "flushed", "subnormal", "overflowed")
        }
        gone = f"{np.median([run.zero_in_all for run in runs]):.2%}"
        predicted = f"{result.predicted_flushed(scale):.2%}" if name != "fp32" else ""
        fates.add_row(
            experiment.VARIANTS[name].label,
            shares["zero"],
            shares["flushed"],
            gone,
            predicted,
            shares["subnormal"],
            shares["overflowed"],
        )
    out.print(fates)
    out.print(experiment.explain(result))
