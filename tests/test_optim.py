"""Optimisers: formulas, formats, saving, errors; schedules; clipping."""

import itertools
import json
import math
from copy import deepcopy

import numpy as np
import pytest
from conftest import assert_same_bits

import fp16sim as fs
from fp16sim import events
from fp16sim.optim import optimizer as optimizer_module
from fp16sim.optim import schedules


def parameter(values, fmt="fp32"):
    return fs.Tensor(np.float32(values), requires_grad=True, fmt=fmt)


def wide():
    return fs.Tensor([1.0], requires_grad=True)


def set_grad(p, values):
    p.grad = fs.Tensor(np.asarray(values, np.float64), fmt=p.fmt)


def run(p, optimizer, gradients):
    """Step with each of the gradients."""
    for gradient in gradients:
        set_grad(p, gradient)
        optimizer.step()
    return optimizer


#: every rule with every switch of its own
RULES = {
    "sgd": lambda ps, **k: fs.optim.SGD(ps, lr=0.1, weight_decay=0.01, **k),
    "momentum": lambda ps, **k: fs.optim.SGD(ps, lr=0.1, momentum=0.9, **k),
    "nesterov": lambda ps, **k: fs.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True, **k),
    "adam": lambda ps, **k: fs.optim.Adam(ps, lr=0.1, weight_decay=0.01, **k),
    "adamw": lambda ps, **k: fs.optim.AdamW(ps, lr=0.1, **k),
    "lion": lambda ps, **k: fs.optim.Lion(ps, lr=0.1, weight_decay=0.01, **k),
}
#: every way to store, with a format of parameters for which it matters
STORAGE = {
    "plain": ("fp32", {}),
    "fp64": ("fp64", {}),
    "masters": ("fp16", {"master_weights": True}),
    "bf16 moments": ("bf16", {"state_fmt": "bf16"}),
    "fp64 moments": ("fp32", {"state_fmt": "fp64", "master_weights": True}),
    "fp32 moments of fp64": ("fp64", {"state_fmt": "fp32"}),
    "stochastic": ("fp16", {"rounding": "stochastic", "rng": 7}),
    "stochastic, fp8 moments": ("bf16", {"rounding": "stochastic", "rng": 7, "state_fmt": "e5m2"}),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
every_storage = pytest.mark.parametrize(("fmt", "how"), STORAGE.values(), ids=STORAGE.keys())


def start(rng, fmt, shape=(3, 7)):
    return fs.Tensor(rng.standard_normal(shape), requires_grad=True, fmt=fmt)


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
        (lambda p: fs.optim.SGD([p], weight_decay=-1), ValueError, "weight_decay=-1"),
        (lambda p: fs.optim.Adam([p], weight_decay="x"), TypeError, "weight_decay must be a num"),
        (lambda p: fs.optim.AdamW([p], weight_decay=np.inf), ValueError, "weight_decay=inf"),
        (lambda p: fs.optim.Lion([p], weight_decay=-1), ValueError, "weight_decay=-1"),
        (lambda p: fs.optim.Lion([p], betas=(1.0, 0.5)), ValueError, "betas=1.0"),
        (lambda p: fs.optim.SGD([p], nesterov=True), ValueError, "nesterov=True .* momentum=0"),
        (lambda p: fs.optim.SGD([p], 1, 0.5, nesterov=1), TypeError, "nesterov must be True or F"),
        (lambda p: fs.optim.SGD([p], master_weights=1), TypeError, "master_weights must be True"),
        (lambda p: fs.optim.SGD([p], state_fmt="fp17"), ValueError, "state_fmt='fp17'"),
        (lambda p: fs.optim.SGD([p], state_fmt=16), TypeError, "state_fmt must be a Format"),
        (lambda p: fs.optim.SGD([p], state_fmt="e8m0"), ValueError, "state_fmt=e8m0 .* a sign"),
        (lambda p: fs.optim.SGD([p], rounding="up"), ValueError, "rounding='up' .* stochastic"),
        (lambda p: fs.optim.SGD([p], rng=0), ValueError, "rng is for rounding='stochastic' only"),
        (lambda p: fs.optim.SGD([p], rounding="stochastic"), ValueError, "rng=None .* a seed"),
        (lambda p: fs.optim.SGD([p], rounding="stochastic", rng=-1), ValueError, "rng=-1"),
        (
            lambda p: fs.optim.SGD([p], rounding="stochastic", rng=0, master_weights=True),
            ValueError,
            "rounding='stochastic' is not allowed with master_weights=True",
        ),
        (
            lambda p: fs.optim.SGD([p, wide()], rounding="stochastic", rng=0),
            ValueError,
            r"rounding='stochastic' is not allowed for params\[1\] in fp64",
        ),
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


def first_adam(w, g, state, lr, betas, eps):
    """The formulas with which the figures in the README were first made, temporaries and all."""
    beta1, beta2 = betas
    if not state:
        state |= {"step": 0, "m": np.zeros_like(w), "v": np.zeros_like(w)}
    state["step"] += 1
    state["m"] = beta1 * state["m"] + (1 - beta1) * g
    state["v"] = beta2 * state["v"] + (1 - beta2) * (g * g)
    correction1 = 1 - beta1 ** state["step"]
    correction2 = math.sqrt(1 - beta2 ** state["step"])
    denominator = np.sqrt(state["v"]) / correction2 + eps
    return w - (lr / correction1) * (state["m"] / denominator)


def first_sgd(w, g, state, lr, momentum):
    """As ``first_adam``."""
    if momentum:
        previous = state.get("momentum")
        g = g if previous is None else momentum * previous + g
        state["momentum"] = g
    return w - lr * g


class TestBits:
    """Speed changes no bit: blocks, work in place, observers."""

    @pytest.fixture(params=[5, 2**17])
    def _block(self, request, monkeypatch):
        monkeypatch.setattr(optimizer_module, "BLOCK", request.param)

    @pytest.mark.usefixtures("_block")
    @pytest.mark.parametrize(
        ("rule", "first", "choice"),
        [
            (fs.optim.Adam, first_adam, {"lr": 3e-3, "betas": (0.9, 0.999), "eps": 1e-8}),
            (fs.optim.Adam, first_adam, {"lr": 0.7, "betas": (0.0, 0.3), "eps": 0.1}),
            (fs.optim.SGD, first_sgd, {"lr": 0.3, "momentum": 0.9}),
            (fs.optim.SGD, first_sgd, {"lr": 0.3, "momentum": 0.0}),
        ],
    )
    def test_fp32_runs_are_what_they_were(self, rule, first, choice, rng):
        p = start(rng, "fp32")
        optimizer, expected, state = rule([p], **choice), p.numpy(), {}
        for _ in range(40):
            g = (rng.standard_normal((3, 7)) * 10.0 ** rng.uniform(-25, 15)).astype(np.float32)
            run(p, optimizer, [g])
            with np.errstate(all="ignore"):
                expected = first(expected, g, state, **choice)
            assert_same_bits(p.data, expected)
        for name, value in state.items():
            if name != "step":
                assert_same_bits(optimizer.state[0][name], value)

    @every_rule
    @pytest.mark.parametrize("fmt", ["fp32", "fp64"])
    @pytest.mark.parametrize("state_fmt", [None, "bf16"])
    def test_blocks_and_observers_change_nothing(self, rule, fmt, state_fmt, rng, monkeypatch):
        gradients = rng.standard_normal((4, 3, 7))
        results = []
        for block, observed in ((2**17, False), (5, False), (5, True)):
            monkeypatch.setattr(optimizer_module, "BLOCK", block)
            p = start(np.random.default_rng(1), fmt)
            with events.observe(lambda event: None) if observed else events.unobserved():
                run(p, rule([p], state_fmt=state_fmt), gradients)
            results.append(p.data)
        assert_same_bits(results[1], results[0])
        assert_same_bits(results[2], results[0])

    @every_rule
    def test_layout_and_emptiness_of_parameters(self, rule, rng):
        plain, turned = start(rng, "fp32", (3, 4)), start(rng, "fp32", (4, 3))
        turned.data = plain.data.copy().T
        empty, single = start(rng, "fp32", (0, 3)), start(rng, "fp32", ())
        gradient = rng.standard_normal((3, 4))
        for observed in (False, True):
            with events.observe(lambda event: None) if observed else events.unobserved():
                run(plain, rule([plain]), [gradient])
                run(turned, rule([turned]), [gradient.T])
                run(empty, rule([empty]), [np.zeros((0, 3))])
                run(single, rule([single]), [1.0])
        assert_same_bits(np.ascontiguousarray(turned.data.T), plain.data)
        assert (empty.shape, single.shape) == ((0, 3), ())

    @every_rule
    def test_arrays_of_before_stay_as_they_were(self, rule, rng):
        """A graph that is still to be walked holds the weights that it was computed with."""
        p = start(rng, "fp32")
        optimizer = run(p, rule([p]), [np.ones((3, 7))])
        held, copy = p.data, p.numpy()
        set_grad(p, np.full((3, 7), 2.0))
        gradient = p.gradient
        optimizer.step()
        optimizer.step()
        assert_same_bits(held, copy)
        assert np.array_equal(gradient, np.full((3, 7), 2.0))


class TestRules:
    """By hand and against straight-line programs; tests/differential has PyTorch's."""

    def test_sgd_with_nesterov_and_decay_by_hand(self):
        p = parameter([1.0])
        optimizer = fs.optim.SGD([p], lr=0.5, momentum=0.5, nesterov=True, weight_decay=0.5)
        # g = 1 + 0.5·1; b = g; w = 1 - 0.5·(1.5 + 0.75)
        run(p, optimizer, [[1.0]])
        assert p.item() == -0.125
        # g = 0 - 0.0625; b = 0.75 - 0.0625; w = -0.125 - 0.5·(-0.0625 + 0.34375)
        run(p, optimizer, [[0.0]])
        assert p.item() == -0.265625

    def test_momentum_may_begin_later(self):
        p = parameter([1.0])
        optimizer = run(p, fs.optim.SGD([p], lr=0.5), [[1.0]])
        assert optimizer.state == [{}]
        optimizer.momentum = 0.5
        run(p, optimizer, [[1.0], [1.0]])
        assert p.item() == 0.5 - 0.5 - 0.75

    def test_decay_of_adamw_does_not_pass_through_the_moments(self):
        p = parameter([2.0])
        run(p, fs.optim.AdamW([p], lr=0.5, weight_decay=0.25), [[0.0]])
        assert p.item() == 2 - 0.5 * 0.25 * 2

    @pytest.mark.parametrize("weight_decay", [0.0, 0.3])
    def test_lion_against_its_paper(self, weight_decay, rng):
        """Algorithm 2 of Chen et al., written out; fp64 parameters."""
        p = fs.Tensor(rng.standard_normal(9), requires_grad=True)
        optimizer = fs.optim.Lion([p], lr=0.01, betas=(0.9, 0.99), weight_decay=weight_decay)
        w, m = p.numpy(), 0.0
        for _ in range(200):
            g = rng.standard_normal(9)
            run(p, optimizer, [g])
            w = w - 0.01 * (np.sign(0.9 * m + 0.1 * g) + weight_decay * w)
            m = 0.99 * m + 0.01 * g
            np.testing.assert_allclose(p.data, w, rtol=1e-10)

    @every_rule
    @every_storage
    def test_nothing_warns(self, rule, fmt, how):
        p = fs.Tensor([1e-8, 1.0, 6e4, -6e4], requires_grad=True, fmt=fmt)
        optimizer = rule([p], **how)
        optimizer.lr = 1e300
        with np.errstate(all="raise"):
            p.grad = fs.Tensor([-1e-8, 1e-4, np.nan, np.inf], fmt=fmt)
            optimizer.step()
            optimizer.step()


class TestFormats:
    @pytest.mark.parametrize("state_fmt", ["bf16", "fp16", "e4m3"])
    def test_moments_are_rounded_once_a_step_and_then_used(self, state_fmt, rng):
        p = start(rng, "fp32")
        optimizer = fs.optim.Adam([p], lr=0.1, betas=(0.5, 0.75), eps=0.5, state_fmt=state_fmt)
        w, m, v = p.numpy(), np.zeros((3, 7), np.float32), np.zeros((3, 7), np.float32)
        for t in range(1, 9):
            g = rng.standard_normal((3, 7)).astype(np.float32)
            run(p, optimizer, [g])
            m = fs.round_to(0.5 * m + 0.5 * g, state_fmt)
            v = fs.round_to(0.75 * v + 0.25 * (g * g), state_fmt)
            assert_same_bits(optimizer.state[0]["m"], m)
            assert_same_bits(optimizer.state[0]["v"], v)
            denominator = np.sqrt(v) / math.sqrt(1 - 0.75**t) + 0.5
            w = w - (0.1 / (1 - 0.5**t)) * (m / denominator)
            assert_same_bits(p.data, w)

    @pytest.mark.parametrize(
        ("fmt", "state_fmt", "dtype"),
        [
            ("fp16", None, np.float32),
            ("fp32", None, np.float32),
            ("fp64", None, np.float64),
            ("fp32", fs.FP64, np.float64),
            ("fp64", "fp32", np.float32),
            ("fp64", "bf16", np.float32),
        ],
    )
    @every_rule
    def test_dtypes_of_moments(self, rule, fmt, state_fmt, dtype, rng):
        p = start(rng, fmt)
        before = p.data.dtype
        optimizer = run(p, rule([p], state_fmt=state_fmt), rng.standard_normal((2, 3, 7)))
        arrays = [x for name, x in optimizer.state[0].items() if name != "step"]
        assert {x.dtype for x in arrays} <= {np.dtype(dtype)}
        assert p.data.dtype == before

    def test_wide_moments_are_computed_in_their_own_precision(self):
        """The sum of 1 and 2^-30 is no fp32 number."""
        p = parameter([0.0])
        optimizer = fs.optim.SGD([p], lr=1.0, momentum=1.0, state_fmt="fp64")
        run(p, optimizer, [[1.0], [2.0**-30]])
        assert optimizer.state[0]["momentum"].item() == 1 + 2.0**-30
        adam = run(p, fs.optim.Adam([p], state_fmt="fp64"), [[1.0]])
        assert adam.state[0]["m"].item() == 1 - 0.9

    def test_a_copy_of_fp32_under_another_name_needs_no_master(self):
        single = fs.Format(name="single", precision=24, emin=-126, emax=127)
        p = parameter([1.0], single)
        optimizer = run(p, fs.optim.SGD([p], lr=1.0, master_weights=True), [[0.5]])
        assert "master" not in optimizer.state[0]

    def test_stochastic_rounding_keeps_small_updates_on_average(self):
        """64 steps of a quarter of the spacing below 1: 1 - 64·2^-13 if none is lost."""
        p = fs.Tensor(np.ones(4096, np.float32), requires_grad=True, fmt="fp16")
        optimizer = fs.optim.SGD([p], lr=1.0, rounding="stochastic", rng=1)
        gradient = np.full(4096, 2.0**-13)
        run(p, optimizer, [gradient] * 64)
        assert np.array_equal(p.data, p.data.astype(np.float16))
        # One step's variance is 3/16 of the spacing's square; six deviations of the mean.
        deviation = 2.0**-11 * math.sqrt(64 * 3 / 16 / 4096)
        assert abs(p.data.mean(dtype=np.float64) - (1 - 64 * 2.0**-13)) < 6 * deviation
        assert np.unique(p.data).size > 2

    def test_updates_that_fp32_would_lose_count_stochastically(self):
        """1 - 2^-27 is no fp32 number: one weight in eight goes down by 2^-24."""
        p = fs.Tensor(np.ones(8192, np.float32), requires_grad=True)
        optimizer = fs.optim.SGD([p], lr=1.0, rounding="stochastic", rng=2)
        run(p, optimizer, [np.full(8192, 2.0**-27)])
        assert p.data.dtype == np.float32
        assert set(p.data) == {np.float32(1), np.float32(1 - 2.0**-24)}
        assert abs(np.count_nonzero(p.data < 1) - 1024) < 6 * math.sqrt(8192 * 7 / 64)

    @every_rule
    def test_the_same_seed_gives_the_same_run(self, rule, rng):
        gradients = rng.standard_normal((3, 3, 7)) * 1e-3

        def end(seed):
            p = start(np.random.default_rng(0), "bf16")
            run(p, rule([p], rounding="stochastic", rng=seed), gradients)
            return p.data

        assert_same_bits(end(3), end(3))
        assert_same_bits(end(np.random.default_rng(3)), end(3))
        assert not np.array_equal(end(3), end(4))

    def test_stochastic_rounding_is_that_of_round_to(self, rng):
        p = start(rng, "bf16")
        g = fs.round_to(rng.standard_normal((3, 7)), "bf16")
        exact = p.data.astype(np.float64) - 0.125 * g
        run(p, fs.optim.SGD([p], lr=0.125, rounding="stochastic", rng=5), [g])
        assert np.array_equal(p.data, fs.round_to(exact, "bf16", "stochastic", rng=5))


class TestEvents:
    @every_rule
    @every_storage
    def test_updates_add_up_and_are_not_overwritten(self, rule, fmt, how, rng):
        seen, p = [], start(rng, fmt)
        optimizer = rule([p], **how)
        with events.observe(seen.append):
            run(p, optimizer, rng.standard_normal((3, 3, 7)))
        updates = [event for event in seen if isinstance(event, events.Updated)]
        assert len(updates) == 3
        kept = fs.FP32 if how.get("master_weights") else p.fmt
        for before, after, update, parameter in updates:
            assert parameter is p
            assert before.shape == update.shape == (3, 7)
            dtype = np.result_type(update, np.float64 if "rng" in how else update)
            moved = np.subtract(before, update, dtype=dtype)
            if "rng" in how:
                down = fs.round_to(moved, fmt, "toward_negative")
                up = fs.round_to(moved, fmt, "toward_positive")
                assert ((after == down) | (after == up)).all()
            else:
                assert np.array_equal(after, fs.round_to(moved, kept))
        for earlier, later in itertools.pairwise(updates):
            assert np.array_equal(earlier.after, later.before)

    def test_stored_weights_and_moments_are_announced(self, rng):
        seen, p = [], start(rng, "fp16")
        optimizer = fs.optim.Adam([p], state_fmt="bf16", rounding="stochastic", rng=0)
        set_grad(p, np.ones((3, 7)))
        with events.observe(seen.append):
            optimizer.step()
        stored = [(e.origin.role, e.fmt) for e in seen if isinstance(e, events.Rounded)]
        assert stored == [("moment", fs.BF16), ("moment", fs.BF16), ("weight", fs.FP16)]

    def test_swamped_updates_of_stochastic_rounding_are_counted(self):
        model = fs.nn.Linear(64, 64, bias=False, rng=0)
        model.weight.data[:] = 1.0
        model.to("fp16")
        optimizer = fs.optim.SGD(model.parameters(), 1.0, rounding="stochastic", rng=0)
        with fs.watch(model) as xray:
            run(model.weight, optimizer, [np.full((64, 64), 2.0**-13)])
        assert 0.7 < xray.all_updates().swamped / 4096 < 0.8


class TestSaving:
    @every_rule
    @every_storage
    def test_continuing_is_as_not_having_stopped(self, rule, fmt, how, rng):
        gradients = rng.standard_normal((6, 3, 7))
        p = start(rng, fmt)
        optimizer = run(p, rule([p], **how), gradients[:3])
        optimizer.lr = 0.05
        saved, weights = optimizer.state_dict(), p.numpy()
        run(p, optimizer, gradients[3:])
        q = fs.Tensor(weights, requires_grad=True, fmt=fmt)
        again = rule([q], **how | ({"rng": 99} if "rng" in how else {}))
        before = deepcopy(saved)
        again.load_state_dict(saved)
        run(q, again, gradients[3:])
        assert_same_bits(q.data, p.data)
        assert again.lr == 0.05
        assert saved.keys() == before.keys()
        for name, x in before["state"][0].items():  # neither optimiser has touched it
            assert np.array_equal(saved["state"][0][name], x)
        assert saved.get("rng") == before.get("rng")
        assert np.array_equal(
            again.state_dict()["state"][0].get("m", 0), optimizer.state[0].get("m", 0)
        )

    def test_what_is_saved(self, rng):
        p, unmoved = start(rng, "fp16"), start(rng, "fp16")
        optimizer = fs.optim.Adam([p, unmoved], lr=np.float64(0.5), betas=[0.5, 0.25])
        saved = run(p, optimizer, [np.ones((3, 7))]).state_dict()
        assert saved["settings"] == {
            "class": "Adam",
            "master_weights": False,
            "state_fmt": None,
            "rounding": "ties_to_even",
            "lr": 0.5,
            "betas": (0.5, 0.25),
            "eps": 1e-8,
            "weight_decay": 0.0,
        }
        assert type(saved["settings"]["lr"]) is float
        assert set(saved) == {"settings", "state"}
        assert set(saved["state"][0]) == {"step", "m", "v"}
        assert saved["state"][0]["step"] == 1
        assert saved["state"][1] == {}

    @pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.SFC64])
    def test_settings_and_random_state_pass_through_json(self, kind, rng):
        def build(p, seed):
            generator = np.random.Generator(kind(seed))
            return fs.optim.Lion([p], rounding="stochastic", rng=generator)

        p = start(rng, "bf16")
        optimizer = run(p, build(p, 0), [np.ones((3, 7))])
        saved = optimizer.state_dict()
        read = json.loads(json.dumps({name: saved[name] for name in ("settings", "rng")}))
        q = fs.Tensor(p, requires_grad=True)
        again = build(q, 1)
        again.load_state_dict(read | {"state": saved["state"]})
        for parameter, one in ((p, optimizer), (q, again)):
            run(parameter, one, [np.full((3, 7), -1e-3)])
        assert_same_bits(p.data, q.data)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (lambda s: s.pop("state"), ValueError, "saved has the entries rng, settings; it must"),
            (lambda s: s.update(more=1), ValueError, "saved has the entries more, rng"),
            (
                lambda s: s["settings"].update({"class": "AdamW"}),
                ValueError,
                "is 'AdamW'; .*'Adam'",
            ),
            (lambda s: s["settings"].update(state_fmt=None), ValueError, "'state_fmt'. is None"),
            (lambda s: s["settings"].update(lr=-1), ValueError, "lr=-1"),
            (lambda s: s["settings"].update(betas=0.5), TypeError, "betas must be two numbers"),
            (lambda s: s["settings"].pop("eps"), ValueError, "'settings'. has the entries"),
            (lambda s: s.update(settings=3), TypeError, "'settings'. must be a dict, got int"),
            (lambda s: s["state"].pop(), ValueError, "of 1 parameters; this optimiser has 2"),
            (lambda s: s.update(state=3), TypeError, "'state'. must be a list, got int"),
            (lambda s: s["state"].__setitem__(0, 3), TypeError, r"'state'.\[0\] must be a dict"),
            (lambda s: s["state"][0].pop("m"), ValueError, r"\[0\] has the entries step, v; it"),
            (lambda s: s["state"][0].update(master=1), ValueError, "entries m, master, step, v"),
            (lambda s: s["state"][0].update(step=0), ValueError, "'step'.=0 is not allowed"),
            (lambda s: s["state"][0].update(step=1.5), TypeError, "'step'. must be an integer"),
            (lambda s: s["state"][0].update(m=[1.0]), TypeError, "'m'. must be an array, got list"),
            (
                lambda s: s["state"][0].update(m=np.zeros((7, 3), np.float32)),
                ValueError,
                r"'m'. is float32 of shape \(7, 3\); it must be float32 of shape \(3, 7\)",
            ),
            (lambda s: s["state"][0].update(m=np.zeros((3, 7))), ValueError, "'m'. is float64"),
            (lambda s: s["rng"].update(bit_generator="X"), ValueError, "not a state of PCG64"),
            (lambda s: s.update(rng={}), ValueError, "'rng'. is not a state of PCG64"),
        ],
    )
    def test_what_does_not_fit_changes_nothing(self, change, error, message, rng):
        p, unmoved = start(rng, "bf16"), start(rng, "bf16")
        how = {"state_fmt": "bf16", "rounding": "stochastic"}
        optimizer = fs.optim.Adam([p, unmoved], lr=0.5, rng=1, **how)
        saved = run(p, optimizer, [np.ones((3, 7))]).state_dict()
        change(saved)
        other = fs.optim.Adam([p, unmoved], lr=0.25, rng=2, **how)
        before = other.state_dict()
        with pytest.raises(error, match=message):
            other.load_state_dict(saved)
        assert other.state_dict() == before

    def test_a_master_copy_belongs_to_it(self, rng):
        p = start(rng, "fp16")
        optimizer = fs.optim.SGD([p], momentum=0.5, master_weights=True)
        saved = run(p, optimizer, [np.ones((3, 7))]).state_dict()
        assert set(saved["state"][0]) == {"momentum", "master"}
        del saved["state"][0]["master"]
        with pytest.raises(ValueError, match="it must have master, momentum"):
            optimizer.load_state_dict(saved)


class TestSchedules:
    @pytest.mark.parametrize(
        ("rule", "factors"),
        [
            (schedules.constant(), [1, 1, 1]),
            (schedules.linear_warmup(4), [0.25, 0.5, 0.75, 1, 1, 1]),
            (schedules.linear_warmup(0), [1, 1]),
            (schedules.linear(4, 1.0, 0.5), [1, 0.875, 0.75, 0.625, 0.5, 0.5]),
            (schedules.step_decay(2, 0.5), [1, 1, 0.5, 0.5, 0.25]),
            (schedules.cosine(4), [1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0, 0]),
            (schedules.cosine(6, warmup=2, final=0.5), [0.5, 1, 1, (6 + 2**0.5) / 8, 0.75]),
        ],
    )
    def test_factors(self, rule, factors):
        assert [rule(step) for step in range(len(factors))] == pytest.approx(factors, abs=1e-15)

    def test_a_schedule_sets_the_rate_of_the_next_step(self):
        optimizer = fs.optim.SGD([parameter([1.0])], lr=0.5)
        schedule = fs.optim.Schedule(optimizer, schedules.linear_warmup(4))
        rates = [optimizer.lr]
        for _ in range(4):
            schedule.step()
            rates.append(optimizer.lr)
        assert rates == [0.125, 0.25, 0.375, 0.5, 0.5]

    @pytest.mark.parametrize("optimizer_first", [True, False])
    def test_continuing(self, optimizer_first):
        def build():
            p = parameter([1.0])
            optimizer = fs.optim.Adam([p], lr=0.5)
            return p, optimizer, fs.optim.Schedule(optimizer, schedules.cosine(10, warmup=3))

        def go(p, optimizer, schedule, steps):
            for _ in range(steps):
                run(p, optimizer, [p.data])
                schedule.step()

        p, optimizer, schedule = build()
        go(p, optimizer, schedule, 4)
        q, again, schedule_again = build()
        q.data = p.numpy()
        states = [(again, optimizer.state_dict()), (schedule_again, schedule.state_dict())]
        for one, saved in states if optimizer_first else reversed(states):
            one.load_state_dict(saved)
        assert again.lr == optimizer.lr
        for run_of in ((p, optimizer, schedule), (q, again, schedule_again)):
            go(*run_of, 4)
        assert_same_bits(p.data, q.data)
        assert json.loads(json.dumps(schedule.state_dict())) == {"base_lr": 0.5, "step": 8}

    @pytest.mark.parametrize(
        ("build", "error", "message"),
        [
            (lambda o: schedules.linear_warmup(-1), ValueError, "steps=-1"),
            (lambda o: schedules.linear(0, 1, 0), ValueError, "steps=0"),
            (lambda o: schedules.linear(3, -1, 0), ValueError, "start=-1"),
            (lambda o: schedules.linear(3, 1, np.nan), ValueError, "final=nan"),
            (lambda o: schedules.cosine(0), ValueError, "steps=0"),
            (lambda o: schedules.cosine(5.0), TypeError, "steps must be an integer"),
            (lambda o: schedules.cosine(5, 5), ValueError, "warmup=5 .* from 0 to 4"),
            (lambda o: schedules.cosine(5, final=-1), ValueError, "final=-1"),
            (lambda o: schedules.step_decay(0, 0.5), ValueError, "every=0"),
            (lambda o: schedules.step_decay(1, -0.5), ValueError, "factor=-0.5"),
            (lambda o: fs.optim.Schedule(None, schedules.constant()), TypeError, "optimizer must"),
            (lambda o: fs.optim.Schedule(o, 0.5), TypeError, "rule must be a function"),
            (lambda o: fs.optim.Schedule(o, lambda step: -1.0), ValueError, r"rule\(0\)=-1.0"),
        ],
    )
    def test_bad_settings_are_named(self, build, error, message):
        with pytest.raises(error, match=message):
            build(fs.optim.SGD([parameter([1.0])], lr=0.5))

    @pytest.mark.parametrize(
        ("saved", "message"),
        [({"base_lr": 1.0}, "it must have base_lr, step"), ({"base_lr": 1.0, "step": -1}, "=-1")],
    )
    def test_a_state_that_does_not_fit_changes_nothing(self, saved, message):
        optimizer = fs.optim.SGD([parameter([1.0])], lr=0.5)
        schedule = fs.optim.Schedule(optimizer, schedules.constant())
        with pytest.raises(ValueError, match=message):
            schedule.load_state_dict(saved)
        assert (optimizer.lr, schedule.state_dict()) == (0.5, {"base_lr": 0.5, "step": 0})


class TestClipping:
    def test_the_norm_is_of_all_gradients(self):
        p, q, without = parameter([0.0]), parameter([0.0, 0.0]), parameter([1.0])
        set_grad(p, [2.0])
        set_grad(q, [4.0, 4.0])
        assert fs.optim.clip_grad_norm_([p, q, without], 3.0) == 6.0
        np.testing.assert_allclose(p.gradient, [1.0], rtol=1e-6)
        np.testing.assert_allclose(q.gradient, [2.0, 2.0], rtol=1e-6)
        assert without.grad is None
        assert fs.optim.clip_grad_norm_(without, 1.0) == 0.0

    def test_gradients_within_the_norm_and_arrays_seen_before_stay(self):
        p = parameter([0.0, 0.0])
        set_grad(p, [3.0, 4.0])
        held = p.grad
        assert fs.optim.clip_grad_norm_(p, math.inf) == 5.0
        assert p.gradient is held.data
        fs.optim.clip_grad_norm_(p, 1.0)
        fs.optim.clip_grad_value_(p, 0.1)
        assert held.numpy().tolist() == [3.0, 4.0]

    def test_the_norm_does_not_overflow_where_gradients_do_not(self):
        p = parameter(np.zeros(100), "fp16")
        set_grad(p, np.full(100, 6e4))
        assert fs.optim.clip_grad_norm_(p, 1.0) == 10 * fs.round_to(6e4, "fp16")

    def test_clipped_gradients_are_on_the_grid_and_announced(self, rng):
        p, seen = start(rng, "fp16"), []
        set_grad(p, rng.standard_normal((3, 7)))
        with events.observe(seen.append):
            fs.optim.clip_grad_norm_(p, 0.3)
            fs.optim.clip_grad_value_(p, 0.1)
        assert np.array_equal(p.gradient, p.gradient.astype(np.float16))
        assert p.gradient.dtype == np.float32
        origins = [(event.origin.op, event.origin.role) for event in seen]
        assert origins == [(f"clip_grad_{what}_", "weight gradient") for what in ("norm", "value")]

    def test_values(self):
        p = parameter(np.zeros(5))
        p.grad = fs.Tensor(np.float32([-3, -0.5, 0.25, np.inf, np.nan]))
        with np.errstate(all="raise"):
            assert fs.optim.clip_grad_value_([p], 0.5) is None
        np.testing.assert_array_equal(p.gradient, np.float32([-0.5, -0.5, 0.25, 0.5, np.nan]))

    @pytest.mark.parametrize(
        ("bad", "after"), [(np.inf, [0.0, np.nan]), (np.nan, [np.nan, np.nan])]
    )
    def test_what_is_not_finite_spreads_unless_refused(self, bad, after):
        p = parameter([0.0, 0.0])
        p.grad = fs.Tensor(np.float32([1.0, bad]))
        with pytest.raises(RuntimeError, match=f"norm of the gradients is {bad}"):
            fs.optim.clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
        np.testing.assert_array_equal(p.gradient, np.float32([1.0, bad]))
        with np.errstate(all="raise"):
            np.testing.assert_equal(fs.optim.clip_grad_norm_(p, 1.0), bad)
        np.testing.assert_array_equal(p.gradient, after)

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda p: fs.optim.clip_grad_norm_(p, -1), ValueError, "max_norm=-1"),
            (lambda p: fs.optim.clip_grad_norm_(p, "1"), TypeError, "max_norm must be a number"),
            (lambda p: fs.optim.clip_grad_norm_(p, 1, 2), TypeError, "error_if_nonfinite must be"),
            (lambda p: fs.optim.clip_grad_norm_(3, 1), TypeError, "params must be tensors"),
            (lambda p: fs.optim.clip_grad_norm_([3], 1), TypeError, r"params\[0\] must be a Ten"),
            (lambda p: fs.optim.clip_grad_value_(p, np.inf), ValueError, "value=inf"),
        ],
    )
    def test_bad_arguments_are_named(self, call, error, message):
        with pytest.raises(error, match=message):
            call(parameter([1.0]))
