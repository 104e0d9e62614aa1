"""``fp16sim explain``: one number in detail."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import click

from fp16sim.cli.common import console, table

if TYPE_CHECKING:
    from fp16sim.explain import Explanation


@click.command(
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
    out = console()
    results = table(f"{number} in {mode}", "format", "becomes", "bits", "error, ulp", "")
    for row in rows:
        off = "" if math.isnan(row.error_in_ulps) else f"{row.error_in_ulps:+.4g}"
        results.add_row(row.fmt.name, repr(row.result), row.bits, off, row.fate)
    out.print(results)
    if len(rows) == 1:
        row = rows[0]
        modes = table(f"Neighbours and modes in {row.fmt}", "", "number", "bits")
        for name, value in (("below", row.below), ("above", row.above)):
            modes.add_row(name, repr(value), explaining.bit_fields(value, row.fmt))
        for name in explaining.MODES:
            picked = explaining.explain(row.number, row.fmt, name)
            modes.add_row(name, repr(picked.result), picked.bits)
        out.print(modes)


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
