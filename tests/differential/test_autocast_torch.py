"""Classes of autocast against the lists in the header of the installed PyTorch; casts of weights,
and formats that are given, against PyTorch itself."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import fp16sim as fs
from fp16sim.autograd.primitive import PRIMITIVES
from fp16sim.precision import AUTOCAST_CLASSES

HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
LISTS = {
    "low": "LOWER_PRECISION_FP",
    "wide": "FP32",
    "wide unless given": "FP32_SET_OPT_DTYPE",
    "widest": "PROMOTE",
}

# What each primitive is in PyTorch. Names that the header does not list: in their inputs' format.
PEERS = {
    "absolute": ["abs"],
    "adaptive_avg_pool2d": ["adaptive_avg_pool2d"],
    "add": ["add"],
    "avg_pool2d": ["avg_pool2d"],
    "batch_norm": ["batch_norm"],
    "binary_cross_entropy_with_logits": ["binary_cross_entropy_with_logits"],
    "clamp": ["clamp"],
    "concatenate": ["cat", "stack"],
    "conv2d": ["conv2d", "_convolution", "convolution"],
    "conv_transpose2d": ["conv_transpose2d", "_convolution", "convolution"],
    "cos": ["cos"],
    "cross_entropy": ["log_softmax", "nll_loss", "nll_loss2d"],  # what it is made of there
    "divide": ["div"],
    "dropout": ["dropout"],
    "embedding": ["embedding"],
    "exp": ["exp"],
    "expand": ["expand"],
    "gelu": ["gelu"],
    "group_norm": ["group_norm"],
    "huber_loss": ["huber_loss"],
    "index": ["index"],
    "l1_loss": ["l1_loss"],
    "layer_norm": ["layer_norm", "native_layer_norm"],
    "linear": ["linear", "addmm"],
    "log": ["log"],
    "log_softmax": ["log_softmax"],
    "logsumexp": ["logsumexp"],
    "matmul": ["matmul", "mm", "mv", "bmm"],
    "max": ["amax"],
    "max_pool2d": ["max_pool2d"],
    "maximum": ["maximum"],
    "mean": ["mean"],
    "min": ["amin"],
    "minimum": ["minimum"],
    "mse_loss": ["mse_loss"],
    "multiply": ["mul"],
    "negative": ["neg"],
    "nll_loss": ["nll_loss", "nll_loss2d"],
    "pad": ["pad"],
    "power": ["pow"],
    "relu": ["relu"],
    "reshape": ["reshape"],
    "round_to_grid": ["fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine"],
    "rms_norm": ["rms_norm"],
    "scaled_dot_product_attention": [
        "scaled_dot_product_attention",
        "_scaled_dot_product_flash_attention",
    ],
    "sigmoid": ["sigmoid"],
    "silu": ["silu"],
    "sin": ["sin"],
    "softmax": ["softmax"],
    "softplus": ["softplus"],
    "sqrt": ["sqrt"],
    "subtract": ["sub"],
    "sum": ["sum"],
    "tanh": ["tanh"],
    "transpose": ["permute"],
    "upsample_bilinear2d": ["upsample_bilinear2d"],
    "upsample_nearest2d": ["upsample_nearest2d"],
    "var": ["var"],
    "where": ["where"],
}
# PyTorch has no such operation; scaled_linear is a product, dice_loss a quotient of sums.
OURS_ALONE = {"dice_loss": "wide", "scale": None, "scaled_linear": "low", "unit_linear": "low"}

# Listed, and not here.
NOT_HERE = {
    "conv1d", "conv3d", "conv_tbc", "conv_transpose1d", "conv_transpose3d", "prelu", "addmv",
    "addr", "einsum", "linalg_vecdot", "addbmm", "baddbmm", "chain_matmul", "linalg_multi_dot",
    "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "lstm_cell", "gru_cell", "rnn_tanh_cell",
    "rnn_relu_cell", "acos", "asin", "cosh", "erfinv", "expm1", "log10", "log2", "log1p",
    "reciprocal", "rsqrt", "sinh", "tan", "frobenius_norm", "nuclear_norm", "cosine_similarity",
    "poisson_nll_loss", "cosine_embedding_loss", "hinge_embedding_loss", "kl_div",
    "smooth_l1_loss", "margin_ranking_loss", "multilabel_margin_loss", "soft_margin_loss",
    "triplet_margin_loss", "multi_margin_loss", "dist", "pdist", "cdist", "renorm",
    "upsample_nearest1d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "upsample_nearest3d", "_upsample_nearest_exact3d", "upsample_linear1d",
    "_upsample_bilinear2d_aa", "upsample_trilinear3d", "upsample_bicubic2d",
    "_upsample_bicubic2d_aa", "prod", "cumprod", "cumsum", "linalg_vector_norm",
    "linalg_matrix_norm", "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot",
    "grid_sampler", "index_put", "tensordot", "scatter_add",
}  # fmt: skip


def listed():
    """Operations by class, as the header's macros AT_FORALL_... have them."""
    text = HEADER.read_text().replace("\\\n", " ")
    found = {}
    for kind, macro in LISTS.items():
        (line,) = re.findall(rf"#define AT_FORALL_{macro}\(_\)(.*)", text)
        for name in re.findall(r"_\((\w+)", line):
            assert found.setdefault(name, kind) == kind
    return found


def test_the_header_is_read_whole():
    counts = {kind: list(listed().values()).count(kind) for kind in LISTS}
    # Different names: overloads count once.
    assert counts == {"low": 32, "wide": 56, "wide unless given": 8, "widest": 11}


@pytest.mark.parametrize("name", sorted(PRIMITIVES))
def test_classes_are_pytorchs(name):
    if name in OURS_ALONE:
        assert AUTOCAST_CLASSES.get(name) == OURS_ALONE[name]
        return
    theirs = {listed().get(peer) for peer in PEERS[name]}
    if name == "cross_entropy":
        assert theirs == {"wide", "wide unless given"}  # no format to be given here
        theirs = {"wide"}
    assert theirs == {AUTOCAST_CLASSES.get(name)}


def test_no_listed_operation_is_forgotten():
    mapped = {peer for peers in PEERS.values() for peer in peers}
    assert listed().keys() - mapped == NOT_HERE
    # What is not here is not here under PyTorch's name.
    for name in NOT_HERE:
        assert name not in PRIMITIVES, name
        assert not hasattr(fs.functional, name), name
        assert not hasattr(fs.Tensor, name), name


@pytest.mark.parametrize("cached", [True, False])
def test_gradients_of_a_weight_used_twice(cached):
    """In PyTorch, too, they add in fp16 if one cast serves both uses, else in fp32."""
    parts = np.float32([[1 + 2.0**-10], [2.0**-11]])
    ours, theirs = fs.Tensor(np.float32([[1.0]]), requires_grad=True), torch.ones(1, 1)
    theirs.requires_grad = True
    x = [fs.Tensor(part[None]) for part in parts]
    with fs.autocast("fp16", cache_enabled=cached):
        y = fs.functional.linear(x[0], ours) + fs.functional.linear(x[1], ours)
    y.backward([[1.0]])
    t = [torch.tensor(part[None]) for part in parts]
    with torch.autocast("cpu", torch.float16, cache_enabled=cached):
        z = torch.nn.functional.linear(t[0], theirs) + torch.nn.functional.linear(t[1], theirs)
    z.backward(torch.ones(1, 1, dtype=z.dtype))
    assert ours.grad.item() == theirs.grad.item()
    assert (ours.grad.item() == parts.sum()) == (not cached)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sum"])
def test_a_given_dtype(name):
    """The input is rounded to it first. PyTorch's fp16 kernels round once, as we do."""
    data = np.random.default_rng(3).standard_normal(50).astype(np.float32)
    x, t = fs.Tensor(data), torch.tensor(data)
    ours = x.sum(fmt="fp16") if name == "sum" else getattr(fs.functional, name)(x, fmt="fp16")
    theirs = (
        t.sum(dtype=torch.float16)
        if name == "sum"
        else getattr(torch, name)(t, -1, dtype=torch.float16)
    )
    assert theirs.dtype == torch.float16
    assert ours.fmt is fs.FP16
    exact = {
        "softmax": lambda v: np.exp(v) / np.exp(v).sum(),
        "log_softmax": lambda v: v - np.log(np.exp(v).sum()),
        "sum": lambda v: v.sum(),
    }[name](data.astype(np.float16).astype(np.float64))
    np.testing.assert_allclose(ours.data, exact, rtol=2.0**-11 * 1.001)
    np.testing.assert_allclose(theirs.numpy().astype(float), ours.data, rtol=2.0**-10)
