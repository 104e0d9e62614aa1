"""Module: parameters and parts, found by name; calling one enters its scope."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from fp16sim.autograd import Tensor
from fp16sim.events import scope
from fp16sim.formats import FormatLike, format_of
from fp16sim.rounding import store


class Module:
    """Base of everything that has parameters.

    Attributes that are modules become parts; attributes that are tensors which require a gradient
    become parameters. A subclass writes ``forward``; users call the module itself, which runs
    ``forward`` in a scope named after the attribute, so that events can be told apart by layer.
    """

    _name: str = ""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Module) and not value._name:
            object.__setattr__(value, "_name", name)  # the first place it has is the one it reports
        object.__setattr__(self, name, value)

    def forward(self, *inputs: Any) -> Any:
        """Compute the outputs; every subclass has its own."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def __call__(self, *inputs: Any) -> Any:
        """Run ``forward`` in this module's scope."""
        return self._run(self._name, *inputs)

    def _run(self, name: str, *inputs: Any) -> Any:
        with scope(name):
            return self.forward(*inputs)

    def children(self) -> Iterator[tuple[str, Module]]:
        """The parts with their names, in the order in which they were set."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, with dotted paths."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All parameters with dotted paths, each once."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and value.requires_grad and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def parameters(self) -> Iterator[Tensor]:
        """All parameters, each once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, fmt: FormatLike) -> Self:
        """Round all parameters to a format, in place; gradients are forgotten. Returns self."""
        fmt = format_of(fmt)
        for parameter in self.parameters():
            parameter.data = store(parameter.data, fmt, parameter.origin)
            parameter.fmt = fmt
            parameter.grad = None
        return self


class Sequential(Module):
    """Modules applied one after another, named "0", "1", ..."""

    def __init__(self, *modules: Module) -> None:
        for position, module in enumerate(modules):
            if not isinstance(module, Module):
                raise TypeError(f"modules[{position}] must be a Module, got {module!r}")
            setattr(self, str(position), module)

    def forward(self, x: Tensor) -> Tensor:
        """Apply all in order."""
        for name, module in self.children():
            x = module._run(name, x)  # by its place here: an activation may stand in several
        return x

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __getitem__(self, position: int) -> Module:
        return [module for _, module in self.children()][position]
