"""Optimisers, schedules and clipping against PyTorch's, in float64 and float32."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fp16sim as fs
from fp16sim.optim import schedules

rates = st.sampled_from([1e-3, 0.1, 0.7])
decays = st.sampled_from([0.0, 1e-2, 0.3])
betas = st.sampled_from([(0.9, 0.999), (0.5, 0.9), (0.0, 0.3)])
momenta = st.sampled_from([0.5, 0.9, 1.1])
#: name of the class, settings that both sides take
CHOICES = st.one_of(
    st.tuples(
        st.just("SGD"),
        st.fixed_dictionaries({"lr": rates, "weight_decay": decays})
        | st.fixed_dictionaries(
            {"lr": rates, "momentum": momenta, "nesterov": st.booleans(), "weight_decay": decays}
        ),
    ),
    st.tuples(
        st.sampled_from(["Adam", "AdamW"]),
        st.fixed_dictionaries(
            {"lr": rates, "betas": betas, "eps": st.sampled_from([1e-8, 0.1])},
            optional={"weight_decay": decays},  # without, the two sides' defaults are compared
        ),
    ),
)


def pair(start):
    """The same parameter on both sides."""
    return (
        fs.Tensor(start, requires_grad=True),
        torch.tensor(start, requires_grad=True),
    )


def give(w, v, gradient):
    w.grad, v.grad = fs.Tensor(gradient), torch.tensor(gradient)


@settings(max_examples=60)
@given(CHOICES, st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_rules(choice, seed, steps):
    name, how = choice
    rng = np.random.default_rng(seed)
    (w, v), (idle, still) = pair(rng.standard_normal((4, 3))), pair(rng.standard_normal(2))
    mine = getattr(fs.optim, name)([w, idle], **how)
    theirs = getattr(torch.optim, name)([v, still], **how)
    for _ in range(steps):
        give(w, v, rng.standard_normal((4, 3)) * 10.0 ** rng.uniform(-3, 1))
        mine.step()
        theirs.step()
    # Sums that cancel lose digits relative to themselves, on either side.
    scale = 1e-13 * max(1.0, float(v.detach().abs().max()))
    np.testing.assert_allclose(w.data, v.detach().numpy(), rtol=1e-10, atol=scale)
    assert np.array_equal(idle.data, still.detach().numpy())


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [
        (
            schedules.cosine(20),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=20),
        ),
        (
            schedules.cosine(20, final=0.1),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=20, eta_min=0.03),
        ),
        (
            schedules.step_decay(3, 0.7),
            lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=3, gamma=0.7),
        ),
        (
            schedules.linear(7, 0.25, 0.75),
            lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.25, 0.75, total_iters=7),
        ),
        (
            schedules.linear_warmup(8),
            lambda o: torch.optim.lr_scheduler.LinearLR(o, 1 / 8, 1.0, total_iters=7),
        ),
        (
            schedules.constant(),
            lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0),
        ),
    ],
)
def test_schedules(rule, theirs):
    w, v = pair(np.ones(2))
    mine, reference = fs.optim.SGD([w], lr=0.3), torch.optim.SGD([v], lr=0.3)
    schedule, other = fs.optim.Schedule(mine, rule), theirs(reference)
    for _ in range(21):
        # PyTorch's are recursive: errors add up.
        np.testing.assert_allclose(mine.lr, other.get_last_lr()[0], rtol=1e-12, atol=1e-16)
        reference.step()
        schedule.step()
        other.step()


@settings(max_examples=100)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([0.0, 0.1, 1.0, 3.0, 100.0, np.inf]),
    st.sampled_from([None, np.inf, np.nan]),
    st.floats(-6, 6),
)
def test_clipping_by_norm(seed, dtype, max_norm, bad, exponent):
    rng = np.random.default_rng(seed)
    pairs = [pair(np.zeros(shape, dtype)) for shape in ((3, 4), (5,), ())]
    for position, (w, v) in enumerate(pairs[:2]):  # the last has no gradient
        gradient = (rng.standard_normal(w.shape) * 10.0**exponent).astype(dtype)
        if bad is not None and position == 1:
            gradient[0] = bad
        give(w, v, gradient)
    mine = fs.optim.clip_grad_norm_([w for w, _ in pairs], max_norm)
    theirs = torch.nn.utils.clip_grad_norm_([v for _, v in pairs], max_norm)
    rtol = 1e-5 if dtype is np.float32 else 1e-13
    np.testing.assert_allclose(mine, theirs.item(), rtol=rtol)
    for w, v in pairs[:2]:
        np.testing.assert_allclose(w.gradient, v.grad.numpy(), rtol=rtol)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 1.0, 10.0]))
def test_clipping_by_value(seed, value):
    rng = np.random.default_rng(seed)
    w, v = pair(np.zeros((3, 4), np.float32))
    gradient = rng.standard_normal((3, 4)).astype(np.float32)
    gradient[0, :3] = np.inf, -np.inf, np.nan
    give(w, v, gradient)
    fs.optim.clip_grad_value_([w], value)
    torch.nn.utils.clip_grad_value_([v], value)
    np.testing.assert_array_equal(w.gradient, v.grad.numpy())
