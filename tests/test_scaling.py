"""Loss scaling: the rule as a function, and GradScaler's order of calls."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fp16sim as fs
from fp16sim.scaling import LossScale, next_scale


def walk(state, pattern):
    """Scales after each step; '.' is a finite step, 'x' one with an overflow."""
    scales = []
    for step in pattern:
        state = next_scale(state, step == ".")
        scales.append(state.scale)
    return scales


class TestRule:
    def test_staircase(self):
        state = LossScale(scale=8.0, growth_interval=2)
        assert walk(state, ".." + "x" + "." + "x" + "..") == [8, 16, 8, 8, 4, 4, 8]

    def test_static_never_moves(self):
        assert walk(LossScale(scale=8.0, growth_interval=1, dynamic=False), ".x.") == [8, 8, 8]

    def test_does_not_grow_past_fp32_and_starts_counting_again(self):
        state = LossScale(scale=2.0**127, growth_interval=2)
        state = next_scale(next_scale(state, True), True)
        assert (state.scale, state.streak) == (2.0**127, 0)

    def test_has_no_floor(self):
        assert walk(LossScale(scale=2.0**-149), "x") == [0.0]

    def test_grows_only_when_the_streak_equals_the_interval(self):
        assert walk(LossScale(scale=1.0, growth_interval=3, streak=3), "....") == [1, 1, 1, 1]

    @given(st.lists(st.booleans(), max_size=60), st.integers(1, 7))
    def test_growth_and_backoff_are_all_that_happens(self, finite, interval):
        """Replayed by counting: the exponent rises at the end of every full streak."""
        state, exponent, streak = LossScale(scale=1.0, growth_interval=interval), 0, 0
        for good in finite:
            state = next_scale(state, good)
            streak = streak + 1 if good else 0
            exponent += (good and streak % interval == 0) - (not good)
            assert state.scale == 2.0**exponent

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"scale": -1.0}, "scale=-1.0"),
            ({"scale": float("nan")}, "scale=nan"),
            ({"growth_factor": 1.0}, "growth_factor=1.0 is not allowed"),
            ({"growth_factor": "2"}, "growth_factor must be a number"),
            ({"growth_interval": True}, "growth_interval must be an integer"),
            ({"backoff_factor": 1.0}, "backoff_factor=1.0"),
            ({"growth_interval": 0}, "growth_interval=0"),
            ({"growth_interval": 2.5}, "growth_interval must be an integer, got 2.5"),
        ],
    )
    def test_bad_settings(self, settings, message):
        with pytest.raises((ValueError, TypeError), match=message):
            LossScale(**settings)


@pytest.fixture
def weight():
    return fs.Tensor(np.float32([1.0]), requires_grad=True)


@pytest.fixture
def optimizer(weight):
    return fs.optim.SGD([weight], lr=0.5)


class TestGradScaler:
    def test_one_step(self, weight, optimizer):
        scaler = fs.GradScaler(init_scale=1024.0)
        scaler.scale(weight * 2).backward()
        assert weight.grad.item() == 2048
        assert scaler.step(optimizer) is True
        scaler.update()
        assert weight.item() == 0.0
        assert weight.grad.item() == 2.0

    def test_an_overflow_skips_the_step_and_backs_off(self, weight, optimizer):
        scaler = fs.GradScaler(init_scale=2.0**10)
        scaler.scale(weight.to("fp16") * 100).backward()  # 102400 > 65504
        assert scaler.step(optimizer) is False
        scaler.update()
        assert weight.item() == 1.0
        assert scaler.get_scale() == 2.0**9

    def test_an_fp16_loss_is_scaled_in_fp32(self):
        loss = fs.Tensor(np.float16(2.0), requires_grad=True)
        scaled = fs.GradScaler().scale(loss)
        assert scaled.fmt is fs.FP32
        assert scaled.item() == 2.0**17

    def test_unscaling_is_done_in_fp32(self, weight, optimizer):
        weight.grad = fs.Tensor(np.float32([2.0**-10]))
        fs.GradScaler(init_scale=2.0**16).unscale_(optimizer)
        assert weight.grad.item() == 2.0**-26

    def test_an_fp16_loss_has_an_fp16_gradient_all_the_same(self):
        loss = fs.Tensor(np.float16(2.0), requires_grad=True)
        fs.GradScaler().scale(loss).backward()
        assert loss.grad.item() == np.inf  # 2^16

    def test_unscaling_by_a_scale_that_is_no_power_of_two(self, weight, optimizer):
        weight.grad = fs.Tensor(np.float32([5.0]))
        fs.GradScaler(init_scale=3.0).unscale_(optimizer)
        assert weight.grad.item() == float(np.float32(5) * np.float32(1 / 3))

    def test_bf16_gradients_can_be_unscaled(self):
        low = fs.Tensor([1.0], requires_grad=True, fmt="bf16")
        low.grad = fs.Tensor([2.0], fmt="bf16")
        fs.GradScaler(init_scale=2.0).step(fs.optim.SGD([low], lr=0.5))
        assert low.item() == 0.5

    def test_clipping_between_unscale_and_step(self, weight, optimizer):
        scaler = fs.GradScaler(init_scale=1024.0)
        scaler.scale(weight * 8).backward()
        scaler.unscale_(optimizer)
        weight.grad = weight.grad * (1 / 8)
        scaler.step(optimizer)
        scaler.update()
        assert weight.item() == 0.5

    def test_static(self, weight, optimizer):
        scaler = fs.GradScaler(init_scale=1024.0, growth_interval=1, dynamic=False)
        for gradient in (1.0, np.inf):
            weight.grad = fs.Tensor(np.float32([gradient]))
            assert scaler.step(optimizer) is bool(np.isfinite(gradient))
            scaler.update()
            assert scaler.get_scale() == 1024.0

    def test_disabled(self, weight, optimizer):
        scaler = fs.GradScaler(enabled=False)
        loss = weight * 2
        assert scaler.scale(loss) is loss
        assert scaler.get_scale() == 1.0
        loss.backward()
        scaler.unscale_(optimizer)
        assert scaler.step(optimizer) is True
        scaler.update()
        assert weight.item() == 0.0
        assert scaler.state_dict() == {}
        scaler.load_state_dict({})
        assert not scaler.is_enabled()

    def test_each_optimiser_decides_alone_and_the_scale_is_shared(self, weight, optimizer):
        other_weight = fs.Tensor(np.float32([1.0]), requires_grad=True)
        other = fs.optim.SGD([other_weight], lr=0.5)
        scaler = fs.GradScaler(init_scale=2.0)
        weight.grad = fs.Tensor(np.float32([2.0]))
        other_weight.grad = fs.Tensor(np.float32([np.nan]))
        assert scaler.step(optimizer) is True
        assert scaler.step(other) is False
        scaler.update()
        assert (weight.item(), other_weight.item(), scaler.get_scale()) == (0.5, 1.0, 1.0)

    def test_state_goes_on_where_it_was(self, weight, optimizer):
        scaler = fs.GradScaler(init_scale=4.0, growth_interval=3)
        for _ in range(2):
            weight.grad = fs.Tensor(np.float32([1.0]))
            scaler.step(optimizer)
            scaler.update()
        state = scaler.state_dict()
        assert state == {
            "scale": 4.0,
            "growth_factor": 2.0,
            "backoff_factor": 0.5,
            "growth_interval": 3,
            "_growth_tracker": 2,
        }
        again = fs.GradScaler()
        again.load_state_dict(state)
        weight.grad = fs.Tensor(np.float32([1.0]))
        again.step(optimizer)
        again.update()
        assert again.get_scale() == 8.0
        with pytest.raises(RuntimeError, match="disabled GradScaler"):
            again.load_state_dict({})

    def test_update_can_set_the_scale(self):
        scaler = fs.GradScaler()
        scaler.load_state_dict(scaler.state_dict() | {"_growth_tracker": 7})
        scaler.update(2.0)
        assert scaler.get_scale() == 2.0
        assert scaler.state_dict()["_growth_tracker"] == 7  # as PyTorch's
        with pytest.raises(ValueError, match="new_scale=0"):
            scaler.update(0)

    def test_unscale_then_update_without_a_step_is_allowed(self, weight, optimizer):
        scaler = fs.GradScaler(init_scale=4.0, growth_interval=1)
        weight.grad = fs.Tensor(np.float32([1.0]))
        scaler.unscale_(optimizer)
        scaler.update()
        assert scaler.get_scale() == 8.0


class TestOutOfOrder:
    @pytest.fixture
    def scaler(self, weight):
        weight.grad = fs.Tensor(np.float32([1.0]))
        return fs.GradScaler()

    def test_step_twice(self, scaler, optimizer, weight):
        scaler.step(optimizer)
        before = weight.item()
        with pytest.raises(RuntimeError, match=r"step\(\) was already called"):
            scaler.step(optimizer)
        assert weight.item() == before

    def test_unscale_twice(self, scaler, optimizer, weight):
        scaler.unscale_(optimizer)
        before = weight.grad.item()
        with pytest.raises(RuntimeError, match=r"unscale_\(\) was already called"):
            scaler.unscale_(optimizer)
        assert weight.grad.item() == before

    def test_unscale_after_step(self, scaler, optimizer):
        scaler.step(optimizer)
        with pytest.raises(RuntimeError, match="must come before step"):
            scaler.unscale_(optimizer)

    def test_update_without_a_step(self, scaler):
        with pytest.raises(RuntimeError, match=r"without a step\(\)"):
            scaler.update()

    def test_update_twice(self, scaler, optimizer):
        scaler.step(optimizer)
        scaler.update()
        with pytest.raises(RuntimeError, match=r"without a step\(\)"):
            scaler.update()

    def test_step_without_gradients(self, scaler, optimizer, weight):
        weight.grad = None
        with pytest.raises(RuntimeError, match="no gradients"):
            scaler.step(optimizer)

    def test_fp16_gradients(self):
        low = fs.Tensor(np.float16([1.0]), requires_grad=True)
        low.grad = fs.Tensor(np.float16([1.0]))
        with pytest.raises(ValueError, match=r"params\[0\] has an fp16 gradient"):
            fs.GradScaler().step(fs.optim.SGD([low], lr=0.1))

    def test_scale_wants_a_tensor(self, scaler):
        with pytest.raises(TypeError, match="loss must be a Tensor, got float"):
            scaler.scale(1.0)

    def test_after_the_mistake_is_mended_it_goes_on(self, scaler, optimizer, weight):
        weight.grad = None
        with pytest.raises(RuntimeError, match="no gradients"):
            scaler.step(optimizer)
        scaler.scale(weight * 1).backward()
        assert scaler.step(optimizer)
        scaler.update()

    @pytest.mark.parametrize("scale", [0.0, -2.0, float("inf"), float("nan"), 1e39, 1e-50])
    def test_bad_initial_scale(self, scale):
        with pytest.raises(ValueError, match="init_scale="):
            fs.GradScaler(init_scale=scale)

    @pytest.mark.parametrize("scale", ["65536", None, True])
    def test_initial_scale_that_is_no_number(self, scale):
        with pytest.raises(TypeError, match="init_scale must be a number"):
            fs.GradScaler(init_scale=scale)

    def test_optimizers_are_checked(self, scaler):
        for method in (scaler.step, scaler.unscale_):
            with pytest.raises(TypeError, match="optimizer must be one of"):
                method(None)

    @pytest.mark.parametrize("state", [None, {"foo": 1}, {"scale": 1.0}])
    def test_foreign_states_are_refused(self, scaler, state):
        with pytest.raises(ValueError, match="state must have just the entries _growth_tracker"):
            scaler.load_state_dict(state)

    def test_states_with_bad_values_are_refused(self, scaler):
        with pytest.raises(TypeError, match="streak must be an integer"):
            scaler.load_state_dict(scaler.state_dict() | {"_growth_tracker": "x"})
        assert scaler.get_scale() == 2.0**16
