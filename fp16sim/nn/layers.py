"""Layers: the linear one and the activations."""

from __future__ import annotations

from fp16sim import functional as F
from fp16sim.arguments import integer
from fp16sim.autograd import Tensor
from fp16sim.backend import RandomLike, generator
from fp16sim.nn import init
from fp16sim.nn.module import Module


class Linear(Module):
    """x Wᵀ + b. Input (..., in_features), output (..., out_features).

    weight (out, in) and bias (out,) start uniform in ±1/sqrt(in), as PyTorch's do; rng is a seed
    or a generator. Raises ValueError for sizes below 1, TypeError for other than integers.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, rng: RandomLike = None
    ) -> None:
        shape = (
            integer("out_features", out_features, at_least=1),
            integer("in_features", in_features, at_least=1),
        )
        random = generator(rng)
        self.weight = Tensor(init.fan_in_uniform(shape, in_features, random), requires_grad=True)
        self.bias: Tensor | None = None
        if bias:
            start = init.fan_in_uniform((out_features,), in_features, random)
            self.bias = Tensor(start, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + b."""
        return F.linear(x, self.weight, self.bias)


class Sigmoid(Module):
    """1 / (1 + e^-x), each element."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each element."""
        return F.sigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent, each element."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each element."""
        return F.tanh(x)


class ReLU(Module):
    """max(x, 0), each element."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each element."""
        return F.relu(x)
