"""Memory accounts against bytes counted by hand, by brute force, and as they are allocated."""

import gc
import json
import tracemalloc

import numpy as np
import pytest

import fp16sim as fs
from fp16sim.autograd import tape
from fp16sim.autograd.primitive import PRIMITIVES
from fp16sim.backend import peak_memory
from fp16sim.models import TASKS
from fp16sim.xray import MemoryPolicy, memory_table
from fp16sim.xray.budget import size_text
from fp16sim.xray.holdings import account, native_bytes
from fp16sim.xray.memory import OPTIMIZERS, POLICIES

F, nn = fs.functional, fs.nn


class MLP(nn.Module):
    """Two layers, 3 to 4 to 2: 12 + 8 weights, 4 + 2 biases."""

    def __init__(self):
        self.first, self.second = nn.Linear(3, 4, rng=0), nn.Linear(4, 2, rng=1)

    def forward(self, x):
        return self.second(F.relu(self.first(x)))

    def loss(self, x, labels):
        return F.cross_entropy(self(fs.Tensor(x)), labels)


def batch_of(count, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 3)).astype(np.float32), random.integers(0, 2, count)


# Of 6 samples: the input is 18 values, the ReLU's output 24, log-probabilities 12, targets 6 of
# int64 and 6 factors of fp32. The first layer's output and the logits are read by nobody.
LOSS = 12 * 4 + 6 * 8 + 6 * 4
BY_HAND = {
    # policy: weights, masters, casts, gradients, activations
    "fp32": (26 * 4, 0, 0, 26 * 4, (18 + 24) * 4 + LOSS),
    "amp": (26 * 4, 0, 20 * 2, 26 * 4, (18 + 24) * 2 + LOSS),
    "O2": (26 * 2, 26 * 4, 0, 26 * 2, (18 + 24) * 2 + LOSS),
    "O3": (26 * 2, 0, 0, 26 * 2, (18 + 24) * 2 + LOSS),
    "amp_bf16": (26 * 4, 0, 20 * 2, 26 * 4, (18 + 24) * 2 + LOSS),
    # ReLU keeps bf16, the layers fp8, and an fp32 scale for each array
    "fp8": (26 * 4, 0, 20 + 2 * 4, 26 * 4, 24 * 2 + (18 + 24) + 2 * 4 + LOSS),
}


class TestByHand:
    def test_all_policies_are_here(self):
        assert BY_HAND.keys() == POLICIES.keys()

    @pytest.mark.parametrize("policy", BY_HAND)
    def test_two_layers_to_the_byte(self, policy):
        report = fs.memory_report(MLP(), batch_of(6), policy)
        weights, masters, casts, gradients, activations = BY_HAND[policy]
        assert report.weights == weights
        assert report.masters == masters
        assert report.casts == casts
        assert report.gradients == gradients
        assert report.activations == activations
        assert report.states == 2 * 26 * 4  # Adam's, fp32 in all
        assert report.buffers == 0
        assert report.at_rest == weights + masters + 2 * 26 * 4
        for totals in (report.by_format, report.by_kind, report.by_module):
            assert sum(totals.values()) == activations + casts
            assert list(totals.values()) == sorted(totals.values(), reverse=True)

    def test_blocks_that_share_a_scale(self):
        """12 + 8 weights and 18 + 24 values make a block each, with a scale of one byte."""
        region = fs.autocast("bf16", recipe=fs.recipes.MXFP8())
        report = fs.memory_report(MLP(), batch_of(6), region)
        assert report.by_format["mxfp8_e4m3"] == (12 + 8 + 18 + 24) + 4
        assert report.casts == 12 + 8 + 2
        large = fs.memory_report(MLP(), batch_of(60), region)
        assert large.by_format["mxfp8_e4m3"] == (180 + 6) + (240 + 8) + (12 + 1) + (8 + 1)

    def test_scales_of_a_recipe_are_left_alone(self):
        recipe = fs.recipes.DelayedScaling(amax_history_len=2)
        region = fs.autocast("bf16", recipe=recipe)
        with region:
            MLP().loss(*batch_of(6))
        before = str(recipe.state_dict())
        report = fs.memory_report(MLP(), batch_of(60, seed=1), region, measure=True)
        assert report.by_format["e4m3"] == 180 + 240 + 20 + 4 * 4
        assert str(recipe.state_dict()) == before

    def test_parts_of_what_is_held(self):
        report = fs.memory_report(MLP(), batch_of(6), "amp")
        assert report.by_format == {"fp16": 18 * 2 + 24 * 2 + 40, "fp32": 72, "int64": 48}
        assert report.by_kind == {"inside": LOSS, "activation": 48, "weight": 40, "input": 36}
        assert report.by_module == {"": LOSS + 48, "first": 36 + 24, "second": 16}

    def test_peak_in_fp32(self):
        """Held at first: 288. Each line is a step back, at its worst."""
        worst = max(
            288 + 4 + 48,  # the loss's gradient, and that of the logits
            168 + 48 + (96 + 32 + 8),  # the loss's arrays are gone; gradients of layer 2
            168 + 96 + 40 + 96,  # ReLU: gradients of its output and its input
            72 + 96 + 40 + (48 + 16),  # the first layer
        )
        report = fs.memory_report(MLP(), batch_of(6))
        assert worst == 400
        assert report.peak == report.at_rest + worst
        assert report.moments[0] == 288
        assert report.moments[-1] == 104

    def test_peak_with_casts(self):
        worst = max(
            244 + 4 + 48,  # fp32 logits' gradient
            124 + 48 + 24,  # cast to fp16
            124 + 24 + (48 + 16 + 4),  # layer 2; its cast weight goes
            108 + (48 + 16) + (8 + 32),  # casts back to fp32
            108 + 48 + 40 + 48,  # ReLU
        )
        report = fs.memory_report(MLP(), batch_of(6), "amp")
        assert report.peak == report.at_rest + worst

    @pytest.mark.parametrize(
        ("name", "moments"), [("sgd", 0), ("momentum", 1), ("adam", 2), ("adamw", 2), ("lion", 1)]
    )
    def test_optimisers_by_name(self, name, moments):
        report = fs.memory_report(MLP(), batch_of(6), "O2", optimizer=name)
        assert report.states == moments * 26 * 4
        assert report.masters == 26 * 4
        assert name in OPTIMIZERS

    def test_native_bytes(self):
        sizes = {"fp64": 8, "fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "e4m3": 1, "e2m3": 0.75}
        for name, size in sizes.items():
            assert native_bytes(1000, fs.formats.format_of(name)) == 1000 * size
        assert native_bytes(3, fs.E2M1) == 2  # 12 bits

    def test_size_text(self):
        sizes = {0: "0 B", 999: "999 B", 1024: "1 KiB", 1.5 * 2**20: "1.5 MiB", 2**30: "1 GiB"}
        assert {size: size_text(size) for size in sizes} == sizes
        assert size_text(3000 * 2**30) == "3,000 GiB"


class TestTape:
    def test_nodes_are_in_backwards_order(self):
        x, fixed = fs.Tensor([1.0], requires_grad=True), fs.Tensor([2.0])
        y = x * fixed
        z = y + x * y
        order = tape.nodes(z)
        assert order[0] is z
        assert order[-1] is x
        assert [node.origin.op for node in order] == ["add", "multiply", "multiply", "tensor"]

    def test_views_count_once_and_casts_on_their_own(self):
        x = fs.Tensor(np.ones((4, 4), np.float32), requires_grad=True, fmt="fp16")
        y = x.exp()  # keeps y
        wide = y.reshape(16).to("fp32")  # the carrier is the same array, a machine's is not
        loss = (y.reshape(2, 8) * y.transpose(1, 0).reshape(2, 8)).sum() + (wide * wide).sum()
        held = account(loss, [x]).held
        found = sorted((one.op, one.fmt, one.bytes) for one in held)
        # transposing and reshaping again makes a copy, which the product keeps
        assert found == [("exp", "fp16", 32), ("multiply", "fp16", 32), ("multiply", "fp32", 64)]

    def test_what_needs_no_gradient_is_held_by_those_who_read_it(self):
        w = fs.Tensor(np.ones(8, np.float32), requires_grad=True)
        x = fs.Tensor(np.ones(8, np.float32))
        (one,) = account((w * x).sum(), [w]).held
        assert (one.kind, one.bytes) == ("input", 32)
        assert account((w + x).sum(), [w]).held == ()

    def test_recomputation_holds_less(self):
        class Deep(MLP):
            def forward(self, x):
                return nn.checkpoint(lambda x: MLP.forward(self, x), x)

        plain, less = (fs.memory_report(one(), batch_of(6)) for one in (MLP, Deep))
        assert plain.activations - less.activations == 24 * 4  # the input is kept by both

    def test_norms_keep_their_input(self):
        def loss(model, x):
            return model(fs.Tensor(x, fmt="fp16")).sum()

        x = np.ones((4, 8), np.float32)
        report = fs.memory_report(nn.LayerNorm(8), (x,), "amp", loss=loss)
        # read in fp32, as autocast says; one scale for each row
        assert report.by_kind == {"input": 4 * 8 * 4, "inside": 4 * 4}
        report = fs.memory_report(nn.LayerNorm(8), (x,), "O3", loss=loss)
        assert report.by_kind == {"input": 4 * 8 * 2, "inside": 4 * 4}

    def test_batch_norms_stay_in_fp32_in_O2(self):
        def loss(model, x):
            return model(fs.Tensor(x)).sum()

        x = np.ones((4, 3, 2, 2), np.float32)
        sizes = {}
        for policy in ("fp32", "O2", "O3"):
            report = fs.memory_report(nn.BatchNorm2d(3), (x,), policy, loss=loss)
            sizes[policy] = report.weights, report.masters, report.buffers
        assert sizes == {"fp32": (24, 0, 24), "O2": (24, 0, 24), "O3": (12, 0, 24)}


def arrays_below(thing):
    """Every array that can be reached from a tensor, and who owns its memory, by id."""
    found, seen, waiting = {}, set(), [thing]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or callable(one):
            continue  # rules are functions, with the whole program below
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            while one.base is not None:
                one = one.base
            found[id(one)] = one
        elif not isinstance(one, fs.Format | str):
            waiting.extend(gc.get_referents(one))
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", TASKS)
def test_the_carriers_are_those_that_the_loss_keeps_alive(name, precision):
    task = fs.models.task(name, "tiny")
    batch = [x.copy() for x in task.batch(0)]
    with fs.autocast(precision):
        loss = task.model.loss(*batch)
    kept = [value for _, value in task.model.named_tensors()]
    found = arrays_below(loss)
    for value in kept:
        for key in arrays_below(value):
            found.pop(key, None)
    expected = sum(array.nbytes for array in found.values())
    assert account(loss, kept).carrier[0] == expected > 0


class TestBatches:
    @pytest.mark.parametrize("policy", ["fp32", "amp", "O2", "fp8"])
    @pytest.mark.parametrize("name", TASKS)
    def test_every_moment_is_a_line_over_the_batch(self, name, policy):
        task = fs.models.task(name, "tiny")
        batch = task.batch(0)
        samples = len(batch[0])
        report = fs.memory_report(task.model, batch, policy)
        assert (report.samples, report.other_samples) == (samples, samples // 2)
        twice = tuple(np.concatenate([x, x]) for x in batch)
        larger = fs.memory_report(task.model, twice, policy)
        now, half = (np.array(m) for m in (report.moments, report.other_moments))
        np.testing.assert_array_equal(larger.moments, now + (now - half) * 2)
        assert report.largest_batch(larger.peak) == 2 * samples
        assert report.largest_batch(larger.peak - 1) == 2 * samples - 1
        # of a tiny network the peak may be a moment that does not grow: the gradients of weights
        assert larger.largest_batch(report.peak) >= samples

    def test_the_worst_moment_changes_with_the_batch(self):
        """Of two samples the weight's gradient is the peak; of many, the activations."""

        class Wide(nn.Module):
            def __init__(self):
                self.linear = nn.Linear(100, 100, rng=0)

            def loss(self, x):
                return self.linear(F.relu(fs.Tensor(x, requires_grad=True))).mean()

        small, large = (np.ones((n, 100), np.float32) for n in (4, 4000))
        report = fs.memory_report(Wide(), (small,))
        actual = fs.memory_report(Wide(), (large,))
        assert report.moments.index(max(report.moments)) > 2
        assert report.largest_batch(actual.peak) == 4000

    def test_a_part_of_a_batch_does_not_keep_the_whole(self):
        @fs.primitive
        def masked(x, *, mask):
            return x * mask, (mask,)  # as it is given

        masked.backward(lambda g, mask: (g * mask,))
        PRIMITIVES.pop("masked")  # tests go over all of them

        def loss(model, x, mask):
            return masked(model(fs.Tensor(x)), mask=mask).sum()

        everything = np.ones((100, 3), np.float32), np.ones((100, 2), bool)
        report = fs.memory_report(MLP(), tuple(x[:6] for x in everything), loss=loss)
        assert report.by_format["bool"] == 6 * 2
        assert report.moments[0] == 2 * report.other_moments[0]

    def test_what_does_not_fit(self):
        report = fs.memory_report(MLP(), batch_of(6))
        assert report.largest_batch(1) == 0
        assert report.largest_batch(report.at_rest) == 0

    def test_a_model_that_computes_something_else_for_half(self):
        def loss(model, x, labels):
            y = model(fs.Tensor(x))
            return F.cross_entropy(F.relu(y) if len(x) > 3 else y, labels)

        report = fs.memory_report(MLP(), batch_of(6), loss=loss)
        with pytest.raises(ValueError, match="3 samples take other operations than 6"):
            report.largest_batch(1000)

    def test_a_loss_without_samples(self):
        def loss(model, x, labels):
            return (model.first.weight * model.first.weight).sum()

        report = fs.memory_report(MLP(), batch_of(6), loss=loss)
        with pytest.raises(ValueError, match="nothing that this model keeps grows"):
            report.largest_batch(10**6)
        assert report.largest_batch(report.at_rest) == 0


class Noisy(nn.Module):
    """Has all that a forward pass moves: running statistics, a generator, modes."""

    def __init__(self):
        self.norm, self.drop = nn.BatchNorm2d(3), nn.Dropout(0.5, rng=3)
        self.head = nn.Linear(3, 2, rng=0)
        self.head.training = False

    def forward(self, x):
        y = self.norm(x.reshape(*x.shape, 1, 1)).reshape(*x.shape)
        return self.head(self.drop(y))

    def loss(self, x, labels):
        return F.cross_entropy(self(fs.Tensor(x)), labels)


def everything(model, optimizer):
    state = [{name: np.copy(x) for name, x in one.items()} for one in optimizer.state]
    return [
        [(n, v.fmt, v.data.tobytes(), None if v.grad is None else v.grad.numpy().tobytes())
         for n, v in model.named_tensors()],
        [(n, rng.bit_generator.state) for n, rng in model.named_generators()],
        [(n, m.training, dict.fromkeys(vars(m))) for n, m in model.named_modules()],
        [{name: x.tobytes() for name, x in one.items()} for one in state],
        optimizer.master_weights,
    ]  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_that_was_given_changes(policy):
    model, batch = Noisy(), batch_of(6)
    optimizer = fs.optim.Adam(model.parameters())
    fs.training.train_step(lambda: model.loss(*batch), optimizer)
    before = everything(model, optimizer)
    random = np.random.get_state()[1].tobytes()  # noqa: NPY002 - what must not be touched
    seen = [x.copy() for x in batch]
    with fs.watch(model) as xray:
        report = fs.memory_report(model, batch, policy, optimizer=optimizer, measure=True)
    assert everything(model, optimizer) == before
    assert np.random.get_state()[1].tobytes() == random  # noqa: NPY002
    assert all((x == y).all() for x, y in zip(batch, seen, strict=True))
    assert not xray.counts
    assert report.buffers == 2 * 3 * 4


class TestOptimiser:
    def test_a_real_one(self):
        model = MLP()
        optimizer = fs.optim.SGD([model.first.weight], 0.1, momentum=0.9, state_fmt="bf16")
        report = fs.memory_report(model, batch_of(6), "O2", optimizer=optimizer)
        assert (report.states, report.masters) == (12 * 2, 12 * 4)
        assert report.gradients == 26 * 2  # the tape makes all of them
        optimizer.momentum = 0.0
        assert fs.memory_report(model, batch_of(6), optimizer=optimizer).states == 0

    @pytest.mark.parametrize("name", OPTIMIZERS)
    @pytest.mark.parametrize("masters", [False, True])
    @pytest.mark.parametrize("fmt", ["fp16", "fp32", "fp64"])
    def test_state_formats_are_those_of_a_step(self, name, masters, fmt):
        p = fs.Tensor(np.ones(5), requires_grad=True, fmt=fmt)
        optimizer = OPTIMIZERS[name]([p])
        optimizer.master_weights = masters
        (p * p).sum().backward()
        optimizer.step()
        arrays = {k: v.dtype.itemsize for k, v in optimizer.state[0].items() if k != "step"}
        formats = optimizer.state_formats(p.fmt)
        assert {name: fmt.bits // 8 for name, fmt in formats.items()} == arrays

    def test_stochastic_rounding_needs_no_masters(self):
        model = MLP()
        optimizer = fs.optim.Adam(model.parameters(), rounding="stochastic", rng=0)
        report = fs.memory_report(model, batch_of(6), "O2", optimizer=optimizer, measure=True)
        assert report.masters == 0
        assert report.weights == 26 * 2


class TestRegions:
    def test_an_autocast_is_a_policy(self):
        own = fs.memory_report(MLP(), batch_of(6), fs.autocast("bf16"))
        named = fs.memory_report(MLP(), batch_of(6), "amp_bf16")
        assert own.policy == "autocast"
        assert (own.held, own.moments) == (named.held, named.moments)

    def test_presets_are_policies(self):
        for name in ("O2", "O3", "amp", "amp_bf16"):
            preset = getattr(fs.presets, name)
            assert MemoryPolicy.of(preset).name == name
            own = fs.memory_report(MLP(), batch_of(6), preset)
            assert own == fs.memory_report(MLP(), batch_of(6), name)
        keras = fs.memory_report(MLP(), batch_of(6), fs.presets.keras_mixed_float16)
        assert (keras.weights, keras.casts) == (26 * 4, 20 * 2)

    def test_a_region_around_does_not_count(self):
        with fs.autocast("fp16"):
            inside = fs.memory_report(MLP(), batch_of(6))
        assert inside == fs.memory_report(MLP(), batch_of(6))

    def test_a_policy_of_ones_own(self):
        formats = dict.fromkeys(("parameters", "norms", "compute"), fs.E4M3)
        policy = fs.presets.Preset("fp8 weights", **formats, master_weights=True)
        report = fs.memory_report(MLP(), batch_of(6), policy)
        assert (report.weights, report.masters, report.gradients) == (26, 104, 26)
        assert report.by_format["e4m3"] == 18 + 24


class TestWhatIsAllocated:
    def test_peak_memory(self):
        before = np.zeros(10**6)
        with peak_memory("cpu") as peak:
            first = np.zeros(10**6, np.float32)
            del first
            second = np.zeros(10**6)
        assert 8 * 10**6 <= peak() < 8.1 * 10**6
        assert not tracemalloc.is_tracing()
        assert before.size == second.size

    def test_peak_memory_while_somebody_traces(self):
        tracemalloc.start()
        try:
            high = np.zeros(10**6)
            del high
            with peak_memory("cpu") as peak:
                low = np.zeros(10**5)
            assert tracemalloc.is_tracing()
            assert 8 * 10**5 <= peak() < 9 * 10**5
            assert low.size
        finally:
            tracemalloc.stop()

    def test_state_that_an_optimiser_had_is_not_kept(self):
        def loss(model, x):
            return (model(fs.Tensor(x, fmt="fp16")) ** 2.0).sum()

        model = nn.Linear(300, 300, rng=0).to("fp16")
        optimizer = fs.optim.Adam(model.parameters(), master_weights=True)
        batch = (np.ones((2, 300), np.float32),)
        settings = {"loss": loss, "optimizer": optimizer, "measure": True}
        fresh = fs.memory_report(model, batch, "O3", **settings).measured
        fs.training.train_step(lambda: loss(model, *batch), optimizer)
        assert "master" in optimizer.state[0]
        used = fs.memory_report(model, batch, "O3", **settings).measured
        assert used == pytest.approx(fresh, abs=50_000)  # a master takes 360,000

    # Beyond the account: temporary arrays of rules, rounding and the optimiser, Python's objects.
    @pytest.mark.parametrize(
        ("name", "policy", "margin"),
        [("autoencoder", "fp32", 1.2), ("autoencoder", "O2", 1.2), ("unet", "amp", 1.15)],
    )
    def test_the_account_in_carriers_is_what_a_step_allocates(self, name, policy, margin):
        task = fs.models.task(name, "laptop")
        report = fs.memory_report(
            task.model, task.batch(0), policy, optimizer=task.optimizer, measure=True
        )
        assert 1 <= report.measured / report.carrier_peak <= margin
        assert report.carrier_peak > report.peak


class TestInWords:
    def test_table(self):
        text = str(fs.memory_report(MLP(), batch_of(6), "amp", measure=True))
        lines = [" ".join(line.split()) for line in text.splitlines()]
        assert "casts of weights 40" in lines
        assert "activations 204" in lines
        assert "first linear input fp16 36" in lines
        assert "(program) cross_entropy inside fp32 72" in lines
        assert any(line.startswith("this process, seen") for line in lines)

    def test_side_by_side(self):
        reports = [fs.memory_report(MLP(), batch_of(6), name) for name in POLICIES]
        lines = [" ".join(line.split()) for line in memory_table(reports, 10**6).splitlines()]
        assert "A training step of 6 samples" in lines
        assert "weights 104 B 104 B 52 B 52 B 104 B 104 B" in lines
        # a half more: 40 of 104 by casts, without biases; 52 and 104 of 104; 20 and two scales
        assert "weights, masters, casts 1.00 1.38 1.50 0.50 1.38 1.27" in lines
        assert "activations 1.00 0.71 0.71 0.71 0.71 0.76" in lines
        largest = " ".join(f"{report.largest_batch(10**6):,}" for report in reports)
        assert f"largest batch in 977 KiB {largest}" in lines
        assert not any(line.startswith("buffers") for line in lines)
        with pytest.raises(ValueError, match="reports is empty"):
            memory_table([])

    def test_json(self):
        report = fs.memory_report(MLP(), batch_of(6), "O2")
        record = json.loads(report.to_json())
        assert record["peak"] == report.peak
        assert record["measured"] is None
        assert sum(one["bytes"] for one in record["held"]) == record["activations"]
        assert {one["fmt"] for one in record["held"]} == {"fp16", "fp32", "int64"}


def no_grad_report():
    with fs.no_grad():
        fs.memory_report(MLP(), batch_of(6))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fs.memory_report(1, batch_of(6)), TypeError, "model must be a Module, got 1"),
        (lambda: fs.memory_report(MLP(), batch_of(6), "O7"), ValueError, "policy='O7'.*fp32, amp"),
        (lambda: fs.memory_report(MLP(), batch_of(6), 7), TypeError, "policy must be a Mem.*got 7"),
        (lambda: fs.memory_report(MLP(), batch_of(1)), ValueError, r"batch\[0\] has shape \(1, 3"),
        (lambda: fs.memory_report(MLP(), ()), TypeError, "batch must be a tuple of arrays"),
        (lambda: fs.memory_report(MLP(), batch_of(6)[0]), TypeError, "batch must be a tuple"),
        (lambda: fs.memory_report(MLP(), ([1, 2],)), TypeError, "expected a NumPy or CuPy array"),
        (
            lambda: fs.memory_report(MLP(), (np.ones((4, 3)), np.ones(3))),
            ValueError,
            r"batch\[1\] has shape \(3,\)",
        ),
        (lambda: fs.memory_report(nn.ReLU(), batch_of(6)), TypeError, "ReLU has no loss"),
        (lambda: fs.memory_report(MLP(), batch_of(6), loss=3), TypeError, "loss must be a func"),
        (
            lambda: fs.memory_report(MLP(), batch_of(6), loss=lambda m, x, y: m(fs.Tensor(x))),
            TypeError,
            "loss must return a Tensor of one value",
        ),
        (no_grad_report, ValueError, "the loss does not require a gradient"),
        (
            lambda: fs.memory_report(MLP(), batch_of(6), optimizer="adagrad"),
            ValueError,
            "optimizer='adagrad' is not known; allowed are sgd",
        ),
        (lambda: fs.memory_report(MLP(), batch_of(6), optimizer=1), TypeError, "optimizer must"),
        (
            lambda: fs.memory_report(
                MLP(), batch_of(6), optimizer=fs.optim.SGD(MLP().parameters())
            ),
            ValueError,
            "optimizer moves parameters that are not the model's",
        ),
        (
            lambda: fs.memory_report(MLP(), batch_of(6)).largest_batch(0),
            ValueError,
            "budget=0 is not allowed",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
