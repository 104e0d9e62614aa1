"""Loss scaling: rules as functions, GradScaler's order of calls, what users asked PyTorch for."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fp16sim as fs
from fp16sim import events
from fp16sim.scaling import SCALERS, GradScaler, LossScale, StepStatus, next_scale, trace


def walk(state, pattern):
    """Scales after each step; '.' is a finite step, 'x' one with an overflow."""
    return trace(state, (step == "." for step in pattern))


def used(scaler):
    """The scaler after its first scale()."""
    scaler.scale(fs.Tensor(np.float32(1.0)))
    return scaler


def give(parameter, *values):
    """A gradient that is scaled already."""
    parameter.grad = fs.Tensor(np.float32(values))


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

    def test_min_scale_ends_the_fall(self):
        assert walk(LossScale(scale=8.0, min_scale=3.0), "xxx") == [4, 3, 3]

    def test_max_scale_ends_the_growth(self):
        state = LossScale(scale=8.0, growth_interval=1, max_scale=24.0)
        assert walk(state, "...x") == [16, 24, 24, 12]

    def test_max_scale_beats_fp32s(self):
        state = LossScale(scale=2.0**127, growth_interval=1, max_scale=1.5 * 2.0**127)
        assert walk(state, ".") == [1.5 * 2.0**127]

    def test_hysteresis_bears_overflows_until_the_scale_has_grown(self):
        state = LossScale(scale=8.0, growth_interval=2, hysteresis=2)
        #            borne   backs off    again   grows    borne again
        assert walk(state, "x" + ".x" + "x" + ".." + "x" + "x") == [8, 8, 4, 2, 2, 4, 4, 2]

    def test_an_overflow_that_is_borne_ends_the_streak(self):
        state = LossScale(scale=8.0, growth_interval=2, hysteresis=2)
        assert walk(state, ".x..") == [8, 8, 8, 16]

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
            ({"min_scale": 0.0}, "min_scale=0.0 is not allowed"),
            ({"min_scale": 8.0, "max_scale": 4.0}, "max_scale=4.0 is not allowed; .*>= 8"),
            ({"max_scale": float("inf")}, "max_scale=inf"),
            ({"hysteresis": 0}, "hysteresis=0"),
            ({"hysteresis": 2, "borne": 2}, "borne=2 is not allowed; it must be from 0 to 1"),
            ({"dynamic": 1}, "dynamic must be True or False"),
        ],
    )
    def test_bad_settings(self, settings, message):
        with pytest.raises((ValueError, TypeError), match=message):
            LossScale(**settings)


def torchs_rule(finite, interval):
    scale, streak = 2.0**16, 0
    for good in finite:
        streak = streak + 1 if good else 0
        scale = scale if good else scale / 2
        if good and streak == interval:
            scale, streak = scale * 2, 0
        yield scale


def apexs(finite, interval):
    scale, unskipped = 2.0**16, 0
    for good in finite:
        if good:
            unskipped += 1
        else:
            scale, unskipped = scale / 2, 0
        if unskipped == interval:
            scale, unskipped = min(2.0**24, scale * 2), 0
        yield scale


def kerass(finite, interval):
    scale, counter = 2.0**15, 0
    for good in finite:
        if not good:
            scale, counter = scale * 0.5, 0
        elif counter == interval - 1:
            scale, counter = scale * 2, 0
        else:
            counter += 1
        yield scale


def tf_kerass(finite, interval):
    scale, counter = 2.0**15, 0
    for good in finite:
        if not good:
            scale, counter = max(scale / 2, 1.0), 0
        elif counter + 1 >= interval:
            scale, counter = scale * 2, 0
        else:
            counter += 1
        yield scale


def jmps(finite, interval):
    scale, counter = 2.0**15, 0
    for good in finite:
        if not good:
            scale = max(1.0, scale / 2)
        elif counter == interval - 1:
            scale = scale * 2
        counter = (counter + 1) % interval * good
        yield scale


def megatrons(finite, interval):
    scale, grow, hysteresis = 2.0**32, 0, 2
    for good in finite:
        if good:
            grow += 1
            if grow == interval:
                grow, hysteresis, scale = 0, 2, scale * 2
        else:
            grow, hysteresis = 0, hysteresis - 1
            if hysteresis <= 0:
                scale = max(scale / 2, 1.0)
        yield scale


def fairseqs(finite, interval):
    scale, last_overflow = 2.0**15, -1
    for step, good in enumerate(finite):
        if good and (step - last_overflow) % interval == 0:
            scale *= 2
        if not good:
            last_overflow = step
            # Training ends at 1e-4, with the scale before; here it goes on.
            scale = scale / 2 if scale / 2 > 1e-4 else scale
        yield scale


PUBLISHED = {
    "torch": (torchs_rule, 2000),
    "apex": (apexs, 2000),
    "keras": (kerass, 2000),
    "tf.keras": (tf_kerass, 2000),
    "jmp": (jmps, 2000),
    "megatron": (megatrons, 1000),
    "fairseq": (fairseqs, 2000),
}


class TestPublishedRules:
    """Each is written out above as its library has it; jmp's and Keras's loops were compared once
    with jmp 0.0.4 and Keras 3.15.1.
    """

    def test_all_are_here(self):
        assert PUBLISHED.keys() == SCALERS.keys()

    @given(
        st.sampled_from(sorted(PUBLISHED)), st.lists(st.booleans(), max_size=80), st.integers(1, 5)
    )
    def test_traces(self, name, finite, interval):
        rule = replace(SCALERS[name], growth_interval=interval)
        assert trace(rule, finite) == list(PUBLISHED[name][0](finite, interval))

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_with_their_own_interval_from_floor_to_ceiling(self, name):
        rule, interval = PUBLISHED[name]
        finite = [False] * 50 + [True] * (40 * interval) + [False, True, False]
        scales = trace(SCALERS[name], finite)
        assert scales == list(rule(finite, interval))
        assert len(set(scales)) > 20

    def test_trace_wants_a_rule(self):
        with pytest.raises(
            TypeError, match=r"rule must be a LossScale, as SCALERS\['torch'\], got"
        ):
            trace("torch", [True])

    def test_presets_follow_them(self, weight, optimizer):
        scaler = used(fs.GradScaler.preset("megatron"))
        for gradient, scale in ((math.inf, 2.0**32), (1.0, 2.0**32), (math.nan, 2.0**31)):
            give(weight, gradient)
            scaler.step(optimizer)
            scaler.update()
            assert scaler.get_scale() == scale

    def test_presets_of_your_own(self):
        assert fs.GradScaler.preset(LossScale(scale=0.1)).get_scale() == float(np.float32(0.1))
        assert not fs.GradScaler.preset("jmp", enabled=False).is_enabled()

    def test_unknown_presets(self):
        with pytest.raises(ValueError, match="rule='flax' is not known; allowed are torch, apex"):
            fs.GradScaler.preset("flax")
        with pytest.raises(TypeError, match="rule must be a name"):
            fs.GradScaler.preset(3)


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
        assert scaler.step(optimizer)
        scaler.update()
        assert weight.item() == 0.0
        assert weight.grad.item() == 2.0

    def test_an_overflow_skips_the_step_and_backs_off(self, weight, optimizer):
        scaler = fs.GradScaler(init_scale=2.0**10)
        scaler.scale(weight.to("fp16") * 100).backward()  # 102400 > 65504
        assert not scaler.step(optimizer)
        scaler.update()
        assert weight.item() == 1.0
        assert scaler.get_scale() == 2.0**9

    def test_an_fp16_loss_is_scaled_in_fp32(self):
        loss = fs.Tensor(np.float16(2.0), requires_grad=True)
        scaled = fs.GradScaler().scale(loss)
        assert scaled.fmt is fs.FP32
        assert scaled.item() == 2.0**17

    def test_unscaling_is_done_in_fp32(self, weight, optimizer):
        give(weight, 2.0**-10)
        used(fs.GradScaler(init_scale=2.0**16)).unscale_(optimizer)
        assert weight.grad.item() == 2.0**-26

    def test_an_fp16_loss_has_an_fp16_gradient_all_the_same(self):
        loss = fs.Tensor(np.float16(2.0), requires_grad=True)
        fs.GradScaler().scale(loss).backward()
        assert loss.grad.item() == np.inf  # 2^16

    def test_unscaling_by_a_scale_that_is_no_power_of_two(self, weight, optimizer):
        give(weight, 5.0)
        used(fs.GradScaler(init_scale=3.0)).unscale_(optimizer)
        assert weight.grad.item() == float(np.float32(5) * np.float32(1 / 3))

    def test_bf16_gradients_can_be_unscaled(self):
        low = fs.Tensor([1.0], requires_grad=True, fmt="bf16")
        low.grad = fs.Tensor([2.0], fmt="bf16")
        used(fs.GradScaler(init_scale=2.0)).step(fs.optim.SGD([low], lr=0.5))
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
        scaler = used(fs.GradScaler(init_scale=1024.0, growth_interval=1, dynamic=False))
        for gradient in (1.0, np.inf):
            give(weight, gradient)
            assert bool(scaler.step(optimizer)) == math.isfinite(gradient)
            scaler.update()
            assert scaler.get_scale() == 1024.0

    def test_disabled(self, weight, optimizer):
        scaler = fs.GradScaler(enabled=False)
        loss = weight * 2
        assert scaler.scale(loss) is loss
        assert scaler.get_scale() == 1.0
        loss.backward()
        scaler.unscale_(optimizer)
        assert scaler.step(optimizer)
        scaler.update()
        assert weight.item() == 0.0
        assert scaler.state_dict() == {}
        scaler.load_state_dict({})
        assert not scaler.is_enabled()

    def test_each_optimiser_decides_alone_and_the_scale_is_shared(self, weight, optimizer):
        other_weight = fs.Tensor(np.float32([1.0]), requires_grad=True)
        other = fs.optim.SGD([other_weight], lr=0.5)
        scaler = used(fs.GradScaler(init_scale=2.0))
        give(weight, 2.0)
        give(other_weight, np.nan)
        assert scaler.step(optimizer)
        assert not scaler.step(other)
        scaler.update()
        assert (weight.item(), other_weight.item(), scaler.get_scale()) == (0.5, 1.0, 1.0)

    def test_state_goes_on_where_it_was(self, weight, optimizer):
        scaler = used(fs.GradScaler(init_scale=4.0, growth_interval=3))
        for _ in range(2):
            give(weight, 1.0)
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
        again = used(fs.GradScaler())
        again.load_state_dict(state)
        give(weight, 1.0)
        again.step(optimizer)
        again.update()
        assert again.get_scale() == 8.0
        with pytest.raises(RuntimeError, match="disabled GradScaler"):
            again.load_state_dict({})

    def test_update_can_set_the_scale(self):
        scaler = used(fs.GradScaler())
        scaler.load_state_dict(scaler.state_dict() | {"_growth_tracker": 7})
        scaler.update(2.0)
        assert scaler.get_scale() == 2.0
        assert scaler.state_dict()["_growth_tracker"] == 7  # as PyTorch's
        with pytest.raises(ValueError, match="new_scale=0"):
            scaler.update(0)

    def test_unscale_then_update_without_a_step_is_allowed(self, weight, optimizer):
        scaler = used(fs.GradScaler(init_scale=4.0, growth_interval=1))
        give(weight, 1.0)
        scaler.unscale_(optimizer)
        scaler.update()
        assert scaler.get_scale() == 8.0


class TestOutOfOrder:
    @pytest.fixture
    def scaler(self, weight):
        give(weight, 1.0)
        return used(fs.GradScaler())

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

    def test_before_any_scale(self, optimizer, weight):
        give(weight, 1.0)
        scaler = fs.GradScaler()
        for call in (
            lambda: scaler.unscale_(optimizer),
            lambda: scaler.step(optimizer),
            scaler.update,
            lambda: scaler.update(2.0),
        ):
            with pytest.raises(RuntimeError, match=r"\(\) before any scale\(\)"):
                call()
        assert (weight.item(), weight.grad.item()) == (1.0, 1.0)

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
            used(fs.GradScaler()).step(fs.optim.SGD([low], lr=0.1))

    def test_scale_wants_a_tensor(self, scaler):
        for outputs, kind in (
            (1.0, "float"),
            ("a", "str"),
            ([1.0], "float"),
            (np.ones(2), "ndarray"),
        ):
            with pytest.raises(TypeError, match=f"iterable of Tensors, got {kind}"):
                scaler.scale(outputs)

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

    @pytest.mark.parametrize("state", [{"foo": 1}, {"scale": 1.0}])
    def test_foreign_states_are_refused(self, scaler, state):
        with pytest.raises(ValueError, match="state must have just the entries _growth_tracker"):
            scaler.load_state_dict(state)

    def test_states_with_bad_values_are_refused(self, scaler):
        with pytest.raises(TypeError, match="streak must be an integer"):
            scaler.load_state_dict(scaler.state_dict() | {"_growth_tracker": "x"})
        assert scaler.get_scale() == 2.0**16


class TestScaling:
    """What scale() takes, and what it gives."""

    def test_kinds(self):
        scaler = fs.GradScaler(init_scale=4.0)
        one, two = (fs.Tensor(np.float32(value)) for value in (1.0, 2.0))
        listed = scaler.scale([one, (two, [one])])
        assert type(listed) is list
        assert type(listed[1]) is tuple
        assert [listed[0].item(), listed[1][0].item(), listed[1][1][0].item()] == [4, 8, 4]
        assert [x.item() for x in scaler.scale(x for x in (one, two))] == [4, 8]

    def test_a_disabled_scaler_gives_back_whatever_it_gets(self):
        outputs = [1.0, "a"]
        assert fs.NoScaler().scale(outputs) is outputs

    def test_gradients_of_several_losses_add_up(self, weight):
        first, second = fs.GradScaler(init_scale=4.0).scale([weight * 2, weight * 3])
        first.backward()
        second.backward()
        assert weight.grad.item() == 20

    def test_an_fp16_loss_with_axes_stays_fp16(self):
        loss = fs.Tensor(np.float16([0.25, 2.0]))
        scaled = fs.GradScaler().scale(loss)
        assert scaled.fmt is fs.FP16
        assert list(scaled.data) == [2.0**14, np.inf]


class TestSettingsOfOneClass:
    def test_static(self, weight, optimizer):
        scaler = used(fs.StaticScaler(8.0))
        for gradient in (math.inf, 8.0):
            give(weight, gradient)
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 8.0
        assert weight.item() == 0.5
        with pytest.raises(ValueError, match="init_scale=0"):
            fs.StaticScaler(0)

    def test_none(self, weight, optimizer):
        scaler = fs.NoScaler()
        give(weight, math.inf)
        assert scaler.step(optimizer)
        scaler.update()
        assert weight.item() == -math.inf
        assert scaler.get_scale() == 1.0

    def test_limits(self, weight, optimizer):
        scaler = used(fs.GradScaler(4.0, growth_interval=1, min_scale=2.0, max_scale=6.0))
        scales = []
        for gradient in (math.inf, math.inf, 1.0, 1.0, 1.0):
            give(weight, gradient)
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
        assert scales == [2, 2, 4, 6, 6]

    @pytest.mark.parametrize("scale", [1.0, 16.0])
    def test_scales_beyond_the_limits(self, scale):
        limits = {"min_scale": 2.0, "max_scale": 8.0}
        with pytest.raises(ValueError, match=rf"init_scale={scale} .*>= 2 and <= 8"):
            fs.GradScaler(scale, **limits)
        with pytest.raises(ValueError, match=rf"new_scale={scale} "):
            used(fs.GradScaler(4.0, **limits)).update(scale)

    def test_getters_and_setters(self):
        scaler = fs.GradScaler()
        scaler.set_growth_factor(3.0)
        scaler.set_backoff_factor(0.25)
        scaler.set_growth_interval(7)
        seen = scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval()
        assert seen == (3.0, 0.25, 7)
        with pytest.raises(ValueError, match="growth_factor=1"):
            scaler.set_growth_factor(1)

    def test_update_takes_a_tensor(self):
        scaler = used(fs.GradScaler())
        for new in (fs.Tensor(np.float32(3.0)), fs.Tensor([3.0]), np.float32(3.0), 3):
            scaler.update(8.0)
            scaler.update(new)
            assert scaler.get_scale() == 3.0
        with pytest.raises(ValueError, match=r"new_scale has shape \(2,\)"):
            scaler.update(fs.Tensor([1.0, 2.0]))
        with pytest.raises(ValueError, match="requires no gradient"):
            scaler.update(fs.Tensor(1.0, requires_grad=True))
        with pytest.raises(TypeError, match="new_scale must be a number"):
            scaler.update("2")


class TestStatus:
    def test_says_what_was_not_finite(self):
        params = [fs.Tensor(np.zeros(3, np.float32), requires_grad=True) for _ in range(4)]
        optimizer, scaler = fs.optim.SGD(params, lr=1.0), used(fs.GradScaler(init_scale=2.0))
        give(params[0], 1.0, 2.0, 3.0)
        give(params[1], math.inf, math.nan, 0.0)
        give(params[3], 0.0, -math.inf, 0.0)  # params[2] has none
        status = scaler.step(optimizer)
        assert not status
        assert not status.stepped
        assert status == StepStatus({1: 2, 3: 1})
        assert str(status) == "skipped: gradients were not finite, 2 of params[1], 1 of params[3]"
        scaler.update()
        give(params[1], 0.0, 0.0, 0.0)
        give(params[3], 0.0, 0.0, 0.0)
        status = scaler.step(optimizer)
        assert status
        assert (status.stepped, dict(status.nonfinite), str(status)) == (True, {}, "stepped")

    def test_of_gradients_unscaled_before(self, weight, optimizer):
        scaler = used(fs.GradScaler())
        give(weight, math.nan)
        scaler.unscale_(optimizer)
        give(weight, 1.0)  # too late: PyTorch has looked already, too
        assert scaler.step(optimizer).nonfinite == {0: 1}


class TestFallingScale:
    def fall(self, scaler, weight, optimizer, steps):
        for _ in range(steps):
            used(scaler)
            give(weight, math.nan)
            scaler.step(optimizer)
            scaler.update()

    def test_one_warning_below_1(self, weight, optimizer):
        scaler = fs.GradScaler(init_scale=4.0)
        self.fall(scaler, weight, optimizer, 2)  # to 1
        with pytest.warns(UserWarning, match=r"fallen to 0\.5: .*fs\.watch\(model\)") as seen:
            self.fall(scaler, weight, optimizer, 3)
        assert len(seen) == 1
        assert seen[0].filename == __file__

    def test_none_for_a_scale_that_was_set(self):
        scaler = used(fs.GradScaler(init_scale=4.0))
        scaler.update(0.25)  # warnings are errors

    def test_none_with_a_floor(self, weight, optimizer):
        self.fall(fs.GradScaler(2.0, min_scale=1.0), weight, optimizer, 3)

    def test_an_error_where_unscaling_would_destroy_the_weights(self, weight, optimizer):
        scaler = fs.GradScaler(init_scale=2.0**-126)
        with pytest.warns(UserWarning, match="fallen to"):
            self.fall(scaler, weight, optimizer, 2)
        with pytest.raises(RuntimeError, match=r"fallen to 2\.9.*e-39, and 1/scale is infinite"):
            scaler.scale(weight * 1)
        give(weight, 1.0)
        for method in (scaler.unscale_, scaler.step):
            with pytest.raises(RuntimeError, match="1/scale is infinite in fp32"):
                method(optimizer)
        assert (weight.item(), weight.grad.item()) == (1.0, 1.0)
        scaler.update(2.0**10)
        assert used(scaler).step(optimizer)

    def test_zero(self, weight, optimizer):
        scaler = fs.GradScaler()
        scaler.load_state_dict(scaler.state_dict() | {"scale": 0.0})
        with pytest.raises(RuntimeError, match="fallen to 0, and"):
            scaler.scale(weight * 1)

    def test_infinity_cannot_be_loaded(self):
        scaler = fs.GradScaler()
        with pytest.raises(ValueError, match="scale=inf"):
            scaler.load_state_dict(scaler.state_dict() | {"scale": math.inf})


class TestState:
    OWN = ("min_scale", "max_scale", "hysteresis", "dynamic", "borne")

    def test_what_pytorch_lacks_is_saved_where_it_is_used(self, weight, optimizer):
        settings = {"min_scale": 1.0, "max_scale": 64.0, "hysteresis": 3}
        scaler = used(fs.GradScaler(8.0, **settings))
        give(weight, math.inf)
        scaler.step(optimizer)
        scaler.update()
        state = scaler.state_dict()
        assert {name: state[name] for name in self.OWN if name in state} == settings | {"borne": 1}
        again = fs.GradScaler()
        again.load_state_dict(state)
        assert again.state_dict() == state

    def test_pytorchs_five_entries_are_enough(self, weight, optimizer):
        scaler = used(fs.GradScaler(8.0, min_scale=1.0, hysteresis=2))
        give(weight, math.inf)
        scaler.step(optimizer)
        scaler.update()
        scaler.load_state_dict(fs.GradScaler(2.0).state_dict())
        # Settings that it does not know stay, and no overflow has been borne.
        assert scaler.state_dict() == fs.GradScaler(2.0, min_scale=1.0, hysteresis=2).state_dict()

    def test_a_static_scaler_stays_static(self):
        again = fs.GradScaler()
        again.load_state_dict(fs.StaticScaler(8.0).state_dict())
        assert again.state_dict() == fs.StaticScaler(8.0).state_dict()


class TestEvents:
    def seen(self, what):
        heard = []
        scaling = (events.Scaled, events.Unscaled, events.Stepped, events.Rescaled)
        with events.observe(lambda e: heard.append(e) if isinstance(e, scaling) else None):
            what()
        return heard

    @pytest.mark.parametrize("finite", [True, False])
    def test_of_a_step(self, weight, optimizer, finite):
        scaler = fs.GradScaler(init_scale=2.0, growth_interval=1)

        def step():
            scaler.scale([weight * 1, weight * 1])
            give(weight, 1.0 if finite else math.nan)
            scaler.step(optimizer)
            scaler.update()

        assert self.seen(step) == [
            events.Scaled(2.0),
            events.Unscaled(optimizer, 2.0, finite),
            events.Stepped(optimizer, taken=finite),
            events.Rescaled(2.0, 4.0 if finite else 1.0, finite),
        ]

    def test_of_a_scale_that_is_set(self):
        scaler = used(fs.GradScaler(init_scale=2.0))
        assert self.seen(lambda: scaler.update(8.0)) == [events.Rescaled(2.0, 8.0, True)]

    def test_of_a_disabled_scaler(self, weight, optimizer):
        scaler = fs.NoScaler()

        def step():
            scaler.scale(weight)
            scaler.step(optimizer)
            scaler.update()

        assert self.seen(step) == [events.Stepped(optimizer, taken=True)]


class TestLoadedStates:
    def test_limits_hold(self):
        state = GradScaler(init_scale=0.25).state_dict()
        with pytest.raises(ValueError, match=r"state does not fit: scale=0.25 .* >= 1"):
            GradScaler(min_scale=1.0).load_state_dict(state)
        state = GradScaler(init_scale=2.0**24).state_dict()
        with pytest.raises(ValueError, match=r"<= 1\.04858e"):
            GradScaler(max_scale=2.0**20).load_state_dict(state)

    def test_numbers_become_pythons_and_fp32(self):
        scaler = GradScaler()
        state = scaler.state_dict() | {"scale": np.float64(0.1), "_growth_tracker": np.int64(3)}
        scaler.load_state_dict(state)
        assert scaler.get_scale() == np.float32(0.1)
        assert json.loads(json.dumps(scaler.state_dict()))["_growth_tracker"] == 3
        scaler = GradScaler(growth_interval=1)
        scaler.load_state_dict(scaler.state_dict() | {"scale": np.float32(2.0**127)})
        assert type(scaler._state.scale) is float

    @pytest.mark.parametrize("state", [None, 3, [("scale", 1.0)]])
    def test_no_state(self, state):
        with pytest.raises(TypeError, match="state must be a dict"):
            GradScaler().load_state_dict(state)

    def test_switches_are_switches(self):
        with pytest.raises(TypeError, match="enabled must be True or False, got 'no'"):
            GradScaler(enabled="no")
