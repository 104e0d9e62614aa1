"""Every layer against torch.nn's with the same weights, in float64, values and all gradients."""

import numpy as np
import pytest
import torch
from torch.nn import functional as T

import fp16sim as fs

#: of the largest: float64 has 53 bits, and sums here have at most some hundred terms
RTOL = 1e-12


def close(actual, expected, what, rtol=RTOL):
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    assert actual.shape == expected.shape, what
    largest = np.abs(expected).max(initial=1e-300)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * largest, err_msg=what)


def in_float64(layer):
    """Parameters in fp64, buffers too, and biases and norms' weights away from 0 and 1."""
    rng = np.random.default_rng(7)
    for _, x in layer.named_tensors():
        x.data, x.fmt = x.data + 0.3 * np.abs(rng.standard_normal(x.shape)), fs.FP64
    return layer


def load(reference, layer, rename=lambda name: name):
    state = {rename(name): torch.tensor(x.numpy()) for name, x in layer.named_tensors()}
    counters = {n: x for n, x in reference.state_dict().items() if n.endswith("batches_tracked")}
    reference.double().load_state_dict(state | counters)
    return reference


def compare(layer, reference, data, rename=lambda name: name, more=((), {})):
    """Output, gradients of the input and of every parameter, and buffers."""
    x = fs.Tensor(data, requires_grad=True)
    t = torch.tensor(data, requires_grad=True)
    y, z = layer(x, *more[0]), reference(t, **more[1])
    close(y.data, z, "output")
    seed = np.random.default_rng(5).standard_normal(y.shape)
    layer.zero_grad()
    reference.zero_grad()
    y.backward(seed)
    z.backward(torch.tensor(seed))
    close(x.grad.data, t.grad, "gradient of the input")
    theirs, kept = dict(reference.named_parameters()), dict(reference.named_buffers())
    for name, p in layer.named_parameters():
        close(p.grad.data, theirs[rename(name)].grad, name)
    for name, buffer in layer.named_buffers():
        close(buffer.data, kept[rename(name)], name)


N = torch.nn
#: ours, PyTorch's, the shape of an input
LAYERS = {
    "linear": (lambda: fs.nn.Linear(3, 5, rng=0), lambda: N.Linear(3, 5), (4, 2, 3)),
    "linear bare": (
        lambda: fs.nn.Linear(3, 5, False, rng=0),
        lambda: N.Linear(3, 5, bias=False),
        (4, 3),
    ),
    "conv": (
        lambda: fs.nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), 2, rng=0),
        lambda: N.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), 2),
        (2, 4, 7, 9),
    ),
    "conv bare": (
        lambda: fs.nn.Conv2d(2, 3, 3, bias=False, rng=0),
        lambda: N.Conv2d(2, 3, 3, bias=False),
        (2, 2, 5, 6),
    ),
    "transposed": (
        lambda: fs.nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), 2, rng=0),
        lambda: N.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), 2),
        (2, 4, 5, 3),
    ),
    "transposed bare": (
        lambda: fs.nn.ConvTranspose2d(2, 3, 2, 2, bias=False, rng=0),
        lambda: N.ConvTranspose2d(2, 3, 2, 2, bias=False),
        (2, 2, 3, 4),
    ),
    "layer norm": (
        lambda: fs.nn.LayerNorm((3, 4), 1e-3),
        lambda: N.LayerNorm((3, 4), 1e-3),
        (5, 2, 3, 4),
    ),
    "rms norm": (lambda: fs.nn.RMSNorm(4, 1e-3), lambda: N.RMSNorm(4, 1e-3), (5, 3, 4)),
    "group norm": (
        lambda: fs.nn.GroupNorm(3, 6, 1e-3),
        lambda: N.GroupNorm(3, 6, 1e-3),
        (2, 6, 3, 4),
    ),
    "batch norm": (
        lambda: fs.nn.BatchNorm2d(3, 1e-3, 0.2),
        lambda: N.BatchNorm2d(3, 1e-3, 0.2),
        (4, 3, 2, 5),
    ),
    "no dropout": (lambda: fs.nn.Dropout(0.0, rng=0), lambda: N.Dropout(0.0), (4, 3)),
    "relu": (fs.nn.ReLU, N.ReLU, (4, 3)),
    "sigmoid": (fs.nn.Sigmoid, N.Sigmoid, (4, 3)),
    "tanh": (fs.nn.Tanh, N.Tanh, (4, 3)),
    "silu": (fs.nn.SiLU, N.SiLU, (4, 3)),
    "gelu": (fs.nn.GELU, N.GELU, (4, 3)),
    "gelu tanh": (lambda: fs.nn.GELU("tanh"), lambda: N.GELU("tanh"), (4, 3)),
    "max pool": (
        lambda: fs.nn.MaxPool2d((3, 2), (2, 1), (1, 0)),
        lambda: N.MaxPool2d((3, 2), (2, 1), (1, 0)),
        (2, 3, 7, 6),
    ),
    "max pool by its size": (lambda: fs.nn.MaxPool2d(2), lambda: N.MaxPool2d(2), (2, 3, 7, 6)),
    "flatten": (fs.nn.Flatten, N.Flatten, (2, 3, 4)),
    "sequential": (
        lambda: fs.nn.Sequential(
            fs.nn.Conv2d(2, 4, 3, bias=False, rng=0),
            fs.nn.BatchNorm2d(4),
            fs.nn.SiLU(),
            fs.nn.Flatten(),
            fs.nn.Linear(48, 2, rng=1),
        ),
        lambda: N.Sequential(
            N.Conv2d(2, 4, 3, bias=False),
            N.BatchNorm2d(4),
            N.SiLU(),
            N.Flatten(),
            N.Linear(48, 2),
        ),
        (3, 2, 5, 6),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, rng):
    ours, torchs, shape = LAYERS[name]
    layer = in_float64(ours())
    reference = load(torchs(), layer)
    for step in range(4):  # running statistics move with every one
        compare(layer, reference, (1 + step) * rng.standard_normal(shape) + step)
    layer.eval()
    reference.eval()
    for _ in range(2):
        compare(layer, reference, rng.standard_normal(shape))


def test_the_defaults_are_torchs():
    """Settings that one does not give."""
    for ours, torchs in (
        (fs.nn.LayerNorm(3), N.LayerNorm(3)),
        (fs.nn.GroupNorm(1, 3), N.GroupNorm(1, 3)),
        (fs.nn.BatchNorm2d(3), N.BatchNorm2d(3)),
    ):
        assert ours.eps == torchs.eps
    assert fs.nn.BatchNorm2d(3).momentum == N.BatchNorm2d(3).momentum
    assert fs.nn.Dropout().p == N.Dropout().p


def test_embedding(rng):
    layer = in_float64(fs.nn.Embedding(7, 3, rng=0))
    reference = load(N.Embedding(7, 3), layer)
    ids = rng.integers(0, 7, (4, 6))
    y, z = layer(ids), reference(torch.tensor(ids))
    close(y.data, z, "output")
    seed = rng.standard_normal(y.shape)
    y.backward(seed)
    z.backward(torch.tensor(seed))
    close(layer.weight.grad.data, reference.weight.grad, "weight")


class Attention(torch.nn.MultiheadAttention):
    """PyTorch's, with one argument for queries, keys and values."""

    def forward(self, x, attn_mask=None):
        return super().forward(x, x, x, need_weights=False, attn_mask=attn_mask)[0]


#: our names to those of PyTorch's MultiheadAttention
RENAMED = {
    "qkv.weight": "in_proj_weight",
    "qkv.bias": "in_proj_bias",
    "out.weight": "out_proj.weight",
    "out.bias": "out_proj.bias",
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "case", ["open", "causal", "mask", "mask of the batch", "mask of every head"]
)
def test_attention(case, bias, rng):
    count, length, width, heads = 2, 5, 6, 3
    layer = in_float64(fs.nn.MultiheadAttention(width, heads, bias, rng=0))
    reference = load(
        Attention(width, heads, bias=bias, batch_first=True), layer, lambda name: RENAMED[name]
    )
    seen = np.tri(length, dtype=bool)
    shapes = {
        "mask": (length, length),
        "mask of the batch": (count, 1, length, length),
        "mask of every head": (count, heads, length, length),
    }
    mine = ()
    if case == "causal":
        mine = (None, True)
    elif case != "open":
        seen = rng.random(shapes[case]) < 0.6
        seen |= np.eye(length, dtype=bool)  # everybody sees something
        mine = (seen,)
    # PyTorch's mask is (N heads, length, length), True for what is hidden.
    every = np.broadcast_to(seen, (count, heads, length, length)).reshape(-1, length, length)
    theirs = {} if case == "open" else {"attn_mask": torch.tensor(~every)}
    data = rng.standard_normal((count, length, width))
    compare(layer, reference, data, lambda name: RENAMED[name], (mine, theirs))


class Block(torch.nn.Module):
    """The TransformerBlock as one would write it in PyTorch."""

    def __init__(self, width, heads, is_causal):
        super().__init__()
        self.heads, self.is_causal = heads, is_causal
        self.norm1, self.norm2 = N.LayerNorm(width), N.LayerNorm(width)
        self.attention = N.ModuleDict(
            {"qkv": N.Linear(width, 3 * width), "out": N.Linear(width, width)}
        )
        self.mlp = N.Sequential(
            N.Linear(width, 4 * width), N.GELU("tanh"), N.Linear(4 * width, width)
        )

    def forward(self, x):
        n, length, width = x.shape
        q, k, v = self.attention["qkv"](self.norm1(x)).chunk(3, dim=-1)
        split = (n, length, self.heads, width // self.heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in (q, k, v))
        y = T.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        x = x + self.attention["out"](y.transpose(1, 2).reshape(n, length, width))
        return x + self.mlp(self.norm2(x))


@pytest.mark.parametrize("is_causal", [True, False])
def test_transformer_block(is_causal, rng):
    layer = in_float64(fs.nn.TransformerBlock(6, 3, is_causal=is_causal, rng=0))
    compare(layer, load(Block(6, 3, is_causal), layer), rng.standard_normal((2, 5, 6)))
