"""``fp16sim lessons``: what lessons there are, running them, and checking an exercise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from fp16sim.cli.common import bar
from fp16sim.files import write_whole

#: where the lessons are: beside the package, in a clone of the repository
FOLDER = Path(__file__).resolve().parents[2] / "lessons"

# Runs a reader's file, whose own call of the check would print a second time, and then the check.
_CHECK = """
import runpy, sys
folder, path, check, name = sys.argv[1:5]
sys.argv[1:] = ["--fast"]
sys.path.insert(0, folder)
import checks
judge = getattr(checks, check)
setattr(checks, check, lambda function: True)
made = runpy.run_path(path, run_name="__main__")
if name not in made:
    sys.exit(f"{path} has no function {name}")
print(flush=True)
sys.exit(0 if judge(made[name]) else 1)
"""


@dataclass(frozen=True)
class Lesson:
    """A lesson, by what its file says of itself."""

    number: int
    path: Path
    title: str
    #: of reading and computing, in words
    time: str
    #: the function that judges the exercise, and the reader's function
    check: str
    function: str

    @classmethod
    def of(cls, path: Path) -> Lesson:
        """Read its header and its last call. Raises ValueError for a file that has none."""
        text = path.read_text(encoding="utf-8")
        title = re.search(r"^# # \d+ · (.+)$", text, re.MULTILINE)
        length = re.search(r"^# - \*\*Time:\*\* ((?:.+)(?:\n#   .+)*)", text, re.MULTILINE)
        check = re.search(r"^(check_\w+)\((\w+)\)$", text, re.MULTILINE)
        if not (title and length and check):
            raise ValueError(f"{path} has no title, no time, or no check")
        return cls(
            int(path.name[:2]), path, title[1], length[1].replace("\n#   ", " "), check[1], check[2]
        )


def found() -> list[Lesson]:
    """All lessons, in their order. Raises click's error if they are not beside the package."""
    paths = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    if not paths:
        raise click.ClickException(
            f"there are no lessons in {FOLDER}: they are files of the repository, not of the "
            "installed package; clone it and install from there (pip install -e '.[lessons]')"
        )
    return [Lesson.of(path) for path in paths]


def lesson(number: int) -> Lesson:
    """One of them; click's error for a bad usage names those that there are."""
    by_number = {one.number: one for one in found()}
    if number not in by_number:
        known = ", ".join(map(str, by_number))
        raise click.BadParameter(f"there is no lesson {number}; there are {known}")
    return by_number[number]


def _record() -> Path:
    return Path(click.get_app_dir("fp16sim")) / "lessons.json"


def passed() -> set[int]:
    """The lessons whose exercise was passed; none if nobody knows."""
    try:
        numbers = json.loads(_record().read_text())
    except (OSError, ValueError):
        return set()
    is_list = isinstance(numbers, list) and all(type(number) is int for number in numbers)
    return set(numbers) if is_list else set()


def _note(number: int) -> None:
    """Remember that an exercise was passed."""
    record = _record()
    record.parent.mkdir(parents=True, exist_ok=True)
    write_whole(record, json.dumps(sorted(passed() | {number})).encode())


@click.group(
    short_help="The course: list, run, check, notebook, all.",
    epilog="Examples: fp16sim lessons run 2     fp16sim lessons check 2 mine.py",
)
def lessons() -> None:
    """The course. A lesson is a Python script in cells; it asks you to predict before it shows."""


@lessons.command("list")
def list_() -> None:
    """Number, title, time, and whether you have passed its exercise."""
    from fp16sim.cli.common import console, table

    rows, done = table("The course", "", "lesson", "time", "exercise"), passed()
    for column in rows.columns:
        column.justify = "left"
    for one in found():
        rows.add_row(
            f"{one.number:02}", one.title, one.time, "passed" if one.number in done else ""
        )
    console().print(rows)


@lessons.command()
@click.argument("number", type=int)
@click.option("--fast", is_flag=True, help="Less computing; no figures are written.")
def run(number: int, fast: bool) -> None:
    """Run lesson NUMBER; its figures go to ./figures."""
    code = _run(lesson(number), fast)
    sys.exit(code)


def _run(one: Lesson, fast: bool) -> int:
    return subprocess.run(
        [sys.executable, str(one.path), *["--fast"] * fast], check=False
    ).returncode


@lessons.command()
@click.argument("number", type=int)
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False
)
def check(number: int, file: Path | None) -> None:
    """Check the exercise of lesson NUMBER in your FILE, which needs nothing but the function
    (default: the lesson's own file, if you have written it there). Ends with code 1 if it is not
    right yet.
    """
    one = lesson(number)
    command = [sys.executable, "-c", _CHECK, str(one.path.parent), str(file or one.path)]
    done = subprocess.run([*command, one.check, one.function], check=False)
    if done.returncode == 0:
        _note(number)
    sys.exit(done.returncode)


@lessons.command()
@click.argument("number", type=int)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=FOLDER,
    help="Where to write it. Default: beside the lesson, where it finds its checks.",
)
def notebook(number: int, out: Path) -> None:
    """Make a Jupyter notebook of lesson NUMBER."""
    one = lesson(number)
    try:
        import jupytext
    except ImportError as error:
        raise click.ClickException(
            f"a notebook needs jupytext: pip install 'fp16sim[lessons]' ({error})"
        ) from None
    out.mkdir(parents=True, exist_ok=True)
    target = out / one.path.with_suffix(".ipynb").name
    jupytext.write(jupytext.read(one.path, fmt="py:percent"), target)
    click.echo(target)


@lessons.command("all")
@click.option("--fast", is_flag=True, help="Less computing; no figures are written.")
def all_(fast: bool) -> None:
    """Run all lessons, one after the other, and say how long each took."""
    every, seconds, failed = found(), {}, []
    with bar("lessons", len(every), still=True) as advance:
        for one in every:
            start = time.perf_counter()
            if _run(one, fast):
                failed.append(one)
            seconds[one] = time.perf_counter() - start
            advance(one.title)
    for one, took in seconds.items():
        click.echo(f"{one.number:02} {one.title}: {took:.0f} s", err=True)
    click.echo(f"all: {sum(seconds.values()) / 60:.1f} min", err=True)
    if failed:
        raise click.ClickException("failed: " + ", ".join(f"{one.number:02}" for one in failed))
