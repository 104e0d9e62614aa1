"""Networks in true fp16 on a GPU: the traps, the emulation beside it, and steps without waiting."""

from functools import partial

import numpy as np
import pytest
from native_checks import CHECKS

import fp16sim as fs


@pytest.mark.parametrize("name", CHECKS)
def test_traps(name):
    CHECKS[name]("cuda")


def trained(name, preset, device, kind, steps=3):
    task = fs.models.task(name, "tiny", seed=0)
    task.model.to(device)
    preset.prepare_training(task.model, task.optimizer)
    scaler = preset.scaler()
    with fs.storage(kind):
        losses = [
            task.train_step(i, precision=preset.region(), scaler=scaler).loss for i in range(steps)
        ]
    return task.model, losses


@pytest.mark.parametrize("preset", ["O0", "amp", "amp_bf16", "O2"])
@pytest.mark.parametrize("name", fs.models.TASKS)
def test_a_network_learns_what_the_emulation_learns(name, preset):
    preset = getattr(fs.presets, preset)
    model, losses = trained(name, preset, "cuda", "native")
    other, expected = trained(name, preset, "cpu", "emulated")
    bound = 1e-4 if preset.compute is fs.FP32 else 2e-2
    assert losses == pytest.approx(expected, rel=bound)
    # Adam moves weights by their gradients' signs: where these are noise, single ones go elsewhere.
    start = fs.models.task(name, "tiny", seed=0).model
    for x, y, z in zip(*(m.parameters() for m in (model, other, start)), strict=True):
        if x.ndim > 1:
            moved = np.linalg.norm(y.numpy() - z.numpy())
            assert np.linalg.norm(x.numpy() - y.numpy()) <= 20 * bound * moved


@pytest.mark.parametrize("name", fs.models.TASKS)
def test_native_and_emulated_on_the_gpu(name):
    _, losses = trained(name, fs.presets.amp, "cuda", "native")
    _, others = trained(name, fs.presets.amp, "cuda", "emulated")
    assert losses == pytest.approx(others, rel=2e-2)


@pytest.mark.parametrize("name", ["mlp", "gpt", "yolo"])
def test_steps_that_nobody_waits_for(name):
    def setup():
        task = fs.models.task(name, "tiny", seed=0)
        task.model.to("cuda")
        return task, fs.GradScaler(init_scale=2.0**28, growth_interval=3)

    task, scaler = setup()
    steps = fs.on_device.Steps(task.optimizer, scaler=scaler, precision=fs.autocast("fp16"))
    for i in range(20):
        steps.step(partial(task.model.loss, *task.batch(i)))
    skipped = steps.finish()
    other, reference = setup()
    found = [
        fs.training.train_step(
            partial(other.model.loss, *other.batch(i)), other.optimizer,
            precision=fs.autocast("fp16"), scaler=reference,
        ).skipped
        for i in range(20)
    ]  # fmt: skip
    assert abs(skipped - sum(found)) <= 1
    assert scaler.get_scale() in (reference.get_scale() * f for f in (0.5, 1, 2))
    for x, y in zip(task.model.parameters(), other.model.parameters(), strict=True):
        assert abs(x.numpy() - y.numpy()).max() <= 0.1 * max(abs(y.numpy()).max(), 1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_products_in_every_layout(dtype):
    import cupy
    import ml_dtypes

    from fp16sim.kernels import gemm

    kind = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}.get(dtype, np.float32)
    rng = np.random.default_rng(0)
    for turned_left in (False, True):
        for turned_right in (False, True):
            for batch in ((), (3,), (2, 3)):
                sides = []
                for rows, columns, turned in ((5, 8, turned_left), (8, 7, turned_right)):
                    shape = (*batch, columns, rows) if turned else (*batch, rows, columns)
                    x = cupy.asarray(rng.integers(-4, 5, shape).astype(np.float32).astype(kind))
                    sides.append(x.swapaxes(-1, -2) if turned else x)
                expected = np.matmul(*(cupy.asnumpy(x).astype(np.float32) for x in sides))
                np.testing.assert_array_equal(gemm.product(*sides).get(), expected)


@pytest.mark.parametrize("name", ["mlp", "gpt", "yolo", "unet"])
def test_a_recorded_step_is_the_step(name):
    import cupy

    def setup():
        task = fs.models.task(name, "tiny", seed=0)
        task.model.to("cuda")
        region, scaler = fs.autocast("fp16"), fs.GradScaler()
        return task, fs.on_device.Steps(task.optimizer, scaler=scaler, precision=region)

    task, steps = setup()
    other, others = setup()
    batch = [cupy.asarray(array) for array in task.batch(0)]
    recorded = steps.record(lambda: task.model.loss(*batch), task.model)
    for i in range(10):
        for array, new in zip(batch, task.batch(i), strict=True):
            array[...] = cupy.asarray(new)
        loss = recorded.step()
        expected = others.step(partial(other.model.loss, *map(cupy.asarray, other.batch(i))))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    assert steps.finish() == others.finish()


@pytest.mark.parametrize("fmt", ["fp16", "bf16", "fp32"])
def test_arrays_without_axes(fmt):
    """CuPy's ascontiguousarray gives them one."""
    x = fs.Tensor(np.float32([1, 2, 3]), fmt=fmt, device="cuda", requires_grad=True)
    for y in (x.mean(), (x * x).sum(), fs.functional.relu(x[2]), x[1].exp()):
        assert y.shape == ()
    y = x.mean()
    (y * y + y).backward()
    scalar = fs.Tensor(np.float32(2), fmt=fmt, device="cuda", requires_grad=True)
    for _ in range(2):
        (scalar * 3 + scalar).backward()
    assert scalar.grad.shape == ()
    assert scalar.grad.item() == 8
    assert fs.functional.cross_entropy(x.reshape(1, 3), [1]).shape == ()


def test_a_bias_that_is_a_slice_or_kept_otherwise():
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(size).astype(np.float32)
               for size in ((2, 3, 4, 4), (3, 5, 2, 2), 10))  # fmt: skip

    def result(device, kind="auto"):
        given = [fs.Tensor(array, fmt="fp16", device=device) for array in (x, w)]
        with fs.storage(kind):
            bias = fs.Tensor(b, fmt="fp16", device=device)[::2]
        return fs.functional.conv_transpose2d(*given, bias, stride=2).numpy()

    expected = result("cpu")
    for kind in ("native", "emulated"):
        np.testing.assert_allclose(result("cuda", kind), expected, rtol=2e-3, atol=2e-3)


def test_attention_of_nobody():
    q = fs.Tensor(np.zeros((0, 2, 4, 8), np.float32), fmt="fp16", device="cuda")
    for mask in (np.ones((0, 1, 4, 4), bool), np.ones((4,), bool), None):
        assert fs.functional.scaled_dot_product_attention(q, q, q, mask).shape == q.shape


def test_planes_with_more_blocks_than_a_grid_has_rows():
    x = fs.Tensor(np.arange(4097 * 4096, dtype=np.float32).reshape(1, 1, 4097, 4096) % 2048,
                  fmt="fp16", device="cuda")  # fmt: skip
    assert (fs.functional.max_pool2d(x, 1, 1).data == x.data).all()


@pytest.mark.parametrize("recipe", ["DelayedScaling", "CurrentScaling", "MXFP8"])
def test_recipes_of_eight_bits(recipe):
    def losses(device):
        task = fs.models.task("gpt", "tiny", seed=0)
        task.model.to(device)
        region = partial(fs.autocast, "bf16", recipe=getattr(fs.recipes, recipe)())
        return [task.train_step(i, precision=region()).loss for i in range(3)]

    assert losses("cuda") == pytest.approx(losses("cpu"), rel=1e-3)
