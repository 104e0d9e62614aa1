"""A GPT: predicts the next character of Python's help texts.

Source: Radford et al., "Language models are unsupervised multitask learners" (GPT-2, 2019): norms
first, learned positions, GELU, weights normal with deviation 0.02, and those that end a residual
branch smaller by √(2 · depth). The output layer is not tied to the embedding.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fp16sim import functional as F
from fp16sim import nn, optim
from fp16sim.arguments import integer, real
from fp16sim.autograd import Tensor, no_grad
from fp16sim.backend import Array, RandomLike, generator
from fp16sim.data.topics import text, windows
from fp16sim.models.task import Network, Task
from fp16sim.nn import init

SETTINGS: dict[str, dict[str, Any]] = {
    "tiny": {"width": 32, "depth": 1, "heads": 2, "length": 16, "batch": 8, "steps": 40,
             "lr": 3e-3},
    "laptop": {
        "width": 96, "depth": 3, "heads": 4, "length": 64, "batch": 16, "steps": 700, "lr": 2e-3,
    },
    "gpu": {
        "width": 1024, "depth": 12, "heads": 16, "length": 1024, "batch": 16, "steps": 200,
        "lr": 3e-4,
    },
}  # fmt: skip


class GPT(Network):
    """Embeddings, Transformer blocks, a norm, logits. Input ids (N, length), output (N, length, V).

    entries: V, how many characters there are. length: the most that it can look at.
    """

    def __init__(
        self,
        entries: int,
        length: int = 64,
        width: int = 96,
        depth: int = 3,
        heads: int = 4,
        dropout: float = 0.0,
        *,
        rng: RandomLike = None,
    ) -> None:
        random = generator(rng)
        self.length = integer("length", length, at_least=1)
        self.tokens = nn.Embedding(entries, width, rng=random)
        self.positions = nn.Embedding(length, width, rng=random)
        self.blocks = nn.Sequential(
            *(nn.TransformerBlock(width, heads, dropout, True, rng=random)
              for _ in range(integer("depth", depth, at_least=1)))
        )  # fmt: skip
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, entries, bias=False, rng=random)
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                weight.data = np.zeros(weight.shape, np.float32)
            elif "norm" not in name:
                ends_a_branch = name.endswith(("out.weight", "mlp.2.weight"))
                std = 0.02 / math.sqrt(2 * depth) if ends_a_branch else 0.02
                weight.data = init.normal(weight.shape, std, random)

    def forward(self, ids: Array) -> Tensor:
        """Logits of the character after each."""
        if ids.ndim != 2 or not 1 <= ids.shape[1] <= self.length:
            raise ValueError(f"ids has shape {ids.shape}; allowed is (N, 1 to {self.length})")
        x = self.tokens(ids) + self.positions(np.arange(ids.shape[1]))
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits

    def loss(self, *batch: Array) -> Tensor:
        """Cross-entropy, in nats a character, of inputs and targets (N, length)."""
        inputs, targets = batch
        logits = self(inputs)
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))

    def generate(
        self, ids: Array, count: int, temperature: float = 1.0, rng: RandomLike = None
    ) -> Array:
        """Continue ids (N, length) by ``count`` characters, drawn from softmax(logits / t)."""
        temperature = real("temperature", temperature, above=0)
        count, random = integer("count", count, at_least=0), generator(rng)
        ids = np.asarray(ids)
        if ids.ndim != 2 or not ids.shape[1] or ids.dtype.kind not in "iu":
            raise ValueError(f"ids must be integers (N, 1 or more), got {ids.dtype} {ids.shape}")
        with no_grad(), self.evaluating(), np.errstate(all="ignore"):
            for _ in range(count):
                logits = self(ids[:, -self.length :]).numpy()[:, -1].astype(np.float64)
                powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
                total = np.cumsum(powers / powers.sum(axis=1, keepdims=True), axis=1)
                drawn = (total < random.random((len(ids), 1))).sum(axis=1, keepdims=True)
                drawn = np.minimum(drawn, total.shape[1] - 1)
                ids = np.concatenate([ids, drawn.astype(ids.dtype)], axis=1)
        return ids


def task(size: str, seed: int) -> Task:
    """Python's help texts, character by character; the metric is the loss on their last tenth."""
    settings = SETTINGS[size]
    data, length, count = text(), settings["length"], settings["batch"]
    shape = {name: settings[name] for name in ("length", "width", "depth", "heads")}
    model = GPT(len(data.alphabet), rng=seed, **shape)

    def batch(step: int) -> tuple[Array, ...]:
        random = np.random.default_rng([seed, integer("step", step, at_least=0)])
        return next(windows(data.train, length, count, 1, random))

    def evaluate() -> dict[str, float]:
        with no_grad(), model.evaluating():
            parts = windows(data.validation, length, count, 20, rng=0)
            return {"loss": float(np.mean([model.loss(*part).item() for part in parts]))}

    def sample() -> str:
        ids = model.generate(data.encode("The ")[None], 200, temperature=0.8, rng=0)
        return data.decode(ids[0])

    optimizer = optim.AdamW(model.parameters(), lr=settings["lr"], weight_decay=0.1)
    steps = settings["steps"]
    rule = optim.schedules.cosine(steps, warmup=min(steps // 10, 100), final=0.1)
    schedule = optim.Schedule(optimizer, rule)
    return Task("gpt", size, model, optimizer, steps, batch, evaluate, schedule, sample)
