"""What commands share: tables, progress, processes, folders to write to."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


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


@contextmanager
def progress(what: str, jobs: int) -> Iterator[tuple[Executor, Callable[[], None]]]:
    """A bar on standard error, processes to do the jobs, and what to call when one is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress, workers(jobs) as executor:
        task = progress.add_task(what, total=jobs)
        yield executor, lambda: progress.advance(task)


@contextmanager
def workers(jobs: int) -> Iterator[Executor]:
    """A process per core, each with one BLAS thread.

    These matrices are too small for several BLAS threads to pay, and with one the results do not
    depend on the number of cores.
    """
    settings = dict.fromkeys(
        ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
        "1",
    )
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)  # read by the workers as they load NumPy
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
