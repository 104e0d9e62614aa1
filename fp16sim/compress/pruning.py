"""Fewer numbers: the smallest weights are set to zero, and kept there; and what it saves.

Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS
2015: train, prune, train what is left.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from fp16sim import nn
from fp16sim.arguments import integer, one_of, real
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, carried, namespace_of
from fp16sim.compress.grids import floats

#: how the weights of a layer can be stored; see ``storage_bytes``
LAYOUTS = ("dense", "csr", "bitmap", "2:4")


def magnitude_mask(x: ArrayLike | Tensor, sparsity: float) -> Array:
    """Which values to keep: all but the ``round(sparsity · size)`` smallest in size; booleans.

    Of equal ones the first are kept. sparsity: 0 to 1.
    """
    x, sparsity = floats("x", x), real("sparsity", sparsity, at_least=0, at_most=1)
    xp = namespace_of(x)
    order = xp.argsort(-abs(x).reshape(-1), kind="stable")
    mask: Array = xp.zeros(x.size, dtype=bool)
    mask[order[: x.size - round(sparsity * x.size)]] = True
    return mask.reshape(x.shape)


def two_of_four_mask(x: ArrayLike | Tensor) -> Array:
    """The two largest in size of each four next to each other along axis 1; booleans.

    x: (out, in, ...), in a multiple of 4. Of equal ones the first are kept. Sparse Tensor Cores
    compute with this pattern at up to twice the rate; source: Mishra et al., "Accelerating Sparse
    Deep Neural Networks", 2021, arXiv 2104.08378.
    """
    x = floats("x", x)
    if x.ndim < 2 or x.shape[1] % 4:
        raise ValueError(f"x has shape {x.shape}; allowed is (out, in, ...), in a multiple of 4")
    xp, groups = namespace_of(x), (len(x), x.shape[1] // 4, 4, *x.shape[2:])
    order = xp.argsort(-abs(x).reshape(groups), axis=2, kind="stable")
    rank: Array = xp.argsort(order, axis=2)
    return (rank < 2).reshape(x.shape)


def prune(model: nn.Module, sparsity: float | str, *, per_layer: bool = False) -> dict[str, Array]:
    """Set the smallest weights of a model to zero, in place, and return its masks by name.

    Weights are parameters of two axes or more: no biases, no norms. sparsity: the share that goes,
    of all weights together, by one threshold, or (per_layer) of each by its own. "2:4": two of four
    (``two_of_four_mask``), of all weights whose axis 1 allows it; ValueError if none does. Weights
    that are zero already are the first to go. For what comes next see ``apply_masks``.
    """
    weights = _weights(model)
    if isinstance(sparsity, str):
        one_of("sparsity", sparsity, ("2:4",))
        masks = {n: two_of_four_mask(w) for n, w in weights.items() if w.shape[1] % 4 == 0}
        if not masks:
            raise ValueError("sparsity='2:4' is not allowed: no weight's axis 1 is of fours")
    elif per_layer:
        masks = {name: magnitude_mask(w, sparsity) for name, w in weights.items()}
    else:
        arrays = [carried(w.data) for w in weights.values()]
        xp = namespace_of(arrays[0])
        flat = magnitude_mask(xp.concatenate([a.reshape(-1) for a in arrays]), sparsity)
        ends = np.cumsum([a.size for a in arrays])
        masks = {
            name: flat[end - a.size : end].reshape(a.shape)
            for name, a, end in zip(weights, arrays, ends.tolist(), strict=True)
        }
    apply_masks(model, masks)
    return masks


def apply_masks(model: nn.Module, masks: Mapping[str, Array]) -> None:
    """Set to zero, in place, what the masks do not keep.

    Momentum, Adam and weight decay move pruned weights as all others. So call this after every
    step of an optimiser (``on_step=lambda _: apply_masks(model, masks)`` of ``training.train``).
    Raises ValueError for names or shapes that the model does not have, before anything is changed.
    """
    weights = _weights(model)
    for name, mask in masks.items():
        if name not in weights or mask.shape != weights[name].shape:
            allowed = ", ".join(f"{known} {w.shape}" for known, w in weights.items())
            raise ValueError(f"masks has {name} {mask.shape}; allowed are {allowed}")
    for name, mask in masks.items():
        data = weights[name].data
        weights[name].data = data * mask.astype(data.dtype)


def storage_bytes(x: ArrayLike | Tensor, bits: int = 32, layout: str = "dense") -> int:
    """Bytes that an array takes if each value takes so many bits, packed.

    layout: "dense": all values. "csr": those that are not zero, with the number of its column for
    each, of 1, 2 or 4 bytes as is needed, and 4 bytes for each row's start and the end; rows are
    those of axis 0. "bitmap": the same values, and a bit for every place. "2:4": two values of
    four along axis 1, two bits of position each; ValueError if there are more.
    """
    bits, layout = integer("bits", bits, at_least=1, at_most=64), one_of("layout", layout, LAYOUTS)
    x = floats("x", x)
    kept, rows = int((x != 0).sum()), len(x) if x.ndim else 1
    if layout == "dense":
        total = bits * x.size
    elif layout == "bitmap":
        total = bits * kept + x.size
    elif layout == "csr":
        columns = x.size // max(rows, 1)
        index = 8 if columns <= 2**8 else 16 if columns <= 2**16 else 32
        total = (bits + index) * kept + 32 * (rows + 1)
    else:
        if bool(((x != 0) & ~two_of_four_mask(x)).any()):
            raise ValueError("layout='2:4' is not allowed: of some four values three are not zero")
        total = (bits + 2) * (x.size // 2)
    return -(-total // 8)


def model_bytes(
    model: nn.Module, bits: int = 32, layout: str = "dense", *, per_channel: bool = True
) -> int:
    """Bytes of a model whose weights (two axes or more) are stored in so many bits and a layout.

    From 16 bits on, all other parameters and buffers have as many bits, at most 32. Below, weights
    are integers on grids: those others take 32, and each weight a scale of 32 for each output
    channel, or for all of it.
    """
    weights = _weights(model)
    total = sum(storage_bytes(w, bits, layout) for w in weights.values())
    if bits < 16:
        total += 4 * sum(len(w) if per_channel else 1 for w in weights.values())
    others = sum(x.size for name, x in model.named_tensors() if name not in weights)
    return total + others * (2 if bits == 16 else 4)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a Module, got {model!r}")
    weights = {name: w for name, w in model.named_parameters() if w.ndim >= 2}
    if not weights:
        raise ValueError(f"{type(model).__name__} has no weights of two axes or more")
    return weights
