"""Optimisers: formulas, master weights, errors."""

import numpy as np
import pytest

import fp16sim as fs


def parameter(values, fmt="fp32"):
    return fs.Tensor(np.float32(values), requires_grad=True, fmt=fmt)


def set_grad(p, values):
    p.grad = fs.Tensor(np.asarray(values, np.float64), fmt=p.fmt)


def test_sgd_with_momentum_by_hand():
    p = parameter([1.0])
    optimizer = fs.optim.SGD([p], lr=0.5, momentum=0.5)
    for gradient, expected in ((1.0, 0.5), (1.0, -0.25), (0.0, -0.625)):
        set_grad(p, [gradient])
        optimizer.step()
        assert p.item() == expected


def test_adam_first_step_is_lr_times_the_sign():
    p = parameter([1.0, 1.0, 1.0])
    set_grad(p, [1e-3, -5.0, 0.0])
    fs.optim.Adam([p], lr=0.125).step()
    np.testing.assert_allclose(p.data, [0.875, 1.125, 1.0], rtol=1e-5)


def test_adam_against_its_paper_in_float64(rng):
    """Algorithm 1 of Kingma and Ba, written out; fp64 parameters."""
    p = fs.Tensor(rng.standard_normal(7), requires_grad=True)
    optimizer = fs.optim.Adam([p], lr=0.01, betas=(0.8, 0.95), eps=1e-3)
    theta, m, v = p.numpy(), 0.0, 0.0
    for t in range(1, 30):
        g = rng.standard_normal(7)
        set_grad(p, g)
        optimizer.step()
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        m_hat, v_hat = m / (1 - 0.8**t), v / (1 - 0.95**t)
        theta = theta - 0.01 * m_hat / (np.sqrt(v_hat) + 1e-3)
        np.testing.assert_allclose(p.data, theta, rtol=1e-12)


def test_parameters_without_gradient_stay():
    p, q = parameter([1.0]), parameter([1.0])
    set_grad(p, [1.0])
    fs.optim.SGD([p, q], lr=0.5).step()
    assert (p.item(), q.item()) == (0.5, 1.0)


def test_fp16_weights_swallow_small_updates_and_masters_do_not():
    plain, kept = parameter([1.0], "fp16"), parameter([1.0], "fp16")
    without = fs.optim.SGD([plain], lr=1.0)
    with_masters = fs.optim.SGD([kept], lr=1.0, master_weights=True)
    for _ in range(64):
        for p, optimizer in ((plain, without), (kept, with_masters)):
            set_grad(p, [2.0**-13])  # a quarter of the spacing below 1
            optimizer.step()
    assert plain.item() == 1.0
    assert kept.item() == 1 - 64 * 2.0**-13
    assert kept.fmt is fs.FP16


def test_masters_of_fp16_weights_train_exactly_as_fp32_weights_under_autocast(rng):
    """Two ways to say the same thing give the same bits."""
    x = rng.standard_normal((8, 3)).astype(np.float16)
    start = rng.standard_normal((2, 3)).astype(np.float16)
    low, wide = (
        fs.Tensor(start, requires_grad=True),
        fs.Tensor(start.astype(np.float32), requires_grad=True),
    )
    optimizers = (
        fs.optim.Adam([low], lr=1e-3, master_weights=True),
        fs.optim.Adam([wide], lr=1e-3),
    )
    for _ in range(20):
        for w, optimizer in zip((low, wide), optimizers, strict=True):
            optimizer.zero_grad()
            with fs.autocast("fp16"):
                fs.functional.linear(fs.Tensor(x), w).sum().backward()
            optimizer.step()
    assert np.array_equal(optimizers[0].state[0]["master"], wide.data)
    assert np.array_equal(low.data, wide.data.astype(np.float16).astype(np.float32))


def test_overflowing_updates_do_not_warn():
    p = parameter([6e4], "fp16")
    set_grad(p, [-6e4])
    with np.errstate(all="raise"):
        fs.optim.SGD([p], lr=1.0).step()
    assert p.item() == np.inf


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda p: fs.optim.SGD([p], lr=float("nan")),
            ValueError,
            "lr=nan is not allowed; it must be finite and >= 0",
        ),
        (lambda p: fs.optim.SGD([p], lr=float("inf")), ValueError, "lr=inf"),
        (lambda p: fs.optim.Adam([p], lr=-1.0), ValueError, "lr=-1.0"),
        (lambda p: fs.optim.Adam([p], lr="fast"), TypeError, "lr must be a number, got 'fast'"),
        (lambda p: fs.optim.SGD([p], momentum=-0.1), ValueError, "momentum=-0.1"),
        (lambda p: fs.optim.Adam([p], betas=(0.9, 1.0)), ValueError, "betas=1.0.*< 1"),
        (lambda p: fs.optim.Adam([p], betas=0.9), TypeError, "betas must be two numbers, got 0.9"),
        (lambda p: fs.optim.Adam([p], betas=("a", 0.9)), TypeError, "betas must be a number"),
        (lambda p: fs.optim.SGD([p], lr=10**400), ValueError, "lr="),
        (lambda p: fs.optim.SGD([p], lr=np.complex64(1)), TypeError, "lr must be a number"),
        (lambda p: fs.optim.SGD([p], lr=True), TypeError, "lr must be a number, got True"),
        (lambda p: fs.optim.SGD(fs.nn.ReLU()), TypeError, "params must be an iterable of tensors"),
        (lambda p: fs.optim.SGD([p, p]), ValueError, "a tensor twice"),
        (lambda p: fs.optim.Adam([p], eps=float("nan")), ValueError, "eps=nan"),
        (lambda p: fs.optim.SGD([]), ValueError, "params is empty"),
        (lambda p: fs.optim.SGD([np.ones(3)]), TypeError, r"params\[0\] must be a Tensor"),
        (lambda p: fs.optim.SGD([p * 2]), ValueError, r"params\[0\] must be a leaf"),
        (lambda p: fs.optim.SGD([p.detach()]), ValueError, r"params\[0\] must be a leaf"),
    ],
)
def test_bad_settings_are_named(build, error, message):
    with pytest.raises(error, match=message):
        build(parameter([1.0]))


def test_numpy_scalars_do_not_make_float64_of_states():
    p = parameter([1.0], "fp16")
    optimizer = fs.optim.Adam(
        [p], lr=np.float64(0.1), betas=(np.float64(0.9), np.float64(0.999)), master_weights=True
    )
    optimizer.lr = np.float64(0.05)
    set_grad(p, [1.0])
    optimizer.step()
    state = optimizer.state[0]
    assert {state[name].dtype for name in ("m", "v", "master")} == {np.dtype(np.float32)}


def test_a_learning_rate_that_has_become_bad_is_caught_before_weights_are():
    p = parameter([1.0])
    optimizer = fs.optim.SGD([p], lr=0.5)
    set_grad(p, [1.0])
    optimizer.lr = float("nan")
    with pytest.raises(ValueError, match="lr=nan"):
        optimizer.step()
    assert p.item() == 1.0
