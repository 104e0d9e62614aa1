"""What observers are told, and the counts, against a brute-force recount."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fp16sim as fs
from fp16sim import events
from fp16sim.counts import FATES, LOWEST_EXPONENT, Counts
from fp16sim.rounding import store

F = fs.functional


def recount(before, after, fmt):
    """One value at a time, as the definitions say."""
    counts = dict.fromkeys(FATES, 0)
    for b, a in zip(before.ravel().tolist(), after.ravel().tolist(), strict=True):
        if not np.isfinite(b):
            counts["nonfinite"] += 1
        elif b == 0:
            counts["zero"] += 1
        elif not np.isfinite(a):
            counts["overflowed"] += 1
        elif abs(b) > fmt.max + 2.0 ** (fmt.emax - fmt.precision):
            counts["saturated"] += 1
        elif a == 0:
            counts["flushed"] += 1
        elif abs(a) < fmt.smallest_normal:
            counts["subnormal"] += 1
        else:
            counts["normal"] += 1
    return counts


@given(
    st.lists(st.floats(width=32), max_size=40),
    st.sampled_from([fs.FP16, fs.BF16, fs.E4M3, fs.E5M2, fs.FP32, fs.FP64, fs.E2M1, fs.E3M2]),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
    st.booleans(),
)
def test_counts_against_a_recount(values, fmt, dtype, saturate, subnormals):
    before = np.array(values, dtype)
    saturate = saturate and fmt is not fs.FP64  # whose largest number float32 cannot hold
    after = np.asarray(fs.round_to(before, fmt, saturate=saturate, subnormals=subnormals))
    counts = Counts()
    counts.add(before, after, fmt)
    record = counts.to_dict()
    exponents = record.pop("exponents")
    assert record == {"total": len(values)} | recount(before, after, fmt)
    finite = before[np.isfinite(before) & (before != 0)]
    expected = {}
    for e in (np.frexp(finite)[1] - 1).tolist():
        expected[e] = expected.get(e, 0) + 1
    assert exponents == expected


def test_an_exact_zero_is_not_flushed():
    counts = Counts()
    before = np.float32([0.0, -0.0, 1e-9, 1.0])
    counts.add(before, fs.round_to(before, "fp16"), fs.FP16)
    assert (counts.zero, counts.flushed, counts.normal) == (2, 1, 1)
    assert counts.exponents[-30 - LOWEST_EXPONENT] == 1


def test_nothing_counted_has_no_shares():
    assert np.isnan(Counts().share("flushed"))


def test_infinities_that_become_numbers_are_neither_overflow_nor_normal():
    x = np.float32([np.inf, 1e30, 1, np.nan])
    counts = Counts()
    counts.add(x, fs.round_to(x, "fp16", saturate=True), fs.FP16)
    assert (counts.nonfinite, counts.saturated, counts.overflowed, counts.normal) == (2, 1, 0, 1)


def test_what_rounds_down_to_the_largest_number_is_normal():
    x = np.float32([65510, -65519])
    counts = Counts()
    counts.add(x, fs.round_to(x, "fp16"), fs.FP16)
    assert (counts.normal, counts.saturated) == (2, 0)


def test_shares_are_of_fates_only():
    with pytest.raises(ValueError, match=r"fate='exponents' is not known; allowed are zero, fl"):
        Counts().share("exponents")


def test_merged_counts_add_up(rng):
    x, y = (rng.standard_normal(100).astype(np.float32) * s for s in (1e-7, 1))
    both, first, second = Counts(), Counts(), Counts()
    both.add(np.concatenate([x, y]), fs.round_to(np.concatenate([x, y]), "fp16"), fs.FP16)
    first.add(x, fs.round_to(x, "fp16"), fs.FP16)
    second.add(y, fs.round_to(y, "fp16"), fs.FP16)
    first.merge(second)
    assert first.to_dict() == both.to_dict()


def test_scopes_nest_and_are_left_after_errors():
    with events.scope("a"), events.scope(""), events.scope("b"):
        assert events.current_scope() == "a.b"
    with pytest.raises(KeyError), events.scope("c"):
        raise KeyError
    assert events.current_scope() == ""


def test_round_to_announces_before_and_after():
    seen = []
    with events.observe(seen.append), events.scope("mine"):
        fs.round_to([1e-9, 1.0], "fp16")
    fs.round_to([1e-9, 1.0], "fp16")
    exceptions, event = seen
    assert exceptions._replace(origin=None) == (1, 1, 1, 0, 0, 0, None)
    assert exceptions.origin == event.origin
    assert event.before.tolist() == [1e-9, 1.0]
    assert event.after.tolist() == [0.0, 1.0]
    assert event.origin == ("mine", "round_to", "value")


def test_store_without_origin_is_silent():
    seen = []
    with events.observe(seen.append):
        store(np.float32([0.1]), fs.FP16, None)
    assert not seen


class TestWatch:
    """Roles and layers of everything that a small network stores in one step."""

    @pytest.fixture
    def xray(self, rng):
        model = fs.nn.Sequential(fs.nn.Linear(3, 4, rng=0), fs.nn.Sigmoid())
        x = fs.Tensor(rng.standard_normal((5, 3)).astype(np.float32))
        optimizer = fs.optim.SGD(model.parameters(), lr=0.1)
        with fs.watch(model) as xray:
            with fs.autocast("fp16"):
                loss = F.mse_loss(model(x), fs.Tensor(np.zeros((5, 4), np.float32)))
            loss.backward()
            optimizer.step()
        return xray

    def test_every_stored_gradient_is_counted_once(self, xray):
        def total(scope, role):
            return xray.select(scope=scope, role=role, fmt=fs.FP16).total

        assert total("0", "weight gradient") == 3 * 4 + 4
        assert total("0", "activation gradient") == 5 * 4  # of what Linear stored
        assert total("1", "activation gradient") == 5 * 4  # of what Sigmoid stored
        assert total("", "activation gradient") == 2 * 5 * 4  # the input wants none
        assert total("", "gradient") == 2 * 5 * 4 + 16

    def test_what_only_moves_is_not_counted_again(self, xray):
        """Gradients of fp32 weights were rounded to fp16; going back to fp32 loses nothing more."""
        assert xray.select(role="weight gradient").total == 3 * 4 + 4
        assert xray.select(role="activation gradient").total == 3 * 5 * 4  # one of them the loss's

    def test_moving_values_about_is_not_storing_them(self, rng):
        x = fs.Tensor(rng.standard_normal((2, 3)), requires_grad=True, fmt="fp16")
        with fs.watch(fs.nn.Module()) as xray:
            (-F.relu(x).reshape(6)).to("fp32").backward(np.ones(6, np.float32))
        assert xray.select().total == 6  # the gradient as it becomes fp16; not four times

    def test_casts_of_weights_and_inputs_are_told_apart(self, xray):
        assert xray.select(scope="0", role="weight", fmt=fs.FP16).total == 16
        assert xray.select(scope="0", role="input", fmt=fs.FP16).total == 15
        assert xray.select(scope="0", role="activation", fmt=fs.FP16).total == 20

    def test_updates_are_named(self, xray):
        assert {name: counts.total for name, counts in xray.updates.items()} == {
            "0.weight": 12,
            "0.bias": 4,
        }

    def test_selections_that_cannot_match_are_refused(self, xray):
        with pytest.raises(ValueError, match="role='wieght' is not known; allowed are activation"):
            xray.select(role="wieght")
        with pytest.raises(ValueError, match="fmt='fp17'"):
            xray.select(fmt="fp17")
        assert xray.select(fmt="fp16").total == xray.select(fmt=fs.FP16).total > 0
        with pytest.raises(TypeError, match="model must be a Module, got None"), fs.watch(None):
            pass

    def test_gradients_that_meet_are_counted_as_they_are_added(self):
        x = fs.Tensor(np.float16([1]), requires_grad=True)
        with fs.watch(fs.nn.Module()) as xray:
            (x * x).backward()
        assert [key.op for key in xray.counts if key.role == "weight gradient"] == [
            "multiply",
            "accumulate",
        ]

    def test_a_module_used_in_two_places_is_counted_in_each(self):
        layers = [fs.nn.Linear(2, 2, rng=i) for i in range(2)]
        model = fs.nn.Sequential(layers[0], shared := fs.nn.Sigmoid(), layers[1], shared)
        with fs.watch(model) as xray:
            model(fs.Tensor(np.ones((1, 2), np.float32)))
        assert xray.select(scope="1", role="activation").total == 2
        assert xray.select(scope="3", role="activation").total == 2

    def test_an_alias_does_not_rename(self):
        model = fs.nn.Sequential(fs.nn.Linear(2, 2, rng=0))
        model.alias = model[0]
        with fs.watch(model) as xray:
            model.alias(fs.Tensor(np.ones((1, 2), np.float32)))
        assert {key.scope for key in xray.counts} == {"0"}

    def test_updates_of_masters_are_those_of_the_master(self):
        model = fs.nn.Linear(1, 1, bias=False, rng=0).to("fp16")
        model.weight.data[:] = 1.0
        optimizer = fs.optim.SGD(model.parameters(), lr=1.0, master_weights=True)
        model.weight.grad = fs.Tensor(np.float16([[2.0**-13]]))
        with fs.watch(model) as xray:
            optimizer.step()
        assert xray.all_updates().swamped == 0  # the fp16 weight is as it was, its master is not
        assert xray.select(role="weight", fmt="fp16").total == 1  # stored anew

    def test_watching_ends_with_an_error(self):
        with pytest.raises(KeyError), fs.watch(fs.nn.Module()) as xray:
            raise KeyError
        fs.round_to(0.1, "fp16")
        assert xray.select().total == 0

    def test_a_scope_is_a_path_not_a_prefix(self):
        model = fs.nn.Sequential(*(fs.nn.Linear(2, 2, rng=i) for i in range(11)))
        with fs.watch(model) as xray:
            model(fs.Tensor(np.ones((1, 2), np.float32)))
        assert xray.select(scope="1", role="activation").total == 2  # not "10"

    def test_swamped_updates(self):
        model = fs.nn.Linear(1, 3, bias=False, rng=0)
        model.weight.data[:] = 1.0
        model.to("fp16")
        model.weight.grad = fs.Tensor(np.float32([[1.0], [1e-4], [0.0]]), fmt="fp16")
        with fs.watch(model) as xray:
            fs.optim.SGD(model.parameters(), lr=1.0).step()
        counts = xray.all_updates()
        assert (counts.total, counts.zero, counts.swamped) == (3, 1, 1)
        assert counts.unchanged_share == 2 / 3
