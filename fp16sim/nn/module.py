"""Module: parameters, buffers and parts, found by name; calling one enters its scope."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from fp16sim.autograd import Tensor
from fp16sim.autograd.tensor import operand
from fp16sim.backend import DEVICES, to_device
from fp16sim.events import Entered, announce, current_scope, scope, scope_at
from fp16sim.formats import Format, FormatLike, format_of
from fp16sim.precision import policy_in_force
from fp16sim.rounding import store

#: called with a module, its inputs and its output; what it returns, unless None, is the new output
Hook = Callable[["Module", tuple[Any, ...], Any], Any]

# The paths of the parts of the model that is running, by id.
_paths: ContextVar[Mapping[int, str]] = ContextVar("paths", default=MappingProxyType({}))

# Whether a model is running whose inputs were cast, and whose outputs will be, as a whole.
_cast_whole: ContextVar[bool] = ContextVar("cast_whole", default=False)


class Module:
    """Base of everything that has parameters.

    Attributes that are modules become parts; attributes that are tensors become parameters if they
    require a gradient, and buffers (running statistics, say) if they do not. A subclass writes
    ``forward``; users call the module itself, which runs ``forward`` in a scope named after its
    path in the model, as "encoder.0.conv1", so that events can be told apart by layer.
    """

    _name: str = ""
    #: whether dropout drops and batch statistics are the batch's; see ``train`` and ``eval``
    training: bool = True

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Module) and not value._name:
            object.__setattr__(value, "_name", name)  # the first place it has is the one it reports
        object.__setattr__(self, name, value)

    def forward(self, *inputs: Any) -> Any:
        """Compute the outputs; every subclass has its own."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def __call__(self, *inputs: Any) -> Any:
        """Run ``forward`` in this module's scope, then its hooks.

        In a region whose policy is for whole models, inputs and outputs of a model (not of its
        parts) are cast as that says; see ``precision.Policy``.
        """
        policy = policy_in_force()
        if policy is None or not policy.whole or _cast_whole.get():
            return self._scoped(*inputs)
        token = _cast_whole.set(True)
        try:
            return _cast_all(self._scoped(*_cast_all(inputs, policy.low)), policy.wide)
        finally:
            _cast_whole.reset(token)

    def _scoped(self, *inputs: Any) -> Any:
        path = _paths.get().get(id(self))
        if path is not None:  # a part, wherever it is called from
            with scope_at(path):
                return self._run(*inputs)
        if current_scope() or _paths.get():  # no part of the model that is running
            with scope(self._name):
                return self._run(*inputs)
        announce(Entered(self))
        inside = [(path, id(module)) for path, module in self.named_modules(self._name)]
        token = _paths.set({key: path for path, key in reversed(inside)})
        try:
            with scope(self._name):
                return self._run(*inputs)
        finally:
            _paths.reset(token)

    def _run(self, *inputs: Any) -> Any:
        output = self.forward(*inputs)
        for hook in vars(self).get("_hooks", ()):
            changed = hook(self, inputs, output)
            output = output if changed is None else changed
        return output

    @contextmanager
    def hook(self, function: Hook) -> Iterator[None]:
        """Inside the block, call ``function(module, inputs, output)`` after every ``forward``.

        What it returns takes the output's place, unless it is None.
        """
        self._hooks: tuple[Hook, ...] = (*vars(self).get("_hooks", ()), function)
        try:
            yield
        finally:
            left = list(self._hooks)  # blocks may end in any order
            left.remove(function)
            self._hooks = tuple(left)

    # --- what it is made of --------------------------------------------------------------------

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

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All parameters and buffers with dotted paths, each once."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that require a gradient, with dotted paths."""
        return ((name, value) for name, value in self.named_tensors() if value.requires_grad)

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that do not, with dotted paths."""
        return ((name, value) for name, value in self.named_tensors() if not value.requires_grad)

    def parameters(self) -> Iterator[Tensor]:
        """All parameters, each once."""
        return (parameter for _, parameter in self.named_parameters())

    # --- what is done to all of it -------------------------------------------------------------

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def train(self, mode: bool = True) -> Self:
        """Set ``training`` here and in all parts. Returns self."""
        if not isinstance(mode, bool):
            raise TypeError(f"mode must be True or False, got {mode!r}")
        for _, module in self.named_modules():
            module.training = mode
        return self

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside the block as after ``eval()``; afterwards every part is in its own mode again."""
        modes = [(module, module.training) for _, module in self.named_modules()]
        self.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode

    def named_generators(self) -> Iterator[tuple[str, np.random.Generator]]:
        """The random generators that this module and its parts draw from, each once."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            rng = vars(module).get("rng")
            if isinstance(rng, np.random.Generator) and id(rng) not in seen:
                seen.add(id(rng))
                yield path, rng

    def eval(self) -> Self:
        """The same as ``train(False)``."""
        return self.train(False)

    def to(self, fmt: FormatLike) -> Self:
        """Round all parameters to a format, or move all to a device, in place. Returns self.

        fmt: a Format or its name; or "cpu" or "cuda", see ``backend.to_device``. Gradients are
        forgotten. Buffers move, but keep their format: running statistics belong in fp32. Make
        optimisers afterwards: their state stays where it is.
        """
        if isinstance(fmt, str) and fmt in DEVICES:
            for _, value in self.named_tensors():
                moved = to_device(value.data, fmt)
                value.data, value.grad = store(moved, value.fmt, None), None
            return self
        fmt = format_of(fmt)
        for parameter in self.parameters():
            round_parameter(parameter, fmt)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all parameters and buffers, by dotted path."""
        return {name: value.detach() for name, value in self.named_tensors()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set all parameters and buffers from a ``state_dict()``, or from arrays by path.

        Values are rounded to the format that each has here. Nothing is changed unless all fit:
        raises ValueError for missing, unknown or wrongly shaped entries.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a mapping, got {type(state).__name__}")
        own = dict(self.named_tensors())
        if not all(isinstance(name, str) for name in state):
            raise TypeError("state must have dotted paths as keys")
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            lists = [f"{what}: {', '.join(names)}" for what, names in
                     (("missing", missing), ("unknown", unknown)) if names]  # fmt: skip
            raise ValueError(f"state does not fit this {type(self).__name__}; {'; '.join(lists)}")
        given = {name: operand(value, own[name], f"state[{name!r}]")
                 for name, value in state.items()}  # fmt: skip
        for name, value in given.items():
            if value.shape != own[name].shape:
                raise ValueError(
                    f"state has shape {value.shape} for {name}; allowed is {own[name].shape}"
                )
        with np.errstate(all="ignore"):
            for name, value in given.items():
                stored = store(value.data, own[name].fmt, None)
                own[name].data = to_device(stored, own[name].device).copy()
                own[name].grad = None


def round_parameter(parameter: Tensor, fmt: Format) -> None:
    """Round a parameter to a format, in place, and forget its gradient."""
    with np.errstate(all="ignore"):
        parameter.data = store(parameter.data, fmt, parameter.origin)
    parameter.fmt = fmt
    parameter.grad = None


def _cast_all(value: Any, fmt: Format) -> Any:
    """Tensors, also in tuples, lists and dicts, in another format; everything else as it is."""
    match value:
        case Tensor():
            return value.to(fmt)
        case dict():
            return {name: _cast_all(part, fmt) for name, part in value.items()}
        case list() | tuple() if not hasattr(value, "_fields"):
            return type(value)(_cast_all(part, fmt) for part in value)
        case tuple():
            return type(value)(*(_cast_all(part, fmt) for part in value))
    return value


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
            with scope(name):  # by its place here: an activation may stand in several
                x = module._run(x)
        return x

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __getitem__(self, position: int) -> Module:
        return [module for _, module in self.children()][position]
