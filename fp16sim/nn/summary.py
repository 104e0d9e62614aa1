"""What a network consists of: shapes, parameters and bytes, layer by layer."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from fp16sim.autograd import Tensor, no_grad
from fp16sim.formats import FP16, FP32, FormatLike, format_of
from fp16sim.nn.module import Module


@dataclass(frozen=True)
class Row:
    """One layer, as it was called."""

    path: str
    kind: str
    #: of the output, if it is a tensor
    shape: tuple[int, ...]
    #: numbers that the layer itself has, without its parts
    parameters: int
    #: values of the output
    activations: int


@dataclass(frozen=True)
class Summary:
    """Layers in the order of the forward pass. ``print`` it, or use its numbers."""

    rows: tuple[Row, ...]
    #: all parameters of the network, each once
    parameters: int

    def bytes(self, fmt: FormatLike) -> int:
        """Bytes of all parameters in a format."""
        return -(-self.parameters * format_of(fmt).bits // 8)  # rounded up

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table("layer", "kind", "output")
        for name in ("parameters", "activations"):
            table.add_column(name, justify="right")
        for row in self.rows:
            numbers = (f"{row.parameters:,}", f"{row.activations:,}")
            table.add_row(row.path or "(all)", row.kind, str(row.shape), *numbers)
        size = " or ".join(f"{self.bytes(fmt):,} bytes in {fmt}" for fmt in (FP32, FP16))
        console = Console(width=100)
        with console.capture() as capture:
            console.print(table)
            console.print(f"{self.parameters:,} parameters: {size}")
        return capture.get().rstrip()


def summary(model: Module, *inputs: Any) -> Summary:
    """Run the model once on inputs, without a tape and in eval mode, and note every layer's call.

    A layer that is called several times has as many rows.
    """
    if not isinstance(model, Module):
        raise TypeError(f"model must be a Module, got {model!r}")
    rows: list[Row] = []

    def note(path: str, module: Module, _: Any, output: Any) -> None:
        own = (value for value in vars(module).values() if isinstance(value, Tensor))
        count = sum(value.size for value in own if value.requires_grad)
        shape = output.shape if isinstance(output, Tensor) else ()
        size = output.size if isinstance(output, Tensor) else 0
        rows.append(Row(path, type(module).__name__, shape, count, size))

    with ExitStack() as stack:
        first = {id(module): (path, module) for path, module in [*model.named_modules()][::-1]}
        for path, module in first.values():
            stack.enter_context(module.hook(partial(note, path)))
        stack.enter_context(no_grad())
        stack.enter_context(model.evaluating())
        model(*inputs)
    return Summary(tuple(rows), sum(p.size for p in model.parameters()))
