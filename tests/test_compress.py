"""Quantization and pruning, against Python's integers and fractions."""

import copy
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
import strict_array
from conftest import assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from strict_array import StrictArray, as_strict, to_strict

import fp16sim as fs

compress = fs.compress
strict_arrays = strict_array.strict_arrays  # a fixture

finite = st.floats(-1e6, 1e6, width=32)
values = arrays(np.float32, array_shapes(max_dims=2, max_side=6), elements=finite)
all_bits = st.integers(2, 8)


def exact_position(x, scale, zero_point):
    """round(x / S) + Z by fractions, which know no rounding but this one, ties to even."""
    return round(Fraction(float(x)) / Fraction(float(scale))) + int(zero_point)


class TestGrids:
    @given(values, all_bits, st.booleans())
    def test_zero_is_exact_and_all_else_within_half_a_step(self, x, bits, symmetric):
        grid = compress.grid_for(x, bits, symmetric=symmetric)
        zero = compress.quantize(np.zeros(1), grid)
        assert zero == grid.zero_point
        assert compress.dequantize(zero, grid) == 0
        assert grid.low <= grid.zero_point <= grid.high
        assert grid.high - grid.low == 2**bits - (2 if symmetric else 1)
        back = compress.dequantize(compress.quantize(x, grid), grid)
        step = float(grid.scale)
        assert (np.abs(back - np.float64(x)) <= step * (0.5 + 2.0**-14)).all()

    @given(values, all_bits, st.booleans(), st.integers(-300, 300))
    def test_integers_are_those_of_fractions(self, x, bits, symmetric, halves):
        grid = compress.grid_for(x, bits, symmetric=symmetric)
        scale = float(grid.scale)
        # Ties, too. In float64 the quotient of two fp32 numbers is on the right side of each.
        wide = np.append(np.float64(x).ravel(), [scale * halves / 2, 5e6, -5e6])
        for one, q in zip(wide, compress.quantize(wide, grid), strict=True):
            exact = exact_position(one, scale, grid.zero_point)
            assert q == min(max(exact, grid.low), grid.high)

    @given(values, all_bits)
    def test_a_grid_per_channel_is_that_of_each_row(self, x, bits):
        x = np.atleast_2d(x)
        grid = compress.grid_for(x, bits, axis=0)
        q = compress.quantize(x, grid)
        back = compress.dequantize(q, grid)
        for i, row in enumerate(x):
            own = compress.grid_for(row, bits)
            assert_same_bits(grid.scale[i], own.scale)
            np.testing.assert_array_equal(q[i], compress.quantize(row, own))
            assert_same_bits(back[i], compress.dequantize(q[i], own))
        columns = compress.grid_for(np.ascontiguousarray(x.T), bits, axis=-1)
        assert_same_bits(columns.scale, grid.scale)
        np.testing.assert_array_equal(compress.quantize(x.T, columns), q.T)

    def test_by_hand(self):
        grid = compress.grid_between(-1.0, 3.0, bits=2)  # steps of 4/3: q is -2, -1, 0, 1
        assert (grid.low, grid.high, int(grid.zero_point)) == (-2, 1, -1)
        assert grid.scale == np.float32(4 / 3)
        q = compress.quantize([-9.0, -1.0, 0.0, 0.6, 0.7, 3.0, np.inf, -np.inf], grid)
        assert q.dtype == np.int8
        assert q.tolist() == [-2, -2, -1, -1, 0, 1, 1, -2]
        both = compress.grid_between([-2.54, 0.0], [1.0, 12.7], symmetric=True)
        assert (both.low, both.high, both.zero_point.tolist()) == (-127, 127, [0, 0])
        np.testing.assert_allclose(both.scale, [0.02, 0.1], rtol=1e-6)

    def test_limits_that_leave_out_zero_are_moved_to_it(self):
        assert compress.grid_between(5.0, 10.0).scale == np.float32(10 / 255)
        assert compress.grid_between(-10.0, -5.0).scale == np.float32(10 / 255)
        nothing = compress.grid_between(0.0, 0.0)
        assert nothing.scale == 1
        assert compress.dequantize(compress.quantize(np.zeros(3), nothing), nothing).sum() == 0
        assert compress.grid_between(0.0, 1e-45).scale == np.finfo(np.float32).tiny

    def test_percentile_leaves_out_the_ends(self):
        x = np.append(np.linspace(-1, 1, 1001), 1000.0)
        assert compress.grid_for(x).scale > 3.9
        fine = compress.grid_for(x, percentile=99.0)
        assert fine.scale < 0.008
        assert compress.quantize(x, fine)[-1] == 127
        rows = compress.grid_for(np.stack([x, 2 * x]), percentile=99.0, axis=0)
        assert_same_bits(rows.scale[0], fine.scale)

    def test_float32_is_off_by_no_more_than_its_quotient(self, rng):
        x = np.float32(rng.uniform(-1, 1, 20_000))
        grid = compress.grid_for(x, percentile=95)
        for one, q in zip(x[:2000], compress.quantize(x, grid)[:2000], strict=True):
            exact = Fraction(float(one)) / Fraction(float(grid.scale)) + int(grid.zero_point)
            assert abs(min(max(exact, grid.low), grid.high) - int(q)) <= Fraction(1, 2) + 2.0**-15


class TestFakeQuantize:
    @given(values, all_bits, st.booleans())
    def test_value_is_that_of_the_integers(self, x, bits, symmetric):
        grid = compress.grid_for(x / 2, bits, symmetric=symmetric)
        y = compress.fake_quantize(fs.Tensor(x), grid)
        assert_same_bits(y.numpy() + 0, compress.dequantize(compress.quantize(x, grid), grid))

    def test_the_gradient_passes_inside_and_stops_outside(self):
        grid = compress.grid_between(-1.0, 1.0, bits=3, symmetric=True)  # thirds
        x = fs.Tensor(
            np.float32([-2, -1.16, -1, -0.1, 0, 0.4, 1.1, 1.2, np.nan]), requires_grad=True
        )
        gradient = np.float32([1, 2, 3, 4, 5, 6, 7, 8, 9])
        y = compress.fake_quantize(x, grid)
        y.backward(gradient)
        # Up to half a step beyond the end values are rounded to it, not clipped.
        assert x.grad.numpy().tolist() == [0, 2, 3, 4, 5, 6, 7, 0, 0]
        assert np.isnan(y.numpy()[-1])
        np.testing.assert_allclose(
            y.numpy()[:-1], [-1, -1, -1, 0, 0, 1 / 3, 1, 1], rtol=1e-6, atol=0
        )

    def test_result_and_gradient_are_in_the_inputs_format(self, rng):
        x = fs.Tensor(np.float32(rng.standard_normal((4, 3))), fmt="fp16", requires_grad=True)
        grid = compress.grid_for(x, axis=0)
        with fs.storage("native"):
            y = compress.fake_quantize(x, grid)
            (y * y).sum().backward()
        assert y.fmt is x.grad.fmt is fs.FP16
        exact = compress.dequantize(compress.quantize(x, grid), grid)
        assert_same_bits(y.numpy(), fs.round_to(exact, "fp16"))
        wide = fs.Tensor(rng.standard_normal(3))
        assert compress.fake_quantize(wide, compress.grid_for(wide)).data.dtype == np.float64


def random_case(rng, rows, inputs, outputs, per_channel):
    x = rng.uniform(-1, 3, (rows, inputs)).astype(np.float32)
    w = rng.standard_normal((outputs, inputs)).astype(np.float32)
    grids = compress.grid_for(x), compress.grid_for(w, axis=0 if per_channel else None)
    return x, w, *grids, compress.quantize(x, grids[0]), compress.quantize(w, grids[1])


class TestIntegers:
    @pytest.mark.parametrize("per_channel", [True, False])
    @pytest.mark.parametrize("with_bias", [True, False])
    def test_linear_is_that_of_python_integers(self, rng, per_channel, with_bias):
        _, _, gx, gw, qx, qw = random_case(rng, 5, 40, 6, per_channel)
        bias = rng.standard_normal(6) if with_bias else None
        out = compress.grid_between(-20.0, 25.0)
        y = compress.integer_linear(qx, gx, qw, gw, bias, out)
        assert y.dtype == np.int8
        assert len(np.unique(y)) > 10
        real = compress.integer_linear(qx, gx, qw, gw, bias)
        assert real.dtype == np.float32
        for i in range(5):
            for j in range(6):
                c = j if per_channel else ()
                zx, zw = int(gx.zero_point), int(gw.zero_point[c])
                total = sum(
                    (int(a) - zx) * (int(b) - zw) for a, b in zip(qx[i], qw[j], strict=True)
                )
                unit = Fraction(float(gx.scale)) * Fraction(float(gw.scale[c]))
                if with_bias:
                    total += round(Fraction(float(bias[j])) / unit)
                m = unit / Fraction(float(out.scale))
                shift = 31 - math.frexp(float(m))[1]
                m0 = round(Fraction(float(m)) * 2**shift)
                q = round(Fraction(total * m0, 2**shift)) + int(out.zero_point)
                assert y[i, j] == min(max(q, -128), 127)
                assert real[i, j] == pytest.approx(float(total * unit), rel=1e-7)

    @given(
        st.integers(-(2**31) + 1, 2**31 - 1),
        st.floats(2.0**-70, 2.0**29, allow_subnormal=False),
    )
    def test_rescaling_is_a_factor_and_a_shift(self, total, multiplier):
        y = int(compress.rescale(np.array([total], np.int32), multiplier)[0])
        fraction, exponent = math.frexp(multiplier)
        shift = min(31 - exponent, 62)
        m0 = round(Fraction(fraction) * Fraction(2) ** (exponent + shift))
        assert y == round(Fraction(total * m0, 2**shift))
        exact = total * Fraction(multiplier)
        assert abs(y - exact) <= Fraction(1, 2) + abs(exact) / 2**31 + Fraction(1, 2**20)

    def test_rescaling_sends_ties_to_even(self):
        totals = np.array([-7, -5, -3, -1, 0, 1, 3, 5, 7, 6], np.int32)
        assert compress.rescale(totals, 0.5).tolist() == [-4, -2, -2, 0, 0, 0, 2, 2, 4, 3]
        assert compress.rescale(totals[:2], [0.25, 4.0]).tolist() == [-2, -20]

    def test_sums_that_int32_does_not_hold(self):
        grid = compress.Grid(np.array(1, np.float32), np.array(-128, np.int32), -128, 127)
        q = np.full((1, 33_025), 127, np.int8)  # 255 each: 33025 * 65025 < 2^31
        assert compress.integer_linear(q, grid, q, grid).item() == np.float32(33_025 * 65_025)
        more = np.full((1, 33_026), 127, np.int8)
        with pytest.raises(ValueError, match="int32 holds those below"):
            compress.integer_linear(more, grid, more, grid)

    def test_close_to_the_real_product(self, rng):
        x, w, gx, gw, qx, qw = random_case(rng, 8, 64, 16, True)
        bias = rng.standard_normal(16).astype(np.float32)
        y = compress.integer_linear(qx, gx, qw, gw, bias)
        exact = x @ w.T + bias
        assert np.abs(y - exact).max() < 0.02 * np.abs(exact).max()


def trained(seed=0, steps=60):
    task = fs.models.task("mlp", "tiny", seed=seed)
    for step in range(steps):
        task.train_step(step)
    return task


class TestModels:
    @pytest.mark.parametrize("per_channel", [True, False])
    def test_a_layer_computes_what_integers_do(self, rng, per_channel):
        layer = fs.nn.Linear(32, 8, rng=0)
        model = fs.nn.Sequential(layer, fs.nn.ReLU())
        x = rng.uniform(-1, 2, (16, 32)).astype(np.float32)
        x[0, 0], x[-1, 0] = -2, 3  # the ends are in different batches
        compress.quantize_model(model, [x[:8], x[8:]], per_channel=per_channel)
        quantized = getattr(model, "0")
        assert isinstance(quantized, compress.QuantizedLayer)
        gx, gw = quantized.input_grid, quantized.weight_grid
        assert_same_bits(gx.scale, compress.grid_for(x).scale)
        y = compress.integer_linear(
            compress.quantize(x, gx), gx, compress.quantize(layer.weight, gw), gw, layer.bias
        )
        np.testing.assert_allclose(model(fs.Tensor(x)).numpy(), np.maximum(y, 0), atol=2e-4)

    def test_names_tensors_and_optimisers_stay(self):
        task = trained()
        before = dict(task.model.named_parameters())
        images = task.batch(0)[0]
        assert compress.quantize_model(task.model, [images]) is task.model
        after = dict(task.model.named_parameters())
        assert list(before) == list(after)
        assert all(before[name] is after[name] for name in before)
        weights = before["layers.0.weight"].numpy()
        task.train_step(0)  # the optimiser was made before
        assert (before["layers.0.weight"].numpy() != weights).any()
        twin = copy.deepcopy(task.model)
        twin.load_state_dict(task.model.state_dict())
        assert "layers.0.input_range" in twin.state_dict()
        assert_same_bits(twin(fs.Tensor(images)).numpy(), task.model(fs.Tensor(images)).numpy())

    def test_weights_and_inputs_are_on_their_grids(self, monkeypatch):
        task, seen = trained(), {}
        compress.quantize_model(task.model, [task.batch(0)[0]], weight_bits=3, activation_bits=4)

        def see(x, w, b=None, unit_scaled=False, original=fs.functional.linear):
            seen[w.shape] = len(np.unique(x.numpy())), max(map(len, map(np.unique, w.numpy())))
            return original(x, w, b, unit_scaled)

        monkeypatch.setattr(fs.functional, "linear", see)
        task.evaluate()
        assert all(inputs <= 16 and weights <= 7 for inputs, weights in seen.values())
        assert len(seen) == 2

    def test_training_on_three_bits_repairs_what_rounding_broke(self):
        task = trained(steps=100)
        images = task.batch(0)[0]
        compress.quantize_model(task.model, [images], weight_bits=2, activation_bits=3)
        before = task.evaluate()["accuracy"]
        for step in range(100, 250):
            task.train_step(step)
        assert task.evaluate()["accuracy"] > before + 0.1

    def test_convolutions_and_autocast(self):
        task = fs.models.task("cnn", "tiny", seed=0)
        images, labels = task.batch(0)
        exact = task.model.eval()(fs.Tensor(images)).numpy()
        running = task.model.norm1.running_mean.numpy()
        compress.quantize_model(task.model.train(), [images])
        assert task.model.training
        assert_same_bits(task.model.norm1.running_mean.numpy(), running)
        y = task.model.eval()(fs.Tensor(images)).numpy()
        assert 0 < np.abs(y - exact).max() < 0.1 * np.abs(exact).max()
        with fs.autocast("fp16"):
            loss = task.model.train().loss(images, labels)
        loss.backward()
        assert all(p.grad is not None for p in task.model.parameters())

    def test_weights_alone(self):
        task = trained()
        exact = task.model(fs.Tensor(task.batch(0)[0])).numpy()
        compress.quantize_model(task.model, activation_bits=None)
        assert getattr(task.model.layers, "0").input_grid is None
        y = task.model(fs.Tensor(task.batch(0)[0])).numpy()
        assert 0 < np.abs(y - exact).max() < 0.05 * np.abs(exact).max()


class TestPruning:
    @given(
        arrays(np.float32, array_shapes(max_dims=3, max_side=5), elements=st.integers(-3, 3)),
        st.floats(0, 1),
    )
    def test_masks_keep_the_largest_and_exactly_so_many(self, x, sparsity):
        mask = compress.magnitude_mask(x, sparsity)
        assert mask.dtype == bool
        assert mask.shape == x.shape
        assert int((~mask).sum()) == round(sparsity * x.size)
        kept, gone = np.abs(x[mask]), np.abs(x[~mask])
        if kept.size and gone.size:
            assert kept.min() >= gone.max()
            tied = np.abs(x).ravel() == kept.min()  # of equal ones the first
            flags = mask.ravel()[tied].tolist()
            assert flags == sorted(flags, reverse=True)

    @given(
        arrays(
            np.float32,
            st.tuples(st.integers(1, 3), st.sampled_from([4, 8]), st.integers(1, 2)),
            elements=st.integers(-2, 2),
        )
    )
    def test_two_of_four(self, x):
        mask = compress.two_of_four_mask(x)
        for row in range(x.shape[0]):
            for start in range(0, x.shape[1], 4):
                for column in range(x.shape[2]):
                    four = [float(abs(v)) for v in x[row, start : start + 4, column]]
                    best = sorted(range(4), key=lambda i: (-four[i], i))[:2]
                    kept = np.flatnonzero(mask[row, start : start + 4, column])
                    assert sorted(best) == kept.tolist()

    @pytest.mark.parametrize("per_layer", [False, True])
    def test_of_a_model(self, per_layer):
        task = trained()
        weights = {n: p.numpy() for n, p in task.model.named_parameters()}
        masks = compress.prune(task.model, 0.75, per_layer=per_layer)
        assert list(masks) == [name for name in weights if name.endswith("weight")]
        for name, p in task.model.named_parameters():
            mask = masks.get(name, np.array(True))
            assert_same_bits(p.numpy() + 0, np.where(mask, weights[name], 0))
        gone = {name: int((~mask).sum()) for name, mask in masks.items()}
        total = sum(mask.size for mask in masks.values())
        if per_layer:
            assert gone == {name: round(0.75 * mask.size) for name, mask in masks.items()}
        else:
            assert sum(gone.values()) == round(0.75 * total)
            kept = min(np.abs(weights[n][m]).min() for n, m in masks.items())
            lost = max(np.abs(weights[n][~m]).max() for n, m in masks.items())
            assert kept >= lost

    def test_of_a_model_two_of_four(self):
        task = fs.models.task("cnn", "tiny", seed=0)  # a first convolution of one channel
        before = dict(task.model.state_dict())
        masks = compress.prune(task.model, "2:4")
        assert list(masks) == ["conv2.weight", "head.weight"]
        for name, value in task.model.state_dict().items():
            mask = masks.get(name, np.array(True))
            assert_same_bits(value.numpy() + 0, np.where(mask, before[name].numpy(), 0) + 0)
            if name in masks:
                assert mask.mean() == 0.5
                compress.storage_bytes(value, 8, "2:4")

    @pytest.mark.parametrize(
        "make",
        [
            lambda p: fs.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
            lambda p: fs.optim.AdamW(p, lr=0.01, weight_decay=0.1),
            lambda p: fs.optim.Adam(p, lr=0.01, master_weights=True),
        ],
    )
    def test_pruned_weights_stay_zero(self, make):
        task = trained()
        optimizer = make(list(task.model.parameters()))
        preset = fs.presets.O2 if optimizer.master_weights else fs.presets.O0
        preset.prepare(task.model)

        def loss(step):
            return task.model.loss(*task.batch(int(step)))

        fs.training.train(loss, range(3), optimizer)  # momentum is there before
        masks = compress.prune(task.model, 0.8)
        moved = []

        def after(step):
            weights = dict(task.model.named_parameters())
            moved.append(any((weights[n].numpy()[~mask] != 0).any() for n, mask in masks.items()))
            compress.apply_masks(task.model, masks)
            for name, mask in masks.items():
                assert not weights[name].numpy()[~mask].any()

        before = {name: p.numpy() for name, p in task.model.named_parameters()}
        fs.training.train(loss, range(3, 8), optimizer, on_step=after)
        assert all(moved)  # it is the masks that do it
        for name, p in task.model.named_parameters():
            assert (p.numpy() != before[name]).any()

    def test_masks_of_before_fit_a_quantized_model(self):
        task = trained()
        masks = compress.prune(task.model, 0.5)
        compress.quantize_model(task.model, [task.batch(0)[0]])
        task.train_step(0)
        compress.apply_masks(task.model, masks)
        layer = getattr(task.model.layers, "0")
        q = compress.quantize(layer.weight, layer.weight_grid)
        assert not q[~masks["layers.0.weight"]].any()  # zero is on the grid

    def test_nothing_is_changed_by_masks_that_do_not_fit(self):
        task = trained()
        before = task.model.state_dict()["layers.0.weight"].numpy()
        masks = {"layers.0.weight": np.zeros((32, 64), bool), "head": np.ones(3, bool)}
        with pytest.raises(ValueError, match=r"masks has head \(3,\); allowed are layers.0.weight"):
            compress.apply_masks(task.model, masks)
        assert_same_bits(task.model.state_dict()["layers.0.weight"].numpy(), before)


class TestBytes:
    @pytest.mark.parametrize("columns", [200, 300, 70_000])
    @pytest.mark.parametrize("bits", [8, 32])
    def test_csr_is_as_scipy_stores_it(self, rng, columns, bits):
        x = rng.standard_normal((7, columns)).astype(np.float32)
        x[rng.random(x.shape) < 0.9] = 0
        theirs = scipy.sparse.csr_matrix(x)
        index = np.min_scalar_type(columns - 1).itemsize
        expected = theirs.nnz * (bits // 8 + index) + theirs.indptr.astype(np.int32).nbytes
        assert compress.storage_bytes(x, bits, "csr") == expected

    def test_by_hand(self):
        x = np.float32([[1, 0, 0, 2, 0, 0, 0, 0, 0]])
        assert compress.storage_bytes(x) == 36
        assert compress.storage_bytes(x, 3) == 4  # 27 bits
        assert compress.storage_bytes(x, 8, "bitmap") == 4  # 16 bits and 9
        assert compress.storage_bytes(x[:, :8], 8, "2:4") == 5  # four values, four positions
        with pytest.raises(ValueError, match="of some four values three"):
            compress.storage_bytes(np.ones((2, 4), np.float32), layout="2:4")

    def test_of_a_model(self):
        model = fs.models.task("mlp", "tiny", seed=0).model  # 64 x 32 + 32 + 32 x 10 + 10
        weights, biases, channels = 64 * 32 + 32 * 10, 42, 42
        assert compress.model_bytes(model) == 4 * (weights + biases)
        assert compress.model_bytes(model, 16) == 2 * (weights + biases)
        assert compress.model_bytes(model, 8) == weights + 4 * biases + 4 * channels
        assert compress.model_bytes(model, 4, per_channel=False) == weights // 2 + 4 * (biases + 2)
        model.to("fp16")
        preserved = compress.model_bytes(model)
        assert preserved == 4 * (weights + biases)  # of the numbers, whatever they are in now


GRID = compress.grid_between(-1.0, 1.0)
ROWS = compress.grid_between([-1.0, -1.0], [1.0, 1.0])
Q = np.zeros((2, 4), np.int8)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: compress.grid_between(0, 1, bits=1), ValueError, "bits=1 is not allowed"),
        (lambda: compress.grid_between(0, 1, bits=9), ValueError, "from 2 to 8"),
        (lambda: compress.grid_between(1, 0), ValueError, "low <= high"),
        (lambda: compress.grid_between(0, np.inf), ValueError, "finite"),
        (lambda: compress.grid_between([0], 1), ValueError, "low has shape"),
        (lambda: compress.grid_for(np.zeros((0, 2))), ValueError, "needs values"),
        (lambda: compress.grid_for([np.nan]), ValueError, "finite"),
        (lambda: compress.grid_for([1.0], axis=1), ValueError, "axis=1"),
        (lambda: compress.grid_for([1.0], percentile=50), ValueError, "percentile=50"),
        (lambda: compress.grid_for(np.array([1])), TypeError, "dtype int64"),
        (lambda: compress.quantize([1.0, np.nan], GRID), ValueError, "x has NaN"),
        (lambda: compress.quantize(np.ones((3, 2)), ROWS), ValueError, "2 channels on axis 0"),
        (lambda: compress.dequantize(np.ones(2), GRID), TypeError, "signed integers"),
        (lambda: compress.fake_quantize(np.ones(2), GRID), TypeError, "must be a Tensor"),
        (lambda: compress.integer_linear(Q, GRID, Q[:, :3], GRID), ValueError, r"\(out, in\)"),
        (lambda: compress.integer_linear(Q, ROWS, Q, GRID), ValueError, "axis=0 of q_grid"),
        (lambda: compress.integer_linear(Q, GRID, Q, GRID, out=ROWS), ValueError, "of out"),
        (lambda: compress.rescale(np.zeros(2, np.int32), 0.0), ValueError, "multiplier=0.0"),
        (lambda: compress.rescale(np.zeros(2), 0.5), TypeError, "total must be"),
        (lambda: compress.quantize_model(None), TypeError, "model must be a Module"),
        (lambda: compress.quantize_model(fs.nn.Linear(2, 2)), ValueError, "as a part"),
        (lambda: compress.quantize_model(fs.nn.ReLU()), ValueError, "no Linear or Conv2d"),
        (
            lambda: compress.quantize_model(fs.nn.Sequential(fs.nn.Linear(2, 2))),
            ValueError,
            "never reach 0",
        ),
        (
            lambda: compress.quantize_model(
                fs.nn.Sequential(fs.nn.Linear(1, 1)), [np.float32([[np.nan]])]
            ),
            ValueError,
            "finite",
        ),
        (lambda: compress.magnitude_mask([1.0], 1.1), ValueError, "sparsity=1.1"),
        (lambda: compress.two_of_four_mask(np.ones((2, 6))), ValueError, r"shape \(2, 6\)"),
        (lambda: compress.prune(fs.models.task("mlp", "tiny").model, "1:4"), ValueError, "'1:4'"),
        (lambda: compress.prune(fs.nn.Linear(3, 3), "2:4"), ValueError, "no weight's axis 1"),
        (lambda: compress.prune(fs.nn.ReLU(), 0.5), ValueError, "no weights"),
        (lambda: compress.prune("model", 0.5), TypeError, "model must be a Module"),
        (lambda: compress.storage_bytes([1.0], 0), ValueError, "bits=0"),
        (lambda: compress.storage_bytes([1.0], 8, "coo"), ValueError, "layout='coo'"),
    ],
)
def test_errors_say_what_is_allowed(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.usefixtures("strict_arrays")
class TestOnTheGPU:
    """On arrays as strict as CuPy's: all of it stays there, with NumPy's bits."""

    @pytest.mark.parametrize("settings", [{}, {"axis": 0, "symmetric": True}, {"percentile": 90}])
    def test_grids_and_integers(self, rng, settings):
        x = np.float32(rng.standard_normal((4, 8)))
        host, gpu = (compress.grid_for(a, **settings) for a in (x, as_strict(x)))
        for a, b in ((gpu.scale, host.scale), (gpu.zero_point, host.zero_point)):
            assert type(a) is StrictArray
            np.testing.assert_array_equal(a.get(), b)
        q, there = compress.quantize(x, host), compress.quantize(as_strict(x), gpu)
        np.testing.assert_array_equal(there.get(), q)
        assert_same_bits(compress.dequantize(there, gpu).get(), compress.dequantize(q, host))
        if host.axis is None:
            bias = np.float32([1, 2, 3, 4])
            mine = compress.integer_linear(q, host, q, host, bias, host)
            theirs = compress.integer_linear(there, gpu, there, gpu, as_strict(bias), gpu)
            np.testing.assert_array_equal(theirs.get(), mine)

    def test_a_model(self):
        def compressed(model, array):
            masks = compress.prune(model, 0.5)
            compress.quantize_model(model, [array])
            optimizer = fs.optim.SGD(model.parameters(), lr=0.1)
            model(fs.Tensor(array)).sum().backward()
            optimizer.step()
            compress.apply_masks(model, masks)
            return model(fs.Tensor(array)), compress.model_bytes(model, 8, "csr")

        images = fs.models.task("cnn", "tiny", seed=0).batch(0)[0]
        models = [fs.models.task("cnn", "tiny", seed=0).model for _ in "ab"]
        there, size = compressed(to_strict(models[0]), as_strict(images))
        here, expected = compressed(models[1], images)
        assert type(there.data) is StrictArray
        np.testing.assert_allclose(there.numpy(), here.numpy(), rtol=1e-4, atol=1e-4)
        assert size == expected

    def test_masks(self, rng):
        x = np.float32(rng.integers(-3, 4, (4, 8)))
        for mask in (compress.two_of_four_mask, lambda x: compress.magnitude_mask(x, 0.6)):
            np.testing.assert_array_equal(mask(as_strict(x)).get(), mask(x))
