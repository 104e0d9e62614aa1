"""What every primitive does with precision, read from the primitives themselves."""

from __future__ import annotations

from typing import NamedTuple

from fp16sim.autograd.ops import matmul, pool, scaled, shape  # noqa: F401 - all register themselves
from fp16sim.autograd.primitive import PRIMITIVES, Primitive
from fp16sim.precision import AUTOCAST_CLASSES


class Row(NamedTuple):
    """A primitive in words."""

    name: str
    #: a class of ``precision.CLASSES``, "inputs" (the widest of its inputs), or "first" (the
    #: format of the first)
    autocast: str
    #: what is rounded, and how often
    precision: str
    #: the first line of its documentation
    value: str


def describe() -> list[Row]:
    """All primitives, by name."""
    return [_row(PRIMITIVES[name]) for name in sorted(PRIMITIVES)]


def _row(primitive: Primitive) -> Row:
    unlisted = "first" if primitive.mixed else "inputs"
    autocast = AUTOCAST_CLASSES.get(primitive.name, unlisted)
    text = (primitive.__doc__ or "").strip().partition("\n")[0]
    return Row(primitive.name, autocast, _precision(primitive), text)


def _precision(primitive: Primitive) -> str:
    if primitive.exact:
        return "exact: nothing to round"
    if primitive.multiplies:
        return "products added in fp32, or as accumulator= says; rounded once"
    if primitive.knows_format:
        return "correctly rounded to 11 bits or fewer; else the carrier's"
    return "the carrier's, rounded once"
