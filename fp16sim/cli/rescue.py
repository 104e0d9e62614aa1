"""``fp16sim rescue``: the experiment that this package began with."""

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
    out_option,
    progress,
    seeds_option,
    table,
)

if TYPE_CHECKING:
    from fp16sim.experiments.rescue import Rescue, Run


@click.command(
    epilog="Example: fp16sim rescue --seeds 1 --out /tmp/rescue",
    short_help="Train in fp16 with and without loss scaling, and see the difference.",
)
@seeds_option
@click.option("--steps", type=click.IntRange(min=1), default=600, show_default=True)
@click.option("--fast", is_flag=True, help="One seed and 250 steps, unless said otherwise.")
@out_option("rescue")
@json_option
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
        seeds = [0] if left_alone(ctx, "seeds") else seeds
        steps = 250 if left_alone(ctx, "steps") else steps
    check_writable(out)
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


def _with_progress(seeds: list[int], steps: int) -> Rescue:
    from fp16sim.experiments import rescue as experiment

    with progress("training runs", len(seeds) * len(experiment.VARIANTS)) as (executor, advance):

        def on_run(name: str, run: Run) -> None:
            advance()

        return experiment.rescue(seeds, steps, executor=executor, on_run=on_run)


def _print_rescue(result: Rescue, labels: dict[str, str]) -> None:
    import numpy as np

    from fp16sim.experiments.rescue import explain

    out = console()
    seeds = [run.seed for run in result.runs["fp32"]]

    errors = table(
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
    out.print(errors)

    fates = table(
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
    out.print(fates)

    layers = table(
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
    out.print(layers)
    out.print(explain(result))
