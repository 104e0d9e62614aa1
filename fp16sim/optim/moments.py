"""Moments: the arrays that an optimiser keeps per parameter, stored in a format."""

from __future__ import annotations

from typing import Any

import numpy as np

from fp16sim.backend import Array
from fp16sim.events import Origin
from fp16sim.formats import Format
from fp16sim.kernels.layout import carrier_for
from fp16sim.rounding import store

ORIGIN = Origin("", "optimizer", "moment")


class Moments:
    """A block of one parameter's moments.

    state: arrays by name, in the carrier of ``fmt``, of which ``where`` is the block, once flat.
    dtype: what is computed in; where it holds the format and nothing else, moments are changed
    in place and there is nothing to round.
    """

    __slots__ = ("_dtype", "_fmt", "_in_place", "_state", "_where", "fresh")

    def __init__(
        self, state: dict[str, Any], where: slice, fmt: Format, dtype: np.dtype[Any], fresh: bool
    ) -> None:
        self._state, self._where, self._fmt, self._dtype = state, where, fmt, dtype
        self._in_place = fmt == carrier_for(dtype).fmt
        #: whether they are all zero because this is the first step
        self.fresh = fresh

    @property
    def step(self) -> int:
        """Which step this is, from 1."""
        count: int = self._state["step"]
        return count

    def read(self, name: str) -> Array:
        """The values, in the dtype that is computed in; not to be changed."""
        return self._block(name).astype(self._dtype, copy=False)

    def advance(self, name: str, decay: float, addend: Array) -> Array:
        """decay·moment + addend, stored, and returned as it was stored."""
        block = self._block(name)
        if self._in_place:
            block *= decay
            block += addend
            return block
        moment = block.astype(self._dtype)
        moment *= decay
        moment += addend
        return self.put(name, moment, (block, addend))

    def put(self, name: str, values: Array, sources: tuple[Array, ...] = ()) -> Array:
        """Store values, computed from ``sources``, and return them as they were stored."""
        block = self._block(name)
        if self._in_place:
            block[...] = values
            return block
        stored = store(values, self._fmt, ORIGIN, sources)
        block[...] = stored
        return stored.astype(self._dtype, copy=False)

    def _block(self, name: str) -> Array:
        array: Array = self._state[name].reshape(-1)
        return array[self._where]
