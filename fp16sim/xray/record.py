"""What an X-ray writes down: under what key, in which step, and where an infinity was born."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fp16sim.counts import FATES
from fp16sim.formats import Format


class Key(NamedTuple):
    """What values are counted together."""

    #: module path, as "encoder.0.linear"
    scope: str
    #: primitive, as "linear"
    op: str
    #: "activation", "weight", "activation gradient", "weight gradient", ...
    role: str
    fmt: Format

    @property
    def place(self) -> str:
        """The path of module and operation, as "encoder.0.linear"."""
        return ".".join(filter(None, (self.scope, self.op)))


#: what ``Step.counts`` holds for a key: how many values in all, and of every fate but "normal"
TALLIED = ("total", *(fate for fate in FATES if fate != "normal"))


@dataclass(frozen=True)
class Birth:
    """An operation that was given numbers made an infinity or a NaN of them."""

    step: int
    key: Key
    #: "overflow" (a finite value too large for its format), "infinity" or "NaN" (before rounding)
    kind: str
    #: how many values, of how many
    count: int
    total: int
    #: the largest finite magnitude before rounding
    largest: float
    #: the line of the program that asked for the operation, as "train.py:42"
    line: str
    #: what the loss was multiplied by
    scale: float

    @property
    def in_gradient(self) -> bool:
        """Whether it happened on the way back."""
        return self.key.role.endswith("gradient")

    def __str__(self) -> str:
        what = {"overflow": "overflowed", "infinity": "became infinite", "NaN": "became NaN"}
        scaled = f", loss scale {self.scale:g}" if self.scale != 1 else ""
        return (
            f"step {self.step}: {self.count} of {self.total} values of {self.key.role} "
            f"{what[self.kind]} in {self.key.place or 'the program'} ({self.key.fmt}; largest "
            f"{self.largest:.3g}{scaled})" + (f", {self.line}" if self.line else "")
        )


@dataclass
class Step:
    """What happened between two updates."""

    index: int
    #: what the loss was multiplied by; 1 without scaling
    scale: float = 1.0
    #: the scale of the next step, if a scaler has settled on one
    next_scale: float | None = None
    #: the optimiser that ended it, the first if several did; None if it was not finished
    optimizer: object = None
    #: whether the optimiser stepped; None if the step was not finished
    taken: bool | None = None
    #: counts in the order of ``TALLIED``
    counts: dict[Key, list[int]] = field(default_factory=dict)
    #: infinities and NaNs in the order of their birth
    births: list[Birth] = field(default_factory=list)
    #: what was done with gradients and the scale, in order, as ("backward", 1024.0)
    log: list[tuple[str, float]] = field(default_factory=list)

    @property
    def probing(self) -> bool:
        """A scaler tried a scale, some gradients were too large, and the step was left out.

        That is how a dynamic scale finds its place, and no failure: the forward pass was finite.
        """
        return bool(
            self.taken is False and self.births and all(birth.in_gradient for birth in self.births)
        )

    @property
    def failure(self) -> Birth | None:
        """The first birth that no scaler has asked for: on the way forward, if there is one."""
        forward = next((birth for birth in self.births if not birth.in_gradient), None)
        return forward or (self.births[0] if self.births and not self.probing else None)

    @property
    def went_back(self) -> bool:
        """Whether there was a backward pass in it."""
        return any(
            key.role.endswith("gradient") and not key.op.startswith("clip_grad")
            for key in self.counts
        )

    def absorb(self, other: Step) -> None:
        """Take in what happened after it, and belongs to it."""
        for key, tally in other.counts.items():
            own = self.counts.get(key, [0] * len(TALLIED))
            self.counts[key] = [a + b for a, b in zip(own, tally, strict=True)]
        self.births += other.births
        self.log += other.log

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "index": self.index,
            "scale": self.scale,
            "next_scale": self.next_scale,
            "taken": self.taken,
            "probing": self.probing,
            "births": [str(birth) for birth in self.births],
        }
