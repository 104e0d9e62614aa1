"""``fp16sim figures``: every figure of the repository, made again by what made it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from fp16sim.cli.common import ONE_THREAD, bar, check_writable
from fp16sim.files import write_whole

#: where the figures are, with the page that says what makes them: in a clone of the repository
FOLDER = Path(__file__).resolve().parents[2] / "figures"


@dataclass(frozen=True)
class Source:
    """A figure and the command line that draws it into ./figures."""

    name: str
    command: str

    def arguments(self) -> list[str]:
        """The command for this interpreter and this clone."""
        program, *rest = shlex.split(self.command)
        if program == "fp16sim":
            return [sys.executable, "-m", "fp16sim", *rest]
        return [sys.executable, str(FOLDER.parent / rest[0]), *rest[1:]]  # python lessons/...


def sources() -> dict[str, Source]:
    """By name, as the table in the figures' README has them.

    Raises click's error if there is none beside the package.
    """
    page = FOLDER / "README.md"
    if not page.exists():
        raise click.ClickException(
            f"there is no {page}: figures are files of the repository, not of the installed "
            "package; clone it and install from there (pip install -e '.[lessons]')"
        )
    rows = re.findall(
        r"^\| `([\w-]+)` \| `((?:fp16sim|python) [^`]+)` \|", page.read_text("utf-8"), re.MULTILINE
    )
    return {name: Source(name, command) for name, command in rows}


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("figures"),
    show_default=True,
    help="Folder for the files: SVG and PNG, light and dark.",
)
@click.option("--list", "only_list", is_flag=True, help="Only say which figures there are.")
def figures(names: tuple[str, ...], out: Path, only_list: bool) -> None:
    r"""Make figures again: those with these NAMES, or all.

    All together take about half an hour on two cores; on one machine the files come out the same,
    byte for byte.

    \b
    Example: fp16sim figures 03_rounding accumulate --out slides
    """
    known = sources()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.BadParameter(
            f"there is no figure {', '.join(unknown)}; there are {', '.join(known)}",
            param_hint="NAMES",
        )
    chosen = [known[name] for name in names] or list(known.values())
    if only_list:
        for source in chosen:
            click.echo(f"{source.name:40} {source.command}")
        return
    check_writable(out)
    failed = []
    with bar("figures", len(chosen)) as advance:
        for source in chosen:
            problem = _make(source, out)
            if problem:
                failed.append(source.name)
            advance(f"{source.name}: {problem}" if problem else source.name)
    if failed:
        raise click.ClickException(f"not made: {', '.join(failed)}")


def _make(source: Source, out: Path) -> str:
    """Draw into an empty folder, and keep what is complete; what went wrong, or nothing."""
    from fp16sim.plots import ENDINGS

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            source.arguments(),
            cwd=folder,
            env=os.environ | ONE_THREAD,  # the bytes must not depend on the number of cores
            capture_output=True,
            text=True,
            check=False,
        )
        # Whatever its exit code is: the doctor's says whether something is wrong.
        made = [Path(folder) / "figures" / (source.name + ending) for ending in ENDINGS]
        missing = [path.name for path in made if not path.exists()]
        if missing:
            code = f"ended with code {done.returncode} and did not write"
            return f"{source.command} {code} {', '.join(missing)}\n{done.stderr}"
        for path in made:
            write_whole(out / path.name, path.read_bytes())
    return ""
