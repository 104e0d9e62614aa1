"""A run of measurements as one JSON file: on what, with what, when, and all its numbers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fp16sim.bench.device import Device, slug
from fp16sim.bench.fidelity import FidelityRow
from fp16sim.bench.peers import PeerRow
from fp16sim.bench.plain import from_plain, to_plain
from fp16sim.bench.plan import LeftOut, Plan
from fp16sim.bench.sweeps import Ceilings, SweepRow, ceilings
from fp16sim.bench.zoo import InferenceRow, RecordedRow, StepRow
from fp16sim.files import write_whole

#: of the file; a file with a higher number is refused
SCHEMA = 1
#: what the file says it is
KIND = "fp16sim bench"
#: where records of GPUs are kept, in a folder each
RESULTS = Path("benchmarks") / "results"
FILE = "bench.json"


class RecordError(ValueError):
    """A file that is no record, or a damaged one, or one from a newer version."""


@dataclass(frozen=True)
class Record:
    """All of a run."""

    #: of its start, as "2026-11-26", in UTC
    date: str
    device: Device
    plan: Plan
    #: bytes of the largest cache that the sweeps were larger than
    cache: int
    steps: tuple[StepRow, ...] = ()
    inference: tuple[InferenceRow, ...] = ()
    peers: tuple[PeerRow, ...] = ()
    sweeps: tuple[SweepRow, ...] = ()
    fidelity: tuple[FidelityRow, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    recorded: tuple[RecordedRow, ...] = ()

    @property
    def ceilings(self) -> Ceilings:
        """The best that the sweeps have seen."""
        return ceilings(self.sweeps, self.cache)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values that JSON can hold; NaN and infinities as strings."""
        rest: dict[str, Any] = to_plain(self)
        return {"kind": KIND, "schema": SCHEMA, **rest}

    @classmethod
    def from_dict(cls, document: object) -> Record:
        """What ``to_dict`` gave. Raises RecordError for anything else, saying what is wrong."""
        if not isinstance(document, dict) or document.get("kind") != KIND:
            raise RecordError(f'it is no record of fp16sim bench: its "kind" is not "{KIND}"')
        schema = document.get("schema")
        if type(schema) is int and schema > SCHEMA:
            raise RecordError(
                f"it has schema {schema}, and this version reads up to {SCHEMA}; upgrade fp16sim"
            )
        if type(schema) is not int or schema < 1:
            raise RecordError(f"fp16sim did not write it: schema={schema!r}")
        rest = {name: value for name, value in document.items() if name not in ("kind", "schema")}
        try:
            return from_plain(cls, rest)
        except (ValueError, TypeError) as error:
            raise RecordError(f"it is damaged, or was changed by hand: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a file, whole or not at all; folders that are missing are made."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        write_whole(target, text.encode())
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Record:
        """Read a file that ``save`` wrote.

        Raises FileNotFoundError for a missing file; RecordError, which is a ValueError, for one
        that is foreign, newer or broken.
        """
        try:
            document = json.loads(Path(path).read_bytes(), parse_constant=_refuse)
        except (ValueError, RecursionError):
            message = "it is no JSON: damaged, cut short, or something else"
            raise RecordError(f"cannot read {os.fspath(path)}: {message}") from None
        try:
            return cls.from_dict(document)
        except RecordError as error:
            raise RecordError(f"cannot read {os.fspath(path)}: {error}") from error.__cause__


def default_folder(device: Device, date: str) -> Path:
    """Where the record of a GPU goes if nothing else is said."""
    return RESULTS / f"{slug(device.name)}-{date}"


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")
