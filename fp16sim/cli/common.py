"""What commands share: tables, progress, processes, folders to write to."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


_MOST_SEEDS = 1000

#: the environment of a process that multiplies matrices with one thread
ONE_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)

_Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]


def _seeds(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    """A count ("5" is seeds 0 to 4) or a list ("0,3,7", or "7," for one)."""
    try:
        numbers = [int(part) for part in value.removesuffix(",").split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a count nor a list like 0,3,7") from None
    if "," not in value:
        numbers = list(range(numbers[0])) if 1 <= numbers[0] <= _MOST_SEEDS else []
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise click.BadParameter(
            f"{value!r} gives no usable seeds; allowed is a count from 1 to {_MOST_SEEDS}, or a "
            "list of different numbers >= 0 (7, is the list of 7 alone)"
        )
    return numbers


seeds_option = click.option(
    "--seeds",
    callback=_seeds,
    default="5",
    show_default=True,
    metavar="COUNT|LIST",
    help="How many, or which: 5 is 0 to 4; 0,3,7 is these; 7, is 7 alone.",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the numbers as JSON, nothing else."
)


def out_option(name: str) -> _Decorator:
    """The option --out of a command that draws the figure ``name``."""
    return click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("figures"),
        show_default=True,
        help=f"Folder for {name}.svg, {name}.png and their dark versions.",
    )


def left_alone(ctx: click.Context, option: str) -> bool:
    """Whether the user has not set an option, so that --fast may."""
    return ctx.get_parameter_source(option) is click.core.ParameterSource.DEFAULT


def median_and_range(values: Iterable[float], digits: int = 3) -> str:
    """As "0.912 (0.900-0.920)"; the range is left out if there is one value."""
    import numpy as np

    found = list(values)
    middle = f"{np.median(found):.{digits}f}"
    if len(found) == 1:
        return middle
    return f"{middle} ({min(found):.{digits}f}-{max(found):.{digits}f})"


def console() -> Console:
    """Standard output; 100 columns wide if it is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 100
    return console


def table(title: str, *columns: str) -> Table:
    """An empty table: the first column to the left and unbroken, the others to the right."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE, title_justify="left", title_style="bold")
    for position, column in enumerate(columns):
        made.add_column(
            column,
            justify="right" if position else "left",
            no_wrap=position == 0,
            overflow="fold",
        )
    return made


def check_writable(out: Path, option: str = "--out") -> None:
    """Create the folder now, so that no work is lost if it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        raise click.BadParameter(f"cannot write to {out}: {error}", param_hint=option) from error


class Advance(Protocol):
    """What ``progress`` gives to be called as each job ends."""

    def __call__(self, remark: str = "") -> None:
        """Move the bar on; a remark stays above it, to follow long runs by."""


@contextmanager
def progress(what: str, jobs: int) -> Iterator[tuple[Executor, Advance]]:
    """A bar on standard error, processes to do the jobs, and what to call when one is done."""
    with bar(what, jobs) as advance, workers(jobs) as executor:
        yield executor, advance


@contextmanager
def bar(what: str, jobs: int, *, still: bool = False) -> Iterator[Advance]:
    """A bar on standard error, and what to call when a job is done.

    still: it only moves when it is called, so that no thread draws while jobs are timed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    error = Console(stderr=True, highlight=False)
    with Progress(*columns, console=error, auto_refresh=not still) as progress:
        task = progress.add_task(what, total=jobs)

        def advance(remark: str = "") -> None:
            progress.advance(task)
            if remark:
                error.print(remark, markup=False, soft_wrap=True)
            if still:
                progress.refresh()

        yield advance


@contextmanager
def workers(jobs: int) -> Iterator[Executor]:
    """A process per core, each with one BLAS thread.

    These matrices are too small for several BLAS threads to pay, and with one the results do not
    depend on the number of cores.
    """
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # read by the workers as they load NumPy
    # Not all cores may be ours (macOS and Windows cannot say); Windows allows 61 processes.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    executor = ProcessPoolExecutor(
        min(cores or 1, jobs, 61), mp_context=multiprocessing.get_context("spawn")
    )
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
