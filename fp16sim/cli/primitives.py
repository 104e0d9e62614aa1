"""``fp16sim primitives``: every operation of the engine, from the code itself."""

from __future__ import annotations

import json

import click

from fp16sim.cli.common import console, table


@click.command(
    epilog="Example: fp16sim primitives --json",
    short_help="List every primitive: its format under autocast, and its precision inside.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
def primitives(as_json: bool) -> None:
    """List every primitive of the engine with its class under autocast (low: the low format; wide:
    fp32; wide unless given: fp32, unless fmt= says otherwise; inputs: the widest of its inputs';
    first: the first input's), what it does inside, and how it rounds.
    """
    from fp16sim.autograd.table import describe

    rows = describe()
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows]))
        return
    out = console()
    listed = table(f"{len(rows)} primitives", "primitive", "autocast")
    listed.add_column("precision")
    listed.add_column("value")
    for row in rows:
        listed.add_row(*row)
    out.print(listed)
