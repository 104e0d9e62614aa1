"""A finding: something that goes wrong, or looks as if it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from fp16sim.xray.watch import XRay


@dataclass(frozen=True)
class Finding:
    """Something that goes wrong, or looks as if it did."""

    #: short, for programs: "scale-falls"
    name: str
    #: what is wrong
    title: str
    #: what was seen, and where
    evidence: str
    #: what to do
    remedy: str
    #: module and operation, or the call that is at fault
    place: str = ""
    #: when it was seen first; None for what is a sum over all steps
    step: int | None = None
    #: False for what is as it should be, and asked about all the same
    wrong: bool = True

    def __str__(self) -> str:
        where = f" (at {self.place})" if self.place and self.place not in self.evidence else ""
        return f"{self.title}\n  seen: {self.evidence}{where}\n  do:   {self.remedy}"


#: from an X-ray to what it shows, or None
Rule: TypeAlias = Callable[[XRay], Finding | None]
