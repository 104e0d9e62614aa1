"""The networks of the zoo as a user of PyTorch would write them, with the same parameter names.

For comparing, in speed and bit by bit: the only definition of them. Imports PyTorch, so import it
late. CUDA's autocast computes norms and losses in fp32; here they say so themselves (``wide``),
since the CPU's would stay in the low format. In fp32 and float64 that does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as T

from fp16sim.models import cnn, gpt, mlp, unet, yolo

if TYPE_CHECKING:
    from fp16sim.models import Task

Tensor = torch.Tensor


def wide(x: Tensor) -> Tensor:
    """What the classes "wide" of ``fp16sim.precision`` see."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _sequence(modules: Iterable[nn.Module]) -> nn.Sequential:
    return nn.Sequential(*modules)


class Dense(nn.Module):
    """A linear layer and a sigmoid."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.linear(x))


class Autoencoder(nn.Module):
    """See ``models.autoencoder``."""

    def __init__(self, sizes: Iterable[int]) -> None:
        super().__init__()
        down = list(pairwise(sizes))
        self.encoder = _sequence(Dense(i, o) for i, o in down)
        self.decoder = _sequence(Dense(o, i) for i, o in reversed(down))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.decoder(self.encoder(x))
        return y

    def loss(self, images: Tensor) -> Tensor:
        return T.mse_loss(wide(self(images)), images)


class MLP(nn.Module):
    """See ``models.mlp``."""

    def __init__(self, sizes: Iterable[int]) -> None:
        super().__init__()
        self.layers = _sequence(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for place, layer in enumerate(self.layers):
            x = layer(T.relu(x) if place else x)
        return x

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return T.cross_entropy(wide(self(images)), labels)


class ConvNet(nn.Module):
    """See ``models.cnn``."""

    def __init__(self, widths: tuple[int, int]) -> None:
        super().__init__()
        first, second = widths
        self.conv1 = nn.Conv2d(1, first, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(second)
        self.head = nn.Linear(second * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = T.relu(self.norm1(self.conv1(x)))
        x = T.relu(self.norm2(self.conv2(x)))
        y: Tensor = self.head(T.max_pool2d(x, 2).flatten(1))
        return y

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return T.cross_entropy(wide(self(images)), labels)


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        split = (n, length, self.heads, width // self.heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        y = T.scaled_dot_product_attention(q, k, v, is_causal=True)
        z: Tensor = self.out(y.transpose(1, 2).reshape(n, length, width))
        return z


class Block(nn.Module):
    """A Transformer's block, norms first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(wide(x)))
        y: Tensor = x + self.mlp(self.norm2(wide(x)))
        return y


class GPT(nn.Module):
    """See ``models.gpt``."""

    def __init__(self, entries: int, length: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(entries, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = _sequence(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, entries, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        y: Tensor = self.head(self.norm(wide(self.blocks(x))))
        return y

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return T.cross_entropy(wide(self(inputs)).flatten(0, 1), targets.flatten())


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return T.relu(self.norm(self.conv(x)))


class Detector(nn.Module):
    """See ``models.yolo``."""

    def __init__(self, width: int, classes: int = 3) -> None:
        super().__init__()
        sizes = [(3, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)]
        sizes += [(4 * width, 4 * width, 1), (4 * width, 8 * width, 2), (8 * width, 8 * width, 1)]
        self.backbone = _sequence(ConvNormReLU(*size) for size in sizes)
        self.head = nn.Conv2d(8 * width, 5 + classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.backbone(x))
        return y

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        y, there = self(images), targets[:, :1]
        presence = T.binary_cross_entropy_with_logits(wide(y[:, :1]), there)
        box = torch.cat([torch.sigmoid(y[:, 1:3]), y[:, 3:5]], 1) * there
        boxes = T.mse_loss(box, targets[:, 1:5] * there, reduction="sum") / there.numel()
        labels = torch.where(there[:, 0] > 0, targets[:, 5], -1).long()
        kinds = T.cross_entropy(wide(y[:, 5:]), labels, ignore_index=-1, reduction="sum")
        return presence + 2 * boxes + kinds / there.numel()


class DoubleConv(nn.Module):
    """Twice: a 3x3 convolution, a group norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(4, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = T.relu(self.norm1(wide(self.conv1(x))))
        return T.relu(self.norm2(wide(self.conv2(x))))


class UNet(nn.Module):
    """See ``models.unet``."""

    def __init__(self, width: int, depth: int, classes: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = _sequence(DoubleConv(*s) for s in zip([1, *widths], widths, strict=False))
        self.enlarge = _sequence(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[:-1])
        self.up = _sequence(DoubleConv(2 * w, w) for w in widths[:-1])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else T.max_pool2d(x, 2))
            seen.append(x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](torch.cat([seen[level], self.enlarge[level](x)], 1))
        y: Tensor = self.head(x)
        return y

    def loss(self, images: Tensor, masks: Tensor) -> Tensor:
        y = self(images)
        p = T.softmax(wide(y), 1)
        t = T.one_hot(masks, y.shape[1]).movedim(-1, 1).to(p.dtype)
        axes = (0, 2, 3)
        dice = (2 * (p * t).sum(axes) + 1) / (p.sum(axes) + t.sum(axes) + 1)
        return T.cross_entropy(wide(y), masks) + 1 - dice.mean()


def network(task: Task) -> Any:
    """The network of a task of ours, on the CPU, with its weights and its buffers as they are now.

    Raises ValueError if the two do not have the same parameters.
    """
    state = {name: torch.tensor(value.numpy()) for name, value in task.model.state_dict().items()}
    model: nn.Module
    match task.name:
        case "autoencoder":
            weights = [v for n, v in state.items() if n.startswith("encoder") and v.ndim == 2]
            model = Autoencoder([weights[0].shape[1], *(w.shape[0] for w in weights)])
        case "mlp":
            model = MLP(mlp.SETTINGS[task.size]["sizes"])
        case "cnn":
            model = ConvNet(cnn.SETTINGS[task.size]["widths"])
        case "gpt":
            settings = gpt.SETTINGS[task.size]
            shape = {name: settings[name] for name in ("length", "width", "depth", "heads")}
            model = GPT(len(state["tokens.weight"]), **shape)
        case "yolo":
            model = Detector(yolo.SETTINGS[task.size]["width"])
        case "unet":
            settings = unet.SETTINGS[task.size]
            model = UNet(settings["width"], settings["depth"])
        case _:
            raise ValueError(f"task={task.name!r} has no network in PyTorch here")
    missing, unknown = model.load_state_dict(state, strict=False)
    if unknown or any("num_batches_tracked" not in name for name in missing):
        raise ValueError(f"{task.name} differs: missing {missing}, unknown {unknown}")
    return model


def optimizer(task: Task, model: Any) -> torch.optim.Optimizer:
    """The same optimiser, Adam or AdamW, with the same settings."""
    ours: Any = task.optimizer
    kind: Any = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[type(ours).__name__]
    settings = {k: getattr(ours, k) for k in ("lr", "betas", "eps", "weight_decay")}
    made: torch.optim.Optimizer = kind(model.parameters(), **settings)
    return made
