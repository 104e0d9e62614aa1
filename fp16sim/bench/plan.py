"""What is to be measured, and how long: settings that a record repeats."""

from __future__ import annotations

from dataclasses import dataclass

from fp16sim.arguments import integer, one_of, real
from fp16sim.backend import DEVICES
from fp16sim.models import SIZES, TASKS

#: in which a network can be trained: by what a GPU's matrix units are given
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


@dataclass(frozen=True)
class Plan:
    """The settings of a run of measurements."""

    #: of the zoo
    names: tuple[str, ...] = tuple(TASKS)
    #: one of ``models.SIZES``
    size: str = "laptop"
    #: one of ``backend.DEVICES``
    device: str = "cpu"
    precisions: tuple[str, ...] = PRECISIONS
    #: of the initial weights and the order of the data
    seed: int = 0
    #: steps that are trained before a network is timed, after which its loss is told
    steps: int = 20
    #: laps, or seconds of them, see ``clock.time_call``
    repeats: int = 50
    seconds: float = 2.0
    #: seconds of a window in which energy is counted
    energy_seconds: float = 2.0
    #: turns of contenders that are compared, and steps in each
    turns: int = 9
    turn_steps: int = 3
    #: small sizes and few repeats: a look at whether all works
    fast: bool = False

    def __post_init__(self) -> None:
        for name in self.names:
            one_of("names", name, TASKS)
        for precision in self.precisions:
            one_of("precisions", precision, PRECISIONS)
        one_of("size", self.size, SIZES)
        one_of("device", self.device, DEVICES)
        integer("seed", self.seed, at_least=0)
        for name in ("steps", "repeats", "turns", "turn_steps"):
            integer(name, getattr(self, name), at_least=1)
        for name in ("seconds", "energy_seconds"):
            real(name, getattr(self, name), above=0)


@dataclass(frozen=True)
class LeftOut:
    """Something that was not measured."""

    what: str
    #: in words
    why: str
    #: whether that is a fault: it was started, and broke
    failed: bool = False
