"""``fp16sim train``: a network of the zoo, in any precision, stopped and continued at will."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fp16sim.cli.common import check_writable, console, table

if TYPE_CHECKING:
    from fp16sim.models.task import Task
    from fp16sim.training import Run, Step

#: what --precision may be, besides fp32: a low format of autocast, or a preset
LOW = ("fp16", "bf16", "tf32", "e4m3", "e5m2")
PRESETS = (
    "O0", "O1", "O2", "O3", "amp", "amp_bf16", "keras_mixed_float16", "keras_mixed_bfloat16",
)  # fmt: skip


@click.command(
    epilog="Examples: fp16sim train gpt     fp16sim train unet --precision fp16 --save unet.ckpt",
    short_help="Train a network of the zoo: autoencoder, mlp, cnn, gpt, yolo, unet.",
)
@click.argument("name")
@click.option("--size", default="laptop", show_default=True, help="tiny, laptop or gpu.")
@click.option("--fast", is_flag=True, help="The size tiny.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", *LOW, *PRESETS]),
    default="fp32",
    show_default=True,
    help="The low format of autocast, with dynamic loss scaling for fp16; fp32: neither; or a "
    "preset, see fp16sim presets.",
)
@click.option(
    "--scaling/--no-scaling", default=None, help="Loss scaling. Default: for fp16, or the preset's."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), help="Default: as many as it is meant for.")
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file to save the run in, and to continue it from if it is there. Ctrl-C saves.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON, nothing else.")
def train(
    name: str,
    size: str,
    fast: bool,
    precision: str,
    scaling: bool | None,
    seed: int,
    steps: int | None,
    save: Path | None,
    as_json: bool,
) -> None:
    """Train the network NAME on its data, and print its metric on data it has not seen. A run that
    was stopped and continued is the same run, bit for bit.
    """
    import fp16sim as fs

    size = "tiny" if fast else size
    try:
        task = fs.models.task(name, size, seed)
    except (ValueError, ImportError) as error:
        raise click.UsageError(str(error)) from error
    run, scaled = _set_up(task, precision, scaling)
    run.about = {"task": name, "size": size, "seed": seed, "precision": precision}
    if save is not None:
        check_writable(save.absolute().parent, "--save")
        if save.exists():
            _continue(run, save)
    start = time.perf_counter()
    try:
        _with_bar(run, task.steps if steps is None else steps, save)
    except KeyboardInterrupt as stop:
        where = "" if save is None else f"; the same command continues from {save}"
        raise click.ClickException(f"{stop}{where}") from None
    seconds = time.perf_counter() - start
    metrics = task.evaluate()
    sample = "" if task.sample is None else task.sample()
    if as_json:
        record = {**run.about, "scaling": scaled, "steps": len(run.history), "metrics": metrics}
        losses = {"losses": [step.loss for step in run.history], "seconds": seconds}
        click.echo(json.dumps({**record, **losses, "sample": sample}))
        return
    out = console()
    result = table(f"{name}, {size}, {precision}: {len(run.history)} steps", "metric", "value")
    for metric, value in metrics.items():
        result.add_row(metric, f"{value:.4f}")
    skipped = sum(step.skipped for step in run.history)
    result.add_row("training loss at the end", f"{run.history[-1].loss:.4f}")
    result.add_row("steps skipped", str(skipped))
    out.print(result)
    if sample:
        click.echo(sample)
    click.echo(f"{seconds:.0f} s", err=True)


def _set_up(task: Task, precision: str, scaling: bool | None) -> tuple[Run, bool]:
    """The task as a run in that precision, and whether its loss is scaled."""
    import fp16sim as fs

    if precision not in PRESETS:
        scaled = precision == "fp16" if scaling is None else scaling
        region = None if precision == "fp32" else fs.autocast(precision)
        return task.run(precision=region, scaler=fs.GradScaler() if scaled else None), scaled
    setup = fs.presets.PRESETS[precision]
    if scaling is not None:
        scale = (setup.scale or fs.scaling.LossScale()) if scaling else None
        setup = replace(setup, scale=scale)
    setup.prepare_training(task.model, task.optimizer)
    return task.run(precision=setup.region(), scaler=setup.scaler()), setup.scale is not None


def _continue(run: Run, path: Path) -> None:
    try:
        run.load(path)
    except (ValueError, TypeError) as error:
        raise click.UsageError(f"--save: {error}") from error
    click.echo(f"{path} has {len(run.history)} steps; continuing", err=True)


def _with_bar(run: Run, steps: int, path: Path | None) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("training", total=steps, completed=len(run.history))

        def on_step(step: Step) -> None:
            progress.update(bar, completed=step.index + 1, description=f"loss {step.loss:.4f}")

        run.train(steps, path=path, on_step=on_step)
