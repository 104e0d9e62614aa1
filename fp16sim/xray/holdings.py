"""What the tape holds for backward, array by array, and how that comes and goes on the way back.

There are two accounts of one tape. The *native* one is of a machine that keeps every value in the
bytes of its format: what backward reads counts, each array once. The *carrier* one is of this
process: the same arrays as float32 or float64, and the values of all nodes beside them, since a
node keeps its value while it is on the tape, whether backward reads it or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fp16sim.autograd.tape import Node, nodes
from fp16sim.backend import Array, is_on_gpu
from fp16sim.formats import Format
from fp16sim.recipes import Quantized

#: primitives whose rule reads the normalised values: fp32 ones, that belong to no format. Kernels,
#: as PyTorch's, keep the input instead, in its own format, and normalise it anew.
NORMS = ("layer_norm", "rms_norm", "group_norm", "batch_norm")

#: bytes by what names an array
Holding: TypeAlias = Mapping[Hashable, int]


class Held(NamedTuple):
    """An array that backward will read."""

    #: the path of the first module that keeps it, as "encoder.0", and the primitive
    scope: str
    op: str
    #: "activation"; "weight": a cast of one; "input"; "inside": what a primitive computed for its
    #: own backward, as the statistics of a norm, masks, targets
    kind: str
    #: the name of its format; of its dtype, for an array that is no value of the tape
    fmt: str
    #: in native storage
    bytes: int


class Account(NamedTuple):
    """A tape when the forward pass is done, and the walk back over it."""

    held: tuple[Held, ...]
    #: native bytes of what is held and of gradients, at every moment of the walk; the first is the
    #: end of the forward pass, the last has the gradients of the leaves and nothing else
    native: tuple[int, ...]
    #: the same in the bytes of the carriers
    carrier: tuple[int, ...]


def native_bytes(size: int, fmt: Format) -> int:
    """Bytes of so many values: up to 8 bits are packed, others take 16, 32 or 64 (TF32: 32)."""
    bits = fmt.bits if fmt.bits <= 8 else 1 << (fmt.bits - 1).bit_length()
    return -(-size * bits // 8)  # rounded up


def account(root: Node, kept: list[Node]) -> Account:
    """What the tape below ``root`` holds, and will hold on the way back.

    kept: what is counted elsewhere: the parameters and buffers.

    A gradient counts as an array of its own, in its value's format, from the moment it is computed
    until its node is passed; that some are views of another's is left out, and so is what a rule
    needs while it runs, and what ``nn.checkpoint`` computes anew.
    """
    walked = nodes(root)
    others = {_native_key(_owner(node.data), node.fmt) for node in kept}
    held: dict[Hashable, Held] = {}
    native: dict[int, Holding] = {}
    for node in reversed(walked):
        arrays = {key: one for key, one in _needed(node) if key not in others}
        for key, one in arrays.items():
            held.setdefault(key, one)
        native[id(node)] = {key: one.bytes for key, one in arrays.items()}
    outside = {id(_owner(node.data)) for node in kept}
    carrier = {id(node): _carried(node, outside) for node in walked}
    return Account(
        tuple(held.values()),
        _walk(walked, native, lambda node: native_bytes(node.data.size, node.fmt)),
        _walk(walked, carrier, lambda node: node.data.nbytes),
    )


def _walk(
    walked: list[Node], holdings: dict[int, Holding], gradient: Callable[[Node], int]
) -> tuple[int, ...]:
    """Bytes at every moment of ``tape.backward``: what is held goes, gradients come."""
    sizes = {key: size for held in holdings.values() for key, size in held.items()}
    holders = Counter(key for held in holdings.values() for key in held)
    live, waiting = sum(sizes.values()), {id(walked[0])}
    moments = [live]
    live += gradient(walked[0])
    for node in walked:
        for parent in node.parents:
            if parent.requires_grad:
                moments.append(live + gradient(parent))  # also if it is added to another
                if id(parent) not in waiting:
                    waiting.add(id(parent))
                    live += gradient(parent)
        for key in holdings[id(node)]:
            holders[key] -= 1
            live -= 0 if holders[key] else sizes[key]
        live -= 0 if node.is_leaf else gradient(node)
    return (*moments, live)


def _needed(node: Node) -> Iterator[tuple[Hashable, Held]]:
    """The arrays that the rule of a node will be given, in their formats."""
    place = node.origin.scope, node.origin.op
    around = [
        (node, _owner(node.data)),
        *((parent, _owner(parent.data)) for parent in node.parents),
    ]
    # A primitive that stores values for its backward says in which format.
    stored = next((part for part in node.residuals if isinstance(part, Format)), None)
    quantized = {id(part.values): part for part in node.residuals if isinstance(part, Quantized)}
    for array in _kept_arrays(node, NORMS):
        owner, part = _owner(array), quantized.get(id(array))
        source = next((one for one, own in around if own is owner), None)
        fmt = source.fmt if source is not None else stored if owner.dtype.kind == "f" else None
        kind = "inside" if source is None else source.origin.role
        size = owner.nbytes if fmt is None else native_bytes(owner.size, fmt)
        name = _DTYPES.get(owner.dtype.name, owner.dtype.name) if fmt is None else str(fmt)
        if part is not None:
            kind, name, size = part.role, str(part.fmt), _quantized_bytes(part)
        yield _native_key(owner, name), Held(*place, kind, name, size)


def _quantized_bytes(part: Quantized) -> int:
    """Bytes of the elements and their scales: an fp32 number, or one for each block of them."""
    if isinstance(part.fmt, Format):
        return native_bytes(part.values.size, part.fmt) + part.inverse.nbytes
    elements, blocks = part.values.size, -(-part.values.size // part.fmt.size)
    return native_bytes(elements, part.fmt.element) + native_bytes(blocks, part.fmt.scale)


# What a carrier holds that is in no format has the carrier's own.
_DTYPES = {"float32": "fp32", "float64": "fp64"}


def _native_key(owner: Array, fmt: Format | str) -> Hashable:
    """An array counts once in each format: a cast that changes no value is another array there."""
    return id(owner), str(fmt)


def _carried(node: Node, outside: set[int]) -> Holding:
    """The arrays that live at least as long as a node is on the tape."""
    arrays = [*_kept_arrays(node), node.data, *(parent.data for parent in node.parents)]
    owners = (_owner(array) for array in arrays)
    return {id(owner): owner.nbytes for owner in owners if id(owner) not in outside}


def _kept_arrays(node: Node, from_input: tuple[str, ...] = ()) -> Iterator[Array]:
    """What the rule needs beside the gradient.

    from_input: primitives that compute their first residual from their first input.
    """
    kept = node.residuals
    if node.origin.op == "checkpoint":  # its rule computes everything anew
        kept = tuple(parent.data for parent in node.parents)
    elif node.origin.op in from_input:
        kept = (node.parents[0].data, *kept[1:])
    return _arrays(kept)


def _arrays(value: Any) -> Iterator[Array]:
    if isinstance(value, tuple | list):
        for part in value:
            yield from _arrays(part)
    elif isinstance(value, np.ndarray) or is_on_gpu(value):
        yield value


def _owner(array: Array) -> Array:
    """The array that has the memory of this one, which may be a view of it."""
    while isinstance(array.base, type(array)):
        array = array.base
    return array
