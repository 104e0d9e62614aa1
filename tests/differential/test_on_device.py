"""Steps that a GPU decides by itself, its kernels run on the host, against ``train_step``."""

import types
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
from conftest import assert_same_bits
from test_fused_source import launchers  # noqa: F401 - a fixture

import fp16sim as fs
from fp16sim import on_device
from fp16sim.functional.checks import trusted


@pytest.fixture
def device(launchers, monkeypatch):  # noqa: F811
    monkeypatch.setattr(on_device, "_kernels", lambda: launchers[-1])
    monkeypatch.setattr(on_device, "is_on_gpu", lambda x: isinstance(x, np.ndarray))


OPTIMIZERS = {
    "adam": lambda p, **how: fs.optim.Adam(p, 3e-3, weight_decay=0.1, **how),
    "adamw": lambda p, **how: fs.optim.AdamW(p, 3e-3, **how),
    "sgd": lambda p, **how: fs.optim.SGD(p, 0.1, **how),
    "momentum": lambda p, **how: fs.optim.SGD(p, 0.1, 0.9, weight_decay=0.01, **how),
    "nesterov": lambda p, **how: fs.optim.SGD(p, 0.1, 0.9, nesterov=True, **how),
}


def setup(optimizer, low=False):
    task = fs.models.task("mlp", "tiny", seed=0)
    if low:
        fs.presets.O2.prepare(task.model)
    how = fs.presets.O2.storage() if low else {}
    moves = OPTIMIZERS[optimizer](task.model.parameters(), **how)
    return task, moves


def assert_alike(model, other):
    for (name, x), (_, y) in zip(model.named_tensors(), other.named_tensors(), strict=True):
        eps = 4 * x.fmt.eps  # an optimiser's last bits
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=eps, atol=eps * 1e-2, err_msg=name)


@pytest.mark.parametrize("low", [False, True], ids=["fp32 weights", "fp16 weights"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_steps_of_train_step(device, optimizer, low):
    """From a scale that is much too large; half of the way is gone by ``train_step`` before."""
    rule = {"init_scale": 2.0**28, "growth_interval": 3}
    region = (fs.presets.O2 if low else fs.presets.amp).region

    def run(task, moves, scaler, i):
        loss = partial(task.model.loss, *task.batch(i))
        return fs.training.train_step(loss, moves, precision=region(), scaler=scaler)

    with fs.storage("native"):
        task, moves = setup(optimizer, low)
        other, others = setup(optimizer, low)
        scaler, reference = fs.GradScaler(**rule), fs.GradScaler(**rule)
        skipped = [run(other, others, reference, i).skipped for i in range(24)]
        assert 5 < sum(skipped) < 20
        for i in range(12):
            run(task, moves, scaler, i)
        steps = on_device.Steps(moves, scaler=scaler, precision=region())
        losses = [steps.step(lambda i=i: task.model.loss(*task.batch(i))) for i in range(12, 18)]
        assert all(type(loss) is fs.Tensor and not loss.requires_grad for loss in losses)
        assert steps.finish() == sum(skipped[12:18])
        for i in range(18, 24):
            steps.step(lambda i=i: task.model.loss(*task.batch(i)))
        assert steps.finish() == sum(skipped[18:])
    assert_alike(task.model, other.model)
    assert scaler.state_dict() == reference.state_dict()
    for mine, theirs in zip(moves.state, others.state, strict=True):
        assert mine.keys() == theirs.keys()
        assert mine.get("step") == theirs.get("step")
    run(task, moves, scaler, 24)  # and on the host again
    run(other, others, reference, 24)
    assert_alike(task.model, other.model)


@pytest.mark.parametrize(
    "scaler", [None, fs.NoScaler(), fs.StaticScaler(128.0)], ids=["none", "off", "static"]
)
def test_without_a_dynamic_scale(device, scaler):
    task, moves = setup("adam")
    other, others = setup("adam")
    steps = on_device.Steps(moves, scaler=scaler)
    for i in range(3):
        loss = steps.step(lambda i=i: task.model.loss(*task.batch(i)))
        expected = fs.training.train_step(
            lambda i=i: other.model.loss(*other.batch(i)), others, scaler=scaler
        )
        assert loss.item() == pytest.approx(expected.loss, rel=1e-5)
    assert steps.finish() == 0
    assert_alike(task.model, other.model)


def test_values_are_looked_at_once(device):
    task, moves = setup("sgd")
    steps, seen = on_device.Steps(moves), []

    def loss_of():
        seen.append(trusted.get())
        return task.model.loss(*task.batch(0))

    for _ in range(3):
        steps.step(loss_of)
    assert seen == [False, True, True]
    assert not trusted.get()
    with pytest.raises(ZeroDivisionError):
        steps.step(lambda: 1 / 0)
    assert not trusted.get()


def test_a_learning_rate_that_moves(device):
    task, moves = setup("sgd")
    steps, before = on_device.Steps(moves), task.model.state_dict()
    moves.lr = 0.0
    steps.step(lambda: task.model.loss(*task.batch(0)))
    for name, value in task.model.state_dict().items():
        assert (value.numpy() == before[name].numpy()).all()


class HostPlace:
    """A recording is made by running the body, and played by running it to the same arrays."""

    def __init__(self, params):
        self.params = params

    def memory(self):
        return nullcontext()

    stream = memory

    def recorded(self, body):
        result = body()
        gradients = [p.gradient for p in self.params]

        def launch():
            again = body()
            result.data[...] = again.data
            for p, gradient in zip(self.params, gradients, strict=True):
                gradient[...] = p.gradient
                p.gradient = None  # what is read must be the recording's

        return types.SimpleNamespace(launch=launch), result


@pytest.mark.parametrize("name", ["mlp", "yolo"])  # the second has running statistics
def test_a_recorded_step(device, monkeypatch, name):
    def setup():
        task = fs.models.task(name, "tiny", seed=0)
        moves = fs.optim.AdamW(task.model.parameters(), 1e-3)
        scaler = fs.GradScaler(init_scale=2.0**24, growth_interval=3)
        steps = on_device.Steps(moves, scaler=scaler, precision=fs.autocast("fp16"))
        return task, moves, scaler, steps

    task, moves, scaler, steps = setup()
    other, _, reference, others = setup()
    monkeypatch.setattr(on_device, "_Place", lambda: HostPlace(moves.params))
    batch = [array.copy() for array in task.batch(7)]
    before = task.model.state_dict()
    recorded = steps.record(lambda: task.model.loss(*batch), task.model)
    for path, value in task.model.state_dict().items():
        assert_same_bits(value.numpy(), before[path].numpy())
    for i in range(12):
        for array, new in zip(batch, task.batch(i), strict=True):
            array[...] = new
        loss = recorded.step()
        expected = others.step(partial(other.model.loss, *other.batch(i)))
        assert loss.item() == expected.item()
    assert steps.finish() == others.finish() > 0
    assert scaler.state_dict() == reference.state_dict()
    pairs = zip(task.model.named_tensors(), other.model.named_tensors(), strict=True)
    for (_, x), (_, y) in pairs:
        assert_same_bits(x.numpy(), y.numpy())
    if name == "mlp":  # running statistics would be in other arrays
        steps.step(partial(task.model.loss, *batch))  # not recorded, in between
        recorded.step()
    fs.training.train_step(partial(task.model.loss, *batch), moves)  # makes new arrays
    with pytest.raises(RuntimeError, match="record it again"):
        recorded.step()


def test_a_recording_that_fails_changes_nothing(device, monkeypatch):
    task = fs.models.task("yolo", "tiny", seed=0)
    losses = iter([task.model.loss(*task.batch(0))])
    steps, before = on_device.Steps(task.optimizer), task.model.state_dict()
    buffers = [buffer.data for _, buffer in task.model.named_buffers()]
    monkeypatch.setattr(on_device, "_Place", lambda: HostPlace(task.optimizer.params))
    with pytest.raises(StopIteration):
        steps.record(lambda: (task.model.loss(*task.batch(1)), next(losses))[1], task.model)
    for path, value in task.model.state_dict().items():
        assert_same_bits(value.numpy(), before[path].numpy())
    for array, (_, buffer) in zip(buffers, task.model.named_buffers(), strict=True):
        assert buffer.data is array


def test_bad_models_are_refused(device):
    _, moves = setup("sgd")
    with pytest.raises(TypeError, match="model must be a Module or None, got 3"):
        on_device.Steps(moves).record(lambda: None, 3)


def test_refusals(device, monkeypatch):
    task, moves = setup("adam")
    params = list(task.model.parameters())
    for wrong, error, words in (
        (lambda: on_device.Steps(fs.optim.Lion(params)), TypeError, "SGD, Adam or AdamW"),
        (lambda: on_device.Steps(moves, scaler=2.0), TypeError, "scaler must be"),
        (lambda: on_device.Steps(moves, precision="fp16"), TypeError, "precision must be"),
        (
            lambda: on_device.Steps(fs.optim.Adam(params, state_fmt="bf16")),
            ValueError,
            r"params\[0\] keeps its m in bf16",
        ),
        (
            lambda: on_device.Steps(fs.optim.SGD(params, rounding="stochastic", rng=0)),
            ValueError,
            "rounding='stochastic'",
        ),
    ):
        with pytest.raises(error, match=words):
            wrong()
    steps = on_device.Steps(moves)
    with pytest.raises(ValueError, match=r"params\[\d\] has no gradient"):
        steps.step(lambda: (params[0] * 2).sum())
    with fs.autocast("fp16"), pytest.raises(RuntimeError, match="must not be inside an autocast"):
        steps.step(lambda: task.model.loss(*task.batch(0)))
    with fs.watch(), pytest.raises(RuntimeError, match="use training"):
        steps.step(lambda: task.model.loss(*task.batch(0)))
    low = fs.models.task("mlp", "tiny").model.to("fp16")
    with pytest.raises(ValueError, match="with master_weights=True"):
        on_device.Steps(fs.optim.SGD(low.parameters()))
    monkeypatch.setattr(on_device, "is_on_gpu", lambda x: False)
    with pytest.raises(ValueError, match="is on the host; move the model"):
        on_device.Steps(moves)
