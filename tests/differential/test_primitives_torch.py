"""Every primitive and option of images, losses, norms and attention against PyTorch in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fp16sim as fs

F = fs.functional
T = torch.nn.functional


def compare(ours, torchs, data, rtol=1e-10):
    """Values and all gradients, weighted at random, to a relative error of their largest."""
    mine = [fs.Tensor(x, requires_grad=True) for x in data]
    theirs = [torch.tensor(x, requires_grad=True) for x in data]
    y, z = ours(*mine), torchs(*theirs)
    assert y.shape == tuple(z.shape)
    close(y.data, z.detach().numpy(), rtol)
    if not y.requires_grad:
        return
    weights = np.random.default_rng(5).standard_normal(y.shape)
    y.backward(weights)
    z.backward(torch.tensor(weights))
    for x, t in zip(mine, theirs, strict=True):
        gradient = np.zeros(x.shape) if t.grad is None else t.grad.numpy()
        close(np.zeros(x.shape) if x.grad is None else x.grad.numpy(), gradient, rtol)


def close(actual, expected, rtol):
    finite = np.abs(expected[np.isfinite(expected)])
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * finite.max(initial=1e-300))


def normal(rng, *shapes):
    return [rng.standard_normal(shape) for shape in shapes]


LABELS = np.array([[1, 0], [3, -100], [2, 2]])
MASK = np.array([[True, False, True, True], [True, True, False, True], [False, True, True, True]])

CASES = {
    "exp": (lambda x: x.exp(), torch.exp, (3, 4)),
    "log": (lambda x: x.log(), torch.log, (3, 4)),
    "sqrt": (lambda x: x.sqrt(), torch.sqrt, (3, 4)),
    "sin": (lambda x: x.sin(), torch.sin, (3, 4)),
    "cos": (lambda x: x.cos(), torch.cos, (3, 4)),
    "softplus": (lambda x: F.softplus(6 * x), lambda x: T.softplus(6 * x, threshold=40), (40,)),
    "silu": (lambda x: F.silu(9 * x), lambda x: T.silu(9 * x), (40,)),
    "gelu": (lambda x: F.gelu(2 * x), lambda x: T.gelu(2 * x), (40,)),
    "gelu_tanh": (
        lambda x: F.gelu(2 * x, approximate="tanh"),
        lambda x: T.gelu(2 * x, approximate="tanh"),
        (40,),
    ),
    "expand": (lambda x: x.expand(2, 3, -1), lambda x: x.expand(2, 3, -1), (3, 1)),
    "flatten": (lambda x: x.flatten(1), lambda x: x.flatten(1), (2, 3, 4)),
    "pad": (
        lambda x: F.pad(x, (1, 2, 0, 3), 2.0),
        lambda x: T.pad(x, (1, 2, 0, 3), value=2.0),
        (2, 3, 4),
    ),
    "embedding": (
        lambda w: F.embedding(np.array([[3, 0, 3], [1, 3, 0]]), w),
        lambda w: T.embedding(torch.tensor([[3, 0, 3], [1, 3, 0]]), w),
        (5, 3),
    ),
    "index_of_slices": (lambda x: x[1:, ..., ::2], lambda x: x[1:, ..., ::2], (3, 4, 5)),
    "index_of_repeats": (lambda x: x[[2, 0, 2, 2]], lambda x: x[[2, 0, 2, 2]], (3, 4)),
    "index_of_a_negative": (
        lambda x: x[np.array([-1, 2, 0])],
        lambda x: x[torch.tensor([-1, 2, 0])],
        (3, 4),
    ),
    "l1_loss": (F.l1_loss, T.l1_loss, (3, 4), (3, 4)),
    "l1_loss_of_equals": (
        lambda x, t: F.l1_loss(x * 0 + t, t, reduction="sum"),
        lambda x, t: T.l1_loss(x * 0 + t, t, reduction="sum"),
        (3,),
        (3,),
    ),
    "huber_loss": (
        lambda x, t: F.huber_loss(x, t, delta=0.4),
        lambda x, t: T.huber_loss(x, t, delta=0.4),
        (5, 4),
        (5, 4),
    ),
    "huber_loss_none": (
        lambda x, t: F.huber_loss(x, t, "none"),
        lambda x, t: T.smooth_l1_loss(x, t, reduction="none"),
        (5, 4),
        (5, 4),
    ),
    "bce": (
        lambda x, t: F.binary_cross_entropy_with_logits(100 * x, t, "sum"),
        lambda x, t: T.binary_cross_entropy_with_logits(100 * x, t, reduction="sum"),
        (5, 4),
        (5, 4),
    ),
    "bce_weighted": (
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, pos_weight=3.0),
        lambda x, t: T.binary_cross_entropy_with_logits(
            x, t, pos_weight=torch.tensor(3.0, dtype=torch.float64)
        ),
        (5, 4),
        (5, 4),
    ),
    "layer_norm_bare": (
        lambda x: F.layer_norm(x, (3, 4)),
        lambda x: T.layer_norm(x, (3, 4)),
        (2, 3, 4),
    ),
    "group_norm": (
        lambda x, w, b: F.group_norm(x, 3, w, b, 1e-3),
        lambda x, w, b: T.group_norm(x, 3, w, b, 1e-3),
        (2, 6, 3, 2),
        (6,),
        (6,),
    ),
    "group_norm_of_sequences": (
        lambda x: F.group_norm(x, 2),
        lambda x: T.group_norm(x, 2),
        (3, 4, 5),
    ),
    "max_pool_of_equals": (
        lambda x: F.max_pool2d(x * 0 + 1, 2) * F.max_pool2d(x, 2),
        lambda x: T.max_pool2d(x * 0 + 1, 2) * T.max_pool2d(x, 2),
        (2, 2, 4, 4),
    ),
    "adaptive_avg_pool": (
        lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
        lambda x: T.adaptive_avg_pool2d(x, (3, 5)),
        (2, 3, 7, 5),
    ),
    "adaptive_avg_pool_to_more": (
        lambda x: F.adaptive_avg_pool2d(x, 4),
        lambda x: T.adaptive_avg_pool2d(x, 4),
        (2, 3, 3, 5),
    ),
    "attention": (
        F.scaled_dot_product_attention,
        T.scaled_dot_product_attention,
        (2, 3, 4, 5),
        (2, 3, 6, 5),
        (2, 3, 6, 2),
    ),
    "attention_causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
        lambda q, k, v: T.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
        (2, 4, 5),
        (2, 4, 5),
        (2, 4, 3),
    ),
    "attention_masked": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, MASK),
        lambda q, k, v: T.scaled_dot_product_attention(q, k, v, torch.tensor(MASK)),
        (2, 2, 3, 5),
        (2, 2, 4, 5),
        (2, 2, 4, 3),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, rng):
    ours, torchs, *shapes = CASES[name]
    data = normal(rng, *shapes)
    if name in ("log", "sqrt"):
        data = [np.abs(x) for x in data]
    compare(ours, torchs, data)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_class_losses(reduction, rng):
    target = torch.tensor(LABELS)
    for smoothing in (0.0, 0.3, 1.0):
        compare(
            lambda x, s=smoothing: F.cross_entropy(
                x, LABELS, reduction=reduction, label_smoothing=s
            ),
            lambda x, s=smoothing: T.cross_entropy(
                x, target, reduction=reduction, label_smoothing=s
            ),
            normal(rng, (3, 4, 2)),
        )
    kept = np.where(LABELS == -100, 0, LABELS)
    compare(
        lambda x: F.nll_loss(x, kept, ignore_index=2, reduction=reduction),
        lambda x: T.nll_loss(x, torch.tensor(kept), ignore_index=2, reduction=reduction),
        normal(rng, (3, 4, 2)),
    )


def test_nothing_to_count_is_nan_as_in_torch(rng):
    ignored, logits = np.full(3, -100), rng.standard_normal((3, 4))
    mine = F.cross_entropy(fs.Tensor(logits), ignored).item()
    theirs = T.cross_entropy(torch.tensor(logits), torch.tensor(ignored)).item()
    assert np.isnan(mine)
    assert np.isnan(theirs)


def test_dice_loss_is_what_it_says(rng):
    p, t = np.abs(rng.standard_normal((2, 3, 4, 5))), np.abs(rng.standard_normal((2, 3, 4, 5)))

    def composed(p, t):
        axes = (0, 2, 3)
        return 1 - ((2 * (p * t).sum(axes) + 0.5) / (p.sum(axes) + t.sum(axes) + 0.5)).mean()

    compare(lambda p, t: F.dice_loss(p, t, eps=0.5), composed, [p, t])


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_batch_norm(shape, affine, rng):
    running = [rng.standard_normal(3), rng.random(3) + 0.5]
    mine = [fs.Tensor(x) for x in running]
    theirs = [torch.tensor(x) for x in running]
    data = normal(rng, shape, *[(3,)] * 2 * affine)
    for training in (True, False):
        compare(
            lambda x, *p, on=training: F.batch_norm(
                x, *mine, *p, training=on, momentum=0.2, eps=1e-3
            ),
            lambda x, *p, on=training: T.batch_norm(
                x, *theirs, *p, training=on, momentum=0.2, eps=1e-3
            ),
            data,
        )
        for kept, other in zip(mine, theirs, strict=True):
            close(kept.data, other.numpy(), 1e-12)


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw):
    groups = draw(st.integers(1, 3))
    settings = {
        "stride": draw(pairs(1, 3)),
        "padding": draw(pairs(0, 3)),
        "dilation": draw(pairs(1, 3)),
        "groups": groups,
    }
    kernel = draw(pairs(1, 4))
    shape = (draw(st.integers(0, 3)), groups * draw(st.integers(1, 3)), *draw(pairs(1, 9)))
    return settings, kernel, shape, groups * draw(st.integers(1, 3)), draw(st.booleans())


@settings(max_examples=300, deadline=None)
@given(convolutions())
def test_convolutions(case):
    options, kernel, shape, out, bias = case
    rng = np.random.default_rng(0)
    weight = (out, shape[1] // options["groups"], *kernel)
    span = [d * (k - 1) + 1 for d, k in zip(options["dilation"], kernel, strict=True)]
    room = [n + 2 * p - s for n, p, s in zip(shape[2:], options["padding"], span, strict=True)]
    data = normal(rng, shape, weight, *[(out,)] * bias)
    if min(room) < 0:
        with pytest.raises(ValueError, match="does not fit"):
            F.conv2d(*(fs.Tensor(x) for x in data), **options)
        return
    compare(lambda *x: F.conv2d(*x, **options), lambda *x: T.conv2d(*x, **options), data)


@settings(max_examples=200, deadline=None)
@given(convolutions(), pairs(0, 2))
def test_transposed_convolutions(case, extra):
    options, kernel, shape, out, bias = case
    rng = np.random.default_rng(0)
    data = normal(rng, shape, (shape[1], out // options["groups"], *kernel), *[(out,)] * bias)
    options = options | {"output_padding": extra}
    limits = [max(both) for both in zip(options["stride"], options["dilation"], strict=True)]
    spans = zip(
        shape[2:],
        kernel,
        *(options[name] for name in ("stride", "padding", "dilation")),
        extra,
        strict=True,
    )
    sizes = [(n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, k, s, p, d, e in spans]
    if min(sizes) < 1 or any(e >= m for e, m in zip(extra, limits, strict=True)):
        with pytest.raises(ValueError, match="output_padding"):
            F.conv_transpose2d(*(fs.Tensor(x) for x in data), **options)
        return
    compare(
        lambda *x: F.conv_transpose2d(*x, **options),
        lambda *x: T.conv_transpose2d(*x, **options),
        data,
    )


@settings(max_examples=200, deadline=None)
@given(pairs(1, 4), st.one_of(st.none(), pairs(1, 4)), pairs(0, 2), pairs(1, 9), st.booleans())
def test_pooling(kernel, stride, padding, size, counted):
    rng = np.random.default_rng(0)
    data = [np.round(rng.standard_normal((2, 3, *size)), 1)]  # with ties
    room = [n + 2 * p - k for n, p, k in zip(size, padding, kernel, strict=True)]
    too_wide = any(2 * p > k for p, k in zip(padding, kernel, strict=True))
    if too_wide or min(room) < 0:
        with pytest.raises(ValueError, match="padding"):
            F.max_pool2d(fs.Tensor(data[0]), kernel, stride, padding)
        return
    compare(
        lambda x: F.max_pool2d(x, kernel, stride, padding),
        lambda x: T.max_pool2d(x, kernel, stride, padding),
        data,
    )
    compare(
        lambda x: F.avg_pool2d(x, kernel, stride, padding, count_include_pad=counted),
        lambda x: T.avg_pool2d(x, kernel, stride, padding, count_include_pad=counted),
        data,
    )


@settings(max_examples=150, deadline=None)
@given(pairs(1, 7), pairs(1, 12), st.booleans())
def test_resampling(size, wanted, corners):
    data = normal(np.random.default_rng(0), (2, 3, *size))
    compare(
        lambda x: F.interpolate(x, wanted, mode="bilinear", align_corners=corners),
        lambda x: T.interpolate(x, wanted, mode="bilinear", align_corners=corners),
        data,
    )
    compare(lambda x: F.interpolate(x, wanted), lambda x: T.interpolate(x, wanted), data)


@given(st.sampled_from([0.5, 0.7, 1.5, 2.0, 2.7, 3.0]), pairs(2, 7))
@settings(max_examples=40, deadline=None)
def test_resampling_by_a_factor(factor, size):
    data = normal(np.random.default_rng(0), (1, 2, *size))
    for mode in ("nearest", "bilinear"):
        ours = F.interpolate(fs.Tensor(data[0]), scale_factor=factor, mode=mode)
        theirs = T.interpolate(torch.tensor(data[0]), scale_factor=factor, mode=mode)
        close(ours.data, theirs.numpy(), 1e-10)


def test_the_corners_of_new_activations():
    data = np.array([0.0, -0.0, 1e-300, -60.0, 60.0, np.nan])
    for ours, torchs in ((F.silu, T.silu), (F.gelu, T.gelu), (F.softplus, T.softplus)):
        compare(ours, torchs, [data], rtol=1e-9)
    for ours in (F.silu, F.gelu, lambda x: F.gelu(x, "tanh"), F.softplus):
        x = fs.Tensor([np.inf, -np.inf, 1e200, -1e200], requires_grad=True)
        y = ours(x)
        y.sum().backward()
        assert np.array_equal(y.data, [np.inf, 0, 1e200, 0])
        assert np.array_equal(x.grad.data, [1, 0, 1, 0])


@pytest.mark.parametrize(
    ("ours", "exact", "ulps"),
    [
        (F.silu, torch.nn.SiLU(), 4),
        (F.softplus, torch.nn.Softplus(threshold=100), 4),
        (F.gelu, lambda x: x * torch.erfc(x * -(0.5**0.5)) / 2, 80),
        (
            lambda x: F.gelu(x, "tanh"),
            lambda x: x * torch.sigmoid(2 * (2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)),
            200,
        ),
        (F.sigmoid, torch.nn.Sigmoid(), 4),
        (F.tanh, torch.nn.Tanh(), 4),
        (lambda x: x.exp(), torch.exp, 4),
    ],
)
def test_fp32_functions_are_good_to_some_ulps(ours, exact, ulps, rng):
    """Measured against float64, where the value is more than 1e-30."""
    data = (4 * rng.standard_normal(200_000)).astype(np.float32)
    right = exact(torch.tensor(data).double()).numpy()
    x = fs.Tensor(data, requires_grad=True)
    got = ours(x).data
    kept = np.abs(right) > 1e-30
    error = np.abs(got - right)[kept] / np.spacing(np.abs(right[kept]).astype(np.float32))
    assert error.max() <= ulps
