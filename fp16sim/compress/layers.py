"""Networks on grids: what integers would compute, in floating point, with gradients."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from fp16sim import nn
from fp16sim.arguments import integer
from fp16sim.autograd import Tensor, no_grad
from fp16sim.backend import Array
from fp16sim.compress.grids import Grid, fake_quantize, grid_between, grid_for

M = TypeVar("M", bound=nn.Module)


class QuantizedLayer(nn.Module):
    """A Linear or Conv2d that reads its weight, and its input, from grids; see ``quantize_model``.

    The weight's grid is that of its values now, symmetric; the input's reaches over the buffer
    ``input_range`` (2,). The layer's own tensors have the names that they had.
    """

    weight: Tensor

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        input_range: tuple[float, float] | None = None,
        *,
        weight_bits: int = 8,
        activation_bits: int = 8,
        per_channel: bool = True,
    ) -> None:
        self.__dict__.update(vars(layer))  # all that its forward reads: optimisers stay valid
        self._forward: Any = type(layer).forward
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        self.per_channel = per_channel
        self.input_range: Tensor | None = None
        if input_range is not None:
            ends = np.array(input_range, np.float32)
            self.input_range = Tensor(ends, device=layer.weight.device)
            grid_between(*input_range)  # raises for those that are not finite

    @property
    def weight_grid(self) -> Grid:
        """The grid of the weight as it is now. Raises ValueError if it is not finite."""
        axis = 0 if self.per_channel else None
        return grid_for(self.weight, self.weight_bits, symmetric=True, axis=axis)

    @property
    def input_grid(self) -> Grid | None:
        """The grid of the input; None if it is not quantized."""
        if self.input_range is None:
            return None
        low, high = self.input_range.data
        return grid_between(low, high, self.activation_bits)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's, of the input and the weight on their grids."""
        grid, weight = self.input_grid, fake_quantize(self.weight, self.weight_grid)
        layer = SimpleNamespace(**vars(self) | {"weight": weight})
        result: Tensor = self._forward(layer, x if grid is None else fake_quantize(x, grid))
        return result


def quantize_model(
    model: M,
    batches: Iterable[Array | Tensor] = (),
    *,
    weight_bits: int = 8,
    activation_bits: int | None = 8,
    per_channel: bool = True,
) -> M:
    """Put the weights of all Linear and Conv2d parts, and their inputs, on grids, in place.

    What is computed is what integers would give (``integer_linear``), up to the rounding of the
    bias and of the float32 sums; everything between the layers stays as it was. Evaluated as it
    is, that is post-training quantization; trained further, gradients pass straight through the
    grids: quantization-aware training (section 3). Optimisers and masks made before stay valid.

    batches: inputs of the model, on which the ranges of the layers' inputs are measured, in eval
    mode; they are not moved by training. weight_bits, activation_bits: 2 to 8; None leaves inputs
    as they are, and needs no batches. per_channel: a weight's grid for each output channel.
    Returns the model. Raises ValueError if there is nothing to quantize or to measure.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a Module, got {model!r}")
    settings: dict[str, Any] = {"per_channel": bool(per_channel)}
    settings["weight_bits"] = integer("weight_bits", weight_bits, at_least=2, at_most=8)
    found = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    if not found or "" in found:
        raise ValueError(f"{type(model).__name__} has no Linear or Conv2d as a part")
    ranges: dict[int, tuple[float, float]] = {}
    if activation_bits is not None:
        bits = integer("activation_bits", activation_bits, at_least=2, at_most=8)
        settings["activation_bits"] = bits
        ranges = _input_ranges(model, list(found.values()), batches)
        unseen = [name for name, layer in found.items() if id(layer) not in ranges]
        if unseen:
            raise ValueError(f"batches never reach {unseen[0]}: its input's range is not known")
    made = {
        id(layer): QuantizedLayer(layer, ranges.get(id(layer)), **settings)
        for layer in found.values()
    }
    for _, module in list(model.named_modules()):
        for name, child in list(module.children()):
            if id(child) in made:
                setattr(module, name, made[id(child)])
    return model


def _input_ranges(
    model: nn.Module, layers: list[Any], batches: Iterable[Array | Tensor]
) -> dict[int, tuple[float, float]]:
    """The smallest and the largest input of each layer that is reached, by its id."""
    ranges: dict[int, tuple[float, float]] = {}

    def see(layer: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
        low, high = float(inputs[0].data.min()), float(inputs[0].data.max())
        before = ranges.get(id(layer), (low, high))
        ranges[id(layer)] = min(low, before[0]), max(high, before[1])

    device = layers[0].weight.device
    with ExitStack() as stack, no_grad(), model.evaluating():
        for layer in layers:
            stack.enter_context(layer.hook(see))
        for batch in batches:
            model(batch if isinstance(batch, Tensor) else Tensor(batch, device=device))
    return ranges
