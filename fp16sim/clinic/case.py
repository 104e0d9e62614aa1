"""What a case of the clinic is."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A failure that people ask about, as two small programs: broken, and mended."""

    number: int
    #: what people say
    question: str
    #: what happens, and why, in some sentences
    story: str
    #: trains for some steps, and returns a line on how it ended
    broken: Callable[[], str]
    mended: Callable[[], str]
    #: the name of the finding that the doctor must come to, and its place ("" for none)
    finding: str
    place: str = ""
    #: where people have asked, as "pytorch#12345"
    asked: tuple[str, ...] = ()


def differences(case: Case) -> str:
    """The lines that mend it, as a diff."""
    before, after = (
        inspect.getsource(program).splitlines(keepends=True)[1:]  # without names
        for program in (case.broken, case.mended)
    )
    return "".join(list(difflib.unified_diff(before, after, n=1))[2:])
