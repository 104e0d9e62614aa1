"""What experiments share: seeds, and runs spread over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, as_completed
from typing import TypeVar

from fp16sim.arguments import integer

J = TypeVar("J")
R = TypeVar("R")


def checked_seeds(seeds: Iterable[int]) -> list[int]:
    """The seeds as a list of Python ints.

    Raises ValueError for none at all, negative or repeated ones, TypeError for other than integers.
    """
    given = list(seeds)
    if not given or min(given) < 0 or len(set(given)) < len(given):
        raise ValueError(f"seeds={given!r} is not allowed; they must be different, each >= 0")
    return [integer(f"seeds[{i}]", seed, at_least=0) for i, seed in enumerate(given)]


def spread(
    work: Callable[[J], R],
    jobs: Sequence[J],
    *,
    executor: Executor | None = None,
    on_result: Callable[[J, R], object] | None = None,
) -> dict[J, R]:
    """``work`` done for every job, in the jobs' order whatever the order in which they ended.

    work, jobs: must be picklable if the executor has processes. executor: None does the jobs here,
    one after another. on_result: called with a job and its result as each ends.
    """
    results: dict[J, R] = {}

    def done(job: J, result: R) -> None:
        results[job] = result
        if on_result is not None:
            on_result(job, result)

    if executor is None:
        for job in jobs:
            done(job, work(job))
    else:
        futures = {executor.submit(work, job): job for job in jobs}
        for future in as_completed(futures):
            done(futures[future], future.result())
    return {job: results[job] for job in jobs}
