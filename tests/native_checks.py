"""What native storage must get right on any device: the traps of half-precision array libraries."""

import numpy as np

import fp16sim as fs

F = fs.functional


def half(values, device, **how):
    return fs.Tensor(np.float32(values), fmt="fp16", device=device, **how)


def dot_products_add_in_fp32(device):
    """CuPy takes a way of its own for vectors, and rounds products to fp16 before it adds them."""
    assert (half([300, 300], device) @ half([300, -300], device)).item() == 0
    assert (
        half(np.ones((16, 4096)), device) @ half(np.ones((4096, 16)), device)
    ).numpy().max() == 4096


def batches_of_matrices_add_in_fp32(device):
    """CuPy 14 widens batches of fp16 matrices, and refuses those of bf16."""
    for fmt in ("fp16", "bf16"):
        x, y = (fs.Tensor(np.ones(s), fmt=fmt, device=device) for s in ((2, 3, 8, 512), (512, 8)))
        product = x @ y
        assert product.data.dtype.itemsize == 2
        assert (product.numpy() == 512).all()


def sums_add_in_fp32(device):
    """CUB adds contiguous halves in half precision."""
    x = half([60000, 60000, -60000], device, requires_grad=True)
    assert x.sum().item() == 60000
    assert half(np.ones(5000), device).sum().item() == 5000
    assert half(np.full(70000, 1.0), device).mean().item() == 1
    bias = half(np.zeros(4), device, requires_grad=True)
    (half(np.ones((5000, 4)), device) + bias).sum().backward()
    assert (bias.grad.numpy() == 5000).all()  # 2048 if it were added in fp16
    weight = half(np.ones((4, 2)), device)
    bias.grad = None
    F.linear(half(np.ones((5000, 2)), device), weight, bias).sum().backward()
    assert (bias.grad.numpy() == 5000).all()


def variances_do_not_overflow(device):
    """x² of 300 is more than fp16 has; statistics are fp32."""
    x = half(np.random.default_rng(0).standard_normal((4, 64)) * 3000, device)
    y = F.layer_norm(x, (64,)).numpy()
    assert np.isfinite(y).all()
    assert abs(y.std() - 1) < 0.01


def subnormal_numbers_survive(device):
    """CuPy compiles with -ftz: what is subnormal in fp32 would be flushed, as bf16 is."""
    small = np.float32([2.0**-24, 3 * 2.0**-24, -(2.0**-15)])
    assert (half(small, device).numpy() == small).all()
    assert ((half(small, device) * 1.0).numpy() == small).all()
    tiny = np.float32([2.0**-133, 2.0**-127])
    assert (fs.Tensor(tiny, fmt="bf16", device=device).numpy() == tiny).all()


def overflow_is_infinite(device):
    x = half([60000, -60000, 65504], device)
    assert (x * 2).numpy().tolist() == [np.inf, -np.inf, np.inf]
    assert (x + 16).numpy().tolist() == [60032, -59968, np.inf]  # ties, all three


CHECKS = {
    check.__name__: check
    for check in (
        dot_products_add_in_fp32,
        batches_of_matrices_add_in_fp32,
        sums_add_in_fp32,
        variances_do_not_overflow,
        subnormal_numbers_survive,
        overflow_is_infinite,
    )
}
