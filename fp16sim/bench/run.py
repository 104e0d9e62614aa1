"""A whole run: jobs one after the other, never two at a time, since each wants the machine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from fp16sim.bench.device import cache_bytes, describe, release
from fp16sim.bench.fidelity import fidelity
from fp16sim.bench.peers import compare
from fp16sim.bench.plan import LeftOut, Plan
from fp16sim.bench.record import Record
from fp16sim.bench.sweeps import DTYPES, sweep
from fp16sim.bench.zoo import IN_USE, measure_inference, measure_recorded, measure_step

#: rows by the record's field that they belong to
Rows = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A part of a run."""

    #: as "gpt, fp16"
    title: str
    measure: Callable[[], Rows]


def start(plan: Plan) -> Record:
    """A record of this machine and this day, still without rows."""
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return Record(date, describe(plan.device), plan, cache_bytes(plan.device))


def jobs(
    plan: Plan,
    memory: int | None,
    *,
    torch: bool = False,
    sweeps: bool = False,
    fidelities: bool = False,
) -> list[Job]:
    """What there is to do. memory: bytes of the device. torch: compare with PyTorch. sweeps,
    fidelities: these as well.
    """
    made: list[Job] = []
    for name, precision in itertools.product(plan.names, plan.precisions):
        title = f"{name}, {precision}"
        made.append(Job(title, _step_job(name, plan, precision, memory)))
        if plan.device == "cuda":
            made.append(Job(f"{title}, recorded", _recorded_job(name, plan, precision)))
        if name in IN_USE:
            made.append(Job(f"{title}, in use", _inference_job(name, plan, precision)))
        if torch:
            made.append(Job(f"{title}, against PyTorch", _peer_job(name, plan, precision)))
        if fidelities:
            made.append(Job(f"{title}, twice", _fidelity_job(name, plan, precision)))
    if sweeps:
        made += [Job(f"sweep, {dtype}", _sweep_job(plan, dtype)) for dtype in DTYPES[plan.device]]
    return made


def do(record: Record, job: Job) -> Record:
    """The record with the job's rows; or, if it failed, with a line that says so: the others' work
    is not lost for it.
    """
    try:
        rows = job.measure()
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]
        rows = _left(job.title, f"{type(error).__name__}: {line}", failed=True)
    release(record.device.kind)
    return replace(record, **{name: getattr(record, name) + new for name, new in rows.items()})


def _left(what: str, why: str, failed: bool = False) -> Rows:
    return {"left_out": (LeftOut(what, why, failed),)}


def _step_job(name: str, plan: Plan, precision: str, memory: int | None) -> Callable[[], Rows]:
    return lambda: {"steps": (measure_step(name, plan, precision, memory),)}


def _recorded_job(name: str, plan: Plan, precision: str) -> Callable[[], Rows]:
    return lambda: {"recorded": (measure_recorded(name, plan, precision),)}


def _inference_job(name: str, plan: Plan, precision: str) -> Callable[[], Rows]:
    return lambda: {"inference": (measure_inference(name, plan, precision),)}


def _peer_job(name: str, plan: Plan, precision: str) -> Callable[[], Rows]:
    def measure() -> Rows:
        rows, left_out = compare(name, plan, precision)
        return {"peers": tuple(rows), "left_out": tuple(left_out)}

    return measure


def _fidelity_job(name: str, plan: Plan, precision: str) -> Callable[[], Rows]:
    return lambda: {"fidelity": (fidelity(name, plan, precision),)}


def _sweep_job(plan: Plan, dtype: str) -> Callable[[], Rows]:
    def measure() -> Rows:
        rows, left_out = sweep(plan.device, plan, dtype)
        return {"sweeps": rows, "left_out": left_out}

    return measure


def failures(left_out: Iterable[LeftOut]) -> list[LeftOut]:
    """Those that broke."""
    return [one for one in left_out if one.failed]
