"""Attention, and the block that Transformers are stacks of."""

from __future__ import annotations

from numpy.typing import ArrayLike

from fp16sim import functional as F
from fp16sim.arguments import integer
from fp16sim.autograd import Tensor
from fp16sim.backend import RandomLike, generator
from fp16sim.functional.checks import with_axes
from fp16sim.nn.layers import GELU, Dropout, LayerNorm, Linear
from fp16sim.nn.module import Module, Sequential


class MultiheadAttention(Module):
    """Self-attention with several heads. Input and output (N, length, width).

    One linear layer makes queries, keys and values; each head sees width / heads of them; another
    mixes the heads. Source: Vaswani et al., "Attention is all you need" (2017), section 3.2.2.
    """

    def __init__(
        self, width: int, heads: int, bias: bool = True, *, rng: RandomLike = None
    ) -> None:
        self.heads = integer("heads", heads, at_least=1)
        if integer("width", width, at_least=1) % heads:
            raise ValueError(f"heads={heads} does not divide width={width}")
        random = generator(rng)
        self.qkv = Linear(width, 3 * width, bias, rng=random)
        self.out = Linear(width, width, bias, rng=random)

    def forward(self, x: Tensor, mask: ArrayLike | None = None, is_causal: bool = False) -> Tensor:
        """mask: booleans that broadcast to (N, heads, length, length), False for what is hidden."""
        count, length, width = with_axes(x, "input", 3, "(N, length, width)").shape
        parts = self.qkv(x).reshape(count, length, 3, self.heads, width // self.heads)
        q, k, v = (parts[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal)
        y: Tensor = self.out(mixed.transpose(0, 2, 1, 3).reshape(count, length, width))
        return y


class TransformerBlock(Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), each with dropout; (N, length, width).

    Norms come first, as in GPT-2 (Radford et al. 2019); the mlp is four times as wide inside.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        is_causal: bool = False,
        *,
        rng: RandomLike = None,
    ) -> None:
        random = generator(rng)
        self.is_causal = is_causal
        self.norm1 = LayerNorm(width)
        self.attention = MultiheadAttention(width, heads, rng=random)
        self.norm2 = LayerNorm(width)
        self.mlp = Sequential(
            Linear(width, 4 * width, rng=random),
            GELU("tanh"),
            Linear(4 * width, width, rng=random),
        )
        self.dropout = Dropout(dropout, rng=random)

    def forward(self, x: Tensor) -> Tensor:
        """(N, length, width) to the same."""
        x = x + self.dropout(self.attention(self.norm1(x), None, self.is_causal))
        y: Tensor = x + self.dropout(self.mlp(self.norm2(x)))
        return y
