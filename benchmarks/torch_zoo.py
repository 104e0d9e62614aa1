"""The networks of the zoo as a user of PyTorch would write them, with the same parameter names."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as T

from fp16sim.models import cnn, gpt, mlp, unet, yolo


class Dense(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x):
        return torch.sigmoid(self.linear(x))


class Autoencoder(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        pairs = list(pairwise(sizes))
        self.encoder = nn.Sequential(*(Dense(i, o) for i, o in pairs))
        self.decoder = nn.Sequential(*(Dense(o, i) for i, o in reversed(pairs)))

    def loss(self, images):
        return T.mse_loss(self.decoder(self.encoder(images)), images)


class MLP(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        pairs = pairwise(sizes)
        self.layers = nn.Sequential(*(nn.Linear(i, o) for i, o in pairs))

    def loss(self, images, labels):
        x = self.layers[0](images)
        for layer in self.layers[1:]:
            x = layer(T.relu(x))
        return T.cross_entropy(x, labels)


class ConvNet(nn.Module):
    def __init__(self, widths):
        super().__init__()
        first, second = widths
        self.conv1 = nn.Conv2d(1, first, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(second)
        self.head = nn.Linear(second * 16, 10)

    def loss(self, images, labels):
        x = T.relu(self.norm1(self.conv1(images)))
        x = T.relu(self.norm2(self.conv2(x)))
        return T.cross_entropy(self.head(T.max_pool2d(x, 2).flatten(1)), labels)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        n, length, width = x.shape
        parts = self.qkv(x).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = T.scaled_dot_product_attention(*parts, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, entries, length, width, depth, heads):
        super().__init__()
        self.tokens = nn.Embedding(entries, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, entries, bias=False)

    def loss(self, inputs, targets):
        x = self.tokens(inputs) + self.positions(torch.arange(inputs.shape[1]))
        logits = self.head(self.norm(self.blocks(x)))
        return T.cross_entropy(logits.flatten(0, 1), targets.flatten())


class ConvNormReLU(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return T.relu(self.norm(self.conv(x)))


class Detector(nn.Module):
    def __init__(self, width, classes=3):
        super().__init__()
        sizes = [(3, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)]
        sizes += [(4 * width, 4 * width, 1), (4 * width, 8 * width, 2), (8 * width, 8 * width, 1)]
        self.backbone = nn.Sequential(*(ConvNormReLU(*size) for size in sizes))
        self.head = nn.Conv2d(8 * width, 5 + classes, 1)

    def loss(self, images, targets):
        said = self.head(self.backbone(images))
        there = targets[:, :1]
        presence = T.binary_cross_entropy_with_logits(said[:, :1], there)
        box = torch.cat([torch.sigmoid(said[:, 1:3]), said[:, 3:5]], 1) * there
        boxes = T.mse_loss(box, targets[:, 1:5] * there, reduction="sum") / there.numel()
        labels = torch.where(there[:, 0] > 0, targets[:, 5].long(), -1)
        classes = T.cross_entropy(said[:, 5:], labels, ignore_index=-1, reduction="sum")
        return presence + 2.0 * boxes + classes / there.numel()


class DoubleConv(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(4, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(4, outputs)

    def forward(self, x):
        return T.relu(self.norm2(self.conv2(T.relu(self.norm1(self.conv1(x))))))


class UNet(nn.Module):
    def __init__(self, width, depth, classes=4):
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        pairs = zip([1, *widths[:-1]], widths, strict=True)
        self.down = nn.Sequential(*(DoubleConv(i, o) for i, o in pairs))
        self.enlarge = nn.Sequential(
            *(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in widths[:-1])
        )
        self.up = nn.Sequential(*(DoubleConv(2 * w, w) for w in widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    def loss(self, images, masks):
        seen, x = [], images
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else T.max_pool2d(x, 2))
            seen.append(x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](torch.cat([seen[level], self.enlarge[level](x)], 1))
        scores = self.head(x)
        p, wanted = T.softmax(scores, 1), T.one_hot(masks, scores.shape[1]).movedim(-1, 1).float()
        axes = (0, 2, 3)
        share = (2 * (p * wanted).sum(axes) + 1) / (p.sum(axes) + wanted.sum(axes) + 1)
        return T.cross_entropy(scores, masks) + 1 - share.mean()


def network(task):
    """The network of a task of ours, with its weights and its buffers as they are now."""
    state = {name: torch.tensor(value.numpy()) for name, value in task.model.state_dict().items()}
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
    missing, unknown = model.load_state_dict(state, strict=False)
    if unknown or any("num_batches_tracked" not in name for name in missing):
        raise ValueError(f"{task.name} differs: missing {missing}, unknown {unknown}")
    return model


def optimizer(task, model):
    """The same optimiser with the same settings."""
    ours = task.optimizer
    kind = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[type(ours).__name__]
    return kind(model.parameters(), ours.lr, ours.betas, ours.eps, ours.weight_decay)
