"""``fp16sim clinic``: what goes wrong with half precision, case by case."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from fp16sim.cli.common import console, table

if TYPE_CHECKING:
    from fp16sim.clinic import Case


@click.group(
    epilog="Examples: fp16sim clinic list     fp16sim clinic run 5",
    short_help="Failures of mixed precision that people ask about, to be seen and mended.",
)
def clinic() -> None:
    """Small training programs that fail as people's do, what the X-ray says, and the cure."""


@clinic.command("list", epilog="Example: fp16sim clinic list")
def list_cases() -> None:
    """All cases."""
    from fp16sim.clinic import CASES

    rows = table("The clinic", "case", "what people say")
    rows.columns[1].justify = "left"
    for one in CASES:
        rows.add_row(str(one.number), one.question)
    console().print(rows)


@clinic.command(epilog="Example: fp16sim clinic run 5")
@click.argument("number", type=int)
@click.option("--all", "full", is_flag=True, help="Also the whole table of the X-ray.")
def run(number: int, full: bool) -> None:
    """Run case NUMBER: the failure, what the X-ray says about it, and the cure."""
    from fp16sim.clinic import case
    from fp16sim.clinic.case import differences

    try:
        one = case(number)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="NUMBER") from error
    click.echo(f"Case {number}: {one.question}\n")
    click.echo(textwrap.fill(one.story, 100) + "\n")
    for name, program in (("broken", one.broken), ("mended", one.mended)):
        _show(one, name, program, full)
    click.echo("What was changed:\n")
    click.echo(differences(one))
    click.echo(f"Asked in {', '.join(one.asked)}")


def _show(one: Case, name: str, program: Callable[[], str], full: bool) -> None:
    from fp16sim.cli.doctor import examine

    said: list[str] = []
    xray, findings = examine(lambda: said.append(program()))
    click.echo(f"--- {name}: {said[0] if said else 'ended with an error'}\n")
    if full:
        click.echo(xray.report())
    for finding in findings:
        click.echo(textwrap.indent(str(finding), "  ") + "\n")
    if not any(finding.wrong for finding in findings):
        click.echo("  nothing wrong was found\n")
