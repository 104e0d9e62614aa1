"""``fp16sim memory``: the bytes of a training step of a network of the zoo, by precision."""

from __future__ import annotations

import json

import click


@click.command(
    epilog="Examples: fp16sim memory gpt --budget 16     fp16sim memory unet --policy amp",
    short_help="Count the bytes of a training step, by precision, and the largest batch.",
)
@click.argument("name")
@click.option("--size", default="laptop", show_default=True, help="tiny, laptop or gpu.")
@click.option("--fast", is_flag=True, help="The size tiny.")
@click.option("--policy", help="One of them, array by array. Default: all, side by side.")
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True, max=2**20),
    default=16.0,
    show_default=True,
    help="GiB, for the largest batch that fits.",
)
@click.option("--measure", is_flag=True, help="Also train for two steps and see what is allocated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
def memory(
    name: str,
    size: str,
    fast: bool,
    policy: str | None,
    budget: float,
    measure: bool,
    as_json: bool,
) -> None:
    """Count what the network NAME takes in one training step with its optimiser: weights, masters,
    optimiser, gradients, and what the tape holds for backward, in native storage; and the largest
    batch that fits into a budget. For fp32, autocast to fp16 and bf16, apex's O2 and O3, and fp8.
    """
    import fp16sim as fs
    from fp16sim.xray import memory_table
    from fp16sim.xray.memory import POLICIES

    try:
        task = fs.models.task(name, "tiny" if fast else size)
        reports = [
            fs.memory_report(
                task.model, task.batch(0), one, optimizer=task.optimizer, measure=measure
            )
            for one in ([policy] if policy else POLICIES)
        ]
    except (ValueError, ImportError) as error:
        raise click.UsageError(str(error)) from error
    room = max(1, int(budget * 2**30))
    if as_json:
        records = [r.to_dict() | {"largest_batch": r.largest_batch(room)} for r in reports]
        click.echo(json.dumps({"budget": room, "reports": records}))
        return
    click.echo(reports[0].table() if policy else memory_table(reports, room))
    if policy:
        click.echo(f"largest batch in {budget:g} GiB: {reports[0].largest_batch(room):,}")
