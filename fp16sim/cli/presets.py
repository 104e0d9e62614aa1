"""``fp16sim presets``: the setups that have names, from the code itself."""

from __future__ import annotations

import json

import click

from fp16sim.cli.common import console, table


@click.command(
    epilog="Example: fp16sim presets --markdown",
    short_help="List the presets of mixed precision, and what other libraries call them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
@click.option("--markdown", is_flag=True, help="Print the table of the README.")
def presets(as_json: bool, markdown: bool) -> None:
    """List the presets: formats of parameters and of what is computed, the loss scale, and how
    PyTorch, Keras and jmp say the same (nothing where they cannot).
    """
    from fp16sim.presets import describe

    rows = describe()
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows]))
        return
    columns = ("preset", "parameters", "computes in", "loss scale", "PyTorch", "Keras", "jmp")
    if markdown:
        click.echo("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
        for row in rows:
            code = (f"`{cell}`" if cell and cell != "nothing" else cell for cell in row[4:])
            click.echo("| " + " | ".join((f"`{row.name}`", *row[1:4], *code)) + " |")
        return
    listed = table(f"{len(rows)} presets", *columns)
    for column in listed.columns[1:]:
        column.justify = "left"
    for row in rows:
        listed.add_row(*row)
    console().print(listed)
