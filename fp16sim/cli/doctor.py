"""``fp16sim doctor``: a training script under the X-ray, and what is wrong with it."""

from __future__ import annotations

import json
import runpy
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fp16sim.xray import Finding, XRay


@click.command(
    epilog="Examples: fp16sim doctor train.py -- --epochs 1     fp16sim doctor 5",
    short_help="Run a training script under the X-ray, and say what is wrong with it.",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="For the figure.")
@click.option("--json", "as_json", is_flag=True, help="Print findings as JSON, nothing else.")
def doctor(script: str, arguments: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Run SCRIPT (a file, or the number of a case of the clinic) with its ARGUMENTS, watch every
    number that it stores, and print what is lost where, what goes wrong, and what to do. Ends with
    code 1 if something is wrong. Ctrl-C ends the script, not the examination.
    """
    from fp16sim.cli.common import check_writable

    program = _program(script, arguments)
    if out is not None:
        check_writable(out)
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        xray, findings = examine(program, tell=not as_json)
    if as_json:
        record = {"findings": [asdict(one) for one in findings], **xray.to_dict()}
        click.echo(json.dumps(record))
    else:
        click.echo(xray.report())
        for one in findings:
            click.echo(f"{one}\n")
        if not any(one.wrong for one in findings):
            click.echo("nothing wrong was found")
    if out is not None:
        from fp16sim import plots

        for path in plots.save(xray.plot(), out, "xray"):
            click.echo(f"written: {path}", err=True)
    if any(one.wrong for one in findings):
        sys.exit(1)


def examine(program: Callable[[], object], tell: bool = False) -> tuple[XRay, list[Finding]]:
    """Run a program under the X-ray, to its end or its error, and diagnose.

    tell: print the traceback of an error, as Python would have.
    """
    from fp16sim.xray import diagnose, watch

    error: BaseException | None = None
    with watch() as xray:
        try:
            program()
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
        except SystemExit as stop:
            says = f"exit code {stop.code}" if isinstance(stop.code, int) else str(stop.code)
            error = RuntimeError(says).with_traceback(stop.__traceback__) if stop.code else None
        except Exception as raised:
            error = raised
            if tell:
                traceback.print_exception(raised)
    return xray, diagnose(xray, error)


def _program(script: str, arguments: tuple[str, ...]) -> Callable[[], object]:
    from fp16sim import clinic

    if script.isdecimal():
        try:
            return clinic.case(int(script)).broken
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="SCRIPT") from error
    path = Path(script)
    if not path.is_file():
        raise click.BadParameter(f"there is no file {script}", param_hint="SCRIPT")

    def run() -> object:
        sys.argv = [script, *arguments]
        sys.path.insert(0, str(path.resolve().parent))  # as Python does
        return runpy.run_path(script, run_name="__main__")

    return run
