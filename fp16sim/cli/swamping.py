"""``fp16sim swamping``: updates that are lost for want of master weights."""

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
    from fp16sim.experiments.swamping import Run, Swamping


@click.command(
    epilog="Example: fp16sim swamping --fast --out /tmp/swamping",
    short_help="Train with and without master weights, and count the updates that are lost.",
)
@seeds_option
@click.option("--epochs", type=click.IntRange(min=1), default=60, show_default=True)
@click.option("--fast", is_flag=True, help="One seed and 20 epochs, unless said otherwise.")
@out_option("swamping")
@json_option
@click.pass_context
def swamping(
    ctx: click.Context, seeds: list[int], epochs: int, fast: bool, out: Path, as_json: bool
) -> None:
    """Train a small classifier of digits with Adam at three learning rates, its weights in fp32,
    fp16 and bf16: with fp32 master copies, without them, and with stochastic rounding instead.
    Print and draw the test accuracy and the share of updates that did not move their weight. After
    Micikevicius et al., "Mixed Precision Training" (2018), figure 2a.
    """
    from fp16sim import plots
    from fp16sim.experiments import swamping as experiment

    if fast:
        seeds = [0] if left_alone(ctx, "seeds") else seeds
        epochs = 20 if left_alone(ctx, "epochs") else epochs
    check_writable(out)
    variants = experiment.VARIANTS
    jobs = len(seeds) * len(variants) * len(experiment.LEARNING_RATES)
    with progress("training runs", jobs) as (executor, advance):

        def on_run(name: str, rate: float, run: Run) -> None:
            where = f"{variants[name].label}, learning rate {rate:g}, seed {run.seed}"
            advance(f"{where}: accuracy {run.accuracy:.3f}, {run.swamped:.1%} swamped")

        try:
            result = experiment.swamping(seeds, epochs, executor=executor, on_run=on_run)
        except ImportError as error:
            raise click.ClickException(str(error)) from error
    labels = {name: variant.label for name, variant in variants.items()}
    paths = plots.save(plots.swamping_figure(result, labels), out, "swamping")
    if as_json:
        click.echo(json.dumps(result.to_dict()))
    else:
        _print_swamping(result, labels)
    click.echo("Figure: " + ", ".join(str(path) for path in paths), err=True)


def _print_swamping(result: Swamping, labels: dict[str, str]) -> None:
    from fp16sim.experiments.swamping import LEARNING_RATES, explain

    out = console()
    count = len(result.runs["fp32"][LEARNING_RATES[0]])
    of = f"(median{' and range' * (count > 1)} of {count} seed{'s' * (count != 1)})"
    columns = [f"learning rate {rate:g}" for rate in LEARNING_RATES]
    accuracy = table(f"Test accuracy after {result.epochs[-1]} epochs {of}", "weights", *columns)
    lost = table(
        f"Updates other than zero that left the weight as it was, % {of}", "weights", *columns
    )
    for name, by_rate in result.runs.items():
        rows = by_rate.values()
        accuracy.add_row(
            labels[name], *(median_and_range(run.accuracy for run in runs) for runs in rows)
        )
        lost.add_row(
            labels[name],
            *(median_and_range((100 * run.swamped for run in runs), 1) for runs in rows),
        )
    out.print(accuracy)
    out.print(lost)
    out.print(explain(result))
