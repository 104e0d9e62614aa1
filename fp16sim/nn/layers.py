"""Layers. Each draws its weights from rng, a seed or a generator, as PyTorch would by default."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fp16sim import functional as F
from fp16sim.arguments import integer, one_of, real
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, RandomLike, generator
from fp16sim.functional.checks import pair, sizes, switch
from fp16sim.functional.images import Sizes
from fp16sim.nn import init
from fp16sim.nn.module import Module


def parameter(data: Array) -> Tensor:
    """A leaf that requires a gradient."""
    return Tensor(data, requires_grad=True)


def ones(*shape: int) -> Tensor:
    """A parameter of ones, fp32."""
    return parameter(np.ones(shape, np.float32))


def zeros(*shape: int) -> Tensor:
    """A parameter of zeros, fp32."""
    return parameter(np.zeros(shape, np.float32))


class Linear(Module):
    """x Wᵀ + b. Input (..., in_features), output (..., out_features).

    weight (out, in) and bias (out,) start uniform in ±1/√in.

    unit_scaled: weight starts as N(0, 1), bias as 0, and ``functional.linear`` scales output and
    gradients so that all have variance 1 in the beginning: no loss scale is needed. This is the
    paper's scheme without constraint: one number forward (1/√in), another for the gradient of the
    input (1/√out). It is right where the input is a cut-edge, that is, where the loss depends on
    what comes before through this layer alone, as in a chain: all gradients before it are
    multiplied by one number more, √(in / out), which Adam does not see. In a branch beside another
    (a residual one), take layers of in = out, or make up for it with ``functional.scale``.
    Source: Blake, Orr and Luschi, "Unit Scaling", ICML 2023, arXiv 2303.11257, sections 4 and 5.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        unit_scaled: bool = False,
        rng: RandomLike = None,
    ) -> None:
        shape = (
            integer("out_features", out_features, at_least=1),
            integer("in_features", in_features, at_least=1),
        )
        random = generator(rng)
        self.unit_scaled = switch("unit_scaled", unit_scaled)
        values = (
            init.normal(shape, 1.0, random)
            if self.unit_scaled
            else init.fan_in_uniform(shape, in_features, random)
        )
        self.weight = parameter(values)
        self.bias: Tensor | None = None
        if switch("bias", bias) and self.unit_scaled:
            self.bias = zeros(out_features)
        elif bias:
            self.bias = parameter(init.fan_in_uniform((out_features,), in_features, random))

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + b."""
        return F.linear(x, self.weight, self.bias, self.unit_scaled)


class _Convolution(Module):
    """What both convolutions hold: a weight (first, second / groups, rows, columns) and a bias."""

    def __init__(
        self,
        first: tuple[str, int],
        second: tuple[str, int],
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes,
        padding: Sizes,
        groups: int,
        bias: bool,
        rng: RandomLike,
    ) -> None:
        channels = [integer(name, count, at_least=1) for name, count in (first, second)]
        self.groups = integer("groups", groups, at_least=1)
        if any(count % groups for count in channels):
            raise ValueError(
                f"groups={groups} does not divide {first[0]}={first[1]} and {second[0]}={second[1]}"
            )
        self.stride = pair("stride", stride, 1)
        self.padding = pair("padding", padding, 0)
        shape = (channels[0], channels[1] // groups, *pair("kernel_size", kernel_size, 1))
        random, fan_in = generator(rng), init.fans(shape)[0]
        self.weight = parameter(init.fan_in_uniform(shape, fan_in, random))
        self.bias: Tensor | None = None
        if switch("bias", bias):
            self.bias = parameter(init.fan_in_uniform((out_channels,), fan_in, random))


class Conv2d(_Convolution):
    """Convolution of images (N, in_channels, H, W); see ``functional.conv2d``.

    weight (out, in / groups, rows, columns) and bias (out,) start uniform in ±1/√fan_in.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: RandomLike = None,
    ) -> None:
        ends = ("out_channels", out_channels), ("in_channels", in_channels)
        super().__init__(*ends, out_channels, kernel_size, stride, padding, groups, bias, rng)
        self.dilation = pair("dilation", dilation, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Correlate with the kernels."""
        settings = (self.stride, self.padding, self.dilation, self.groups)
        return F.conv2d(x, self.weight, self.bias, *settings)


class ConvTranspose2d(_Convolution):
    """Transposed convolution of images (N, in_channels, H, W); ``functional.conv_transpose2d``.

    weight (in, out / groups, rows, columns) and bias (out,) start uniform in ±1/√fan_in, where
    fan_in counts out / groups channels, as in PyTorch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: RandomLike = None,
    ) -> None:
        ends = ("in_channels", in_channels), ("out_channels", out_channels)
        super().__init__(*ends, out_channels, kernel_size, stride, padding, groups, bias, rng)
        self.output_padding = pair("output_padding", output_padding, 0)

    def forward(self, x: Tensor) -> Tensor:
        """From outputs of a convolution to inputs."""
        settings = (self.stride, self.padding, self.output_padding, self.groups)
        return F.conv_transpose2d(x, self.weight, self.bias, *settings)


class LayerNorm(Module):
    """Normalises over the last axes, which have normalized_shape; see ``functional.layer_norm``."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5) -> None:
        self.shape = sizes("normalized_shape", normalized_shape)
        self.eps = real("eps", eps, at_least=0)
        self.weight, self.bias = ones(*self.shape), zeros(*self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, scale, shift."""
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Divides by the root mean square over the last axes; see ``functional.rms_norm``."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5) -> None:
        self.shape = sizes("normalized_shape", normalized_shape)
        self.eps = real("eps", eps, at_least=0)
        self.weight = ones(*self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Divide, scale."""
        return F.rms_norm(x, self.shape, self.weight, self.eps)


class GroupNorm(Module):
    """Normalises (N, channels, ...) over groups of channels; see ``functional.group_norm``."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5) -> None:
        self.groups = integer("num_groups", num_groups, at_least=1)
        if integer("num_channels", num_channels, at_least=1) % num_groups:
            raise ValueError(f"num_groups={num_groups} does not divide {num_channels} channels")
        self.eps = real("eps", eps, at_least=0)
        self.weight, self.bias = ones(num_channels), zeros(num_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, scale, shift."""
        return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)


class BatchNorm2d(Module):
    """Normalises each channel of (N, channels, ...) over the batch; ``functional.batch_norm``.

    running_mean and running_var are buffers, in fp32 whatever the parameters' format.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        channels = integer("num_features", num_features, at_least=1)
        self.eps = real("eps", eps, at_least=0)
        self.momentum = real("momentum", momentum, at_least=0)
        self.weight, self.bias = ones(channels), zeros(channels)
        self.running_mean = Tensor(np.zeros(channels, np.float32))
        self.running_var = Tensor(np.ones(channels, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the batch's statistics if training, else with the running ones."""
        running = (self.running_mean, self.running_var)
        affine = (self.weight, self.bias)
        return F.batch_norm(x, *running, *affine, self.training, self.momentum, self.eps)


#: what keeps its parameters in fp32 where others are in half precision
NORMS = (LayerNorm, RMSNorm, GroupNorm, BatchNorm2d)


class Embedding(Module):
    """Rows of a table by their numbers. weight (num_embeddings, embedding_dim) starts normal."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *, rng: RandomLike = None) -> None:
        shape = (
            integer("num_embeddings", num_embeddings, at_least=1),
            integer("embedding_dim", embedding_dim, at_least=1),
        )
        self.weight = parameter(init.normal(shape, 1.0, rng))

    def forward(self, ids: ArrayLike) -> Tensor:
        """Integers (...) to (..., embedding_dim)."""
        return F.embedding(ids, self.weight)


class Dropout(Module):
    """Zeroes elements with probability p while training; see ``functional.dropout``.

    rng: seed or generator, which every call draws from.
    """

    def __init__(self, p: float = 0.5, *, rng: RandomLike = None) -> None:
        self.p = real("p", p, at_least=0, at_most=1)
        self.rng = generator(rng)

    def forward(self, x: Tensor) -> Tensor:
        """Drop, or pass on."""
        return F.dropout(x, self.p, self.training, rng=self.rng)


class ReLU(Module):
    """max(x, 0), each element."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each element."""
        return F.relu(x)


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


class SiLU(Module):
    """x / (1 + e^-x), each element."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each element."""
        return F.silu(x)


class GELU(Module):
    """x Φ(x), each element; approximate: "none" or "tanh"."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = one_of("approximate", approximate, ("none", "tanh"))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each element."""
        return F.gelu(x, self.approximate)


class MaxPool2d(Module):
    """The largest value of each window; see ``functional.max_pool2d``."""

    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> None:
        self.settings = (
            pair("kernel_size", kernel_size, 1),
            None if stride is None else pair("stride", stride, 1),
            pair("padding", padding, 0),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pool each channel."""
        return F.max_pool2d(x, *self.settings)


class Flatten(Module):
    """(N, ...) to (N, values)."""

    def forward(self, x: Tensor) -> Tensor:
        """All axes but the first as one."""
        return x.flatten(1)
