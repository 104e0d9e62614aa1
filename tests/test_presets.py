"""Presets: what they do to a model, an optimiser and a step, against plain programs."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fp16sim as fs
from fp16sim.precision import Policy
from fp16sim.presets import PRESETS, Preset, describe, jmp, pure
from fp16sim.scaling import LossScale

F = fs.functional


def network():
    return fs.nn.Sequential(
        fs.nn.Linear(4, 8, rng=0), fs.nn.LayerNorm(8), fs.nn.ReLU(), fs.nn.Linear(8, 3, rng=1)
    )


@pytest.fixture
def batch(rng):
    return rng.standard_normal((5, 4)).astype(np.float32), np.array([0, 1, 2, 0, 1])


def half(x):
    return np.asarray(x, np.float32).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize(
    ("setup", "parameters", "norms"),
    [
        (fs.presets.O0, "fp32", "fp32"),
        (fs.presets.O1, "fp32", "fp32"),
        (fs.presets.O2, "fp16", "fp32"),
        (fs.presets.O3, "fp16", "fp16"),
        (fs.presets.keras_mixed_float16, "fp32", "fp32"),
        (pure("bf16"), "bf16", "bf16"),
        (jmp("p=f16,c=f32"), "fp16", "fp16"),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_prepare(setup, parameters, norms):
    model, plain = network(), dict(network().named_parameters())
    assert setup.prepare(model) is model
    for name, p in model.named_parameters():
        wanted = norms if name.startswith("1") else parameters
        assert str(p.fmt) == wanted
        assert (p.data == fs.round_to(plain[name].data, wanted)).all()
    assert list(dict(model.named_parameters())) == list(plain)


def test_buffers_and_shared_parameters():
    model = fs.nn.Sequential(fs.nn.BatchNorm2d(2), fs.nn.Linear(2, 2, rng=0))
    model[1].bias = model[0].bias
    fs.presets.O2.prepare(model)
    assert model[0].running_var.fmt is fs.FP32
    assert model[1].bias.fmt is fs.FP32  # the norm's
    assert model[1].weight.fmt is fs.FP16


def formats(setup, images, labels):
    """Formats of the model's first product, of its output and of the loss."""
    model, seen = setup.prepare(network()), {}
    see = model[0].hook(lambda m, x, y: seen.update(input=x[0].fmt, inside=y.fmt))
    with see, setup.region():
        y = model(fs.Tensor(images))
        loss = F.cross_entropy(y, labels)
    return [str(fmt) for fmt in (seen["input"], seen["inside"], y.fmt, loss.fmt)]


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        (fs.presets.O0, ["fp32", "fp32", "fp32", "fp32"]),
        (fs.presets.O1, ["fp32", "fp16", "fp16", "fp32"]),
        (fs.presets.amp_bf16, ["fp32", "bf16", "bf16", "fp32"]),
        (fs.presets.O2, ["fp16", "fp16", "fp32", "fp32"]),
        (fs.presets.O3, ["fp16", "fp16", "fp32", "fp32"]),
        (fs.presets.keras_mixed_float16, ["fp16", "fp16", "fp32", "fp32"]),
        (pure("fp16"), ["fp16", "fp16", "fp16", "fp16"]),
        (jmp("p=f32,c=bf16,o=f16"), ["bf16", "bf16", "fp16", "fp16"]),
        (jmp("p=f16,c=f32"), ["fp32", "fp32", "fp32", "fp32"]),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_region(setup, expected, batch):
    images, labels = batch
    assert formats(setup, images, labels) == expected
    if not setup.op_lists:  # a model as a whole is given fp64 in the compute format, too
        assert formats(setup, images.astype(np.float64), labels) == expected


def test_a_whole_model_in_fp16_is_a_straight_line_program(batch):
    """jmp's: cast weights and inputs, compute in fp16, cast the output, and all the way back."""
    images = batch[0]
    model = fs.nn.Sequential(fs.nn.Linear(4, 3, rng=0), fs.nn.Tanh())
    with jmp("p=f32,c=f16,o=f32").region():
        y = model(fs.Tensor(images))
    y.backward(np.full(y.shape, np.float32(1 + 2.0**-11 + 2.0**-20)))
    w, b = (half(p.data) for p in model.parameters())
    z = half(half(images).astype(np.float64) @ w.T.astype(np.float64) + b)
    t = half(np.tanh(z.astype(np.float64)))
    np.testing.assert_array_equal(y.data, t)
    g = half(np.float32(1 + 2.0**-10) * (1 - t.astype(np.float64) ** 2))
    weight, bias = model.parameters()
    assert weight.grad.fmt is fs.FP32
    np.testing.assert_array_equal(weight.grad.data, half(g.T @ half(images).astype(np.float64)))
    np.testing.assert_array_equal(bias.grad.data, half(g.astype(np.float64).sum(axis=0)))


def test_a_recomputed_part_of_a_whole_model(batch):
    """Gradients are those of the plain call; the part's output is not cast again."""

    class Model(fs.nn.Module):
        def __init__(self, run):
            self.first, self.second = (fs.nn.Linear(4, 4, rng=seed) for seed in (0, 1))
            self.run, self.seen = run, []

        def forward(self, x):
            return self.run(self.part, self.first(x))

        def part(self, x):
            y = self.second(x)
            self.seen.append(y.fmt)
            return y + y

    gradients = []
    for run in (lambda f, x: f(x), fs.nn.checkpoint):
        model = Model(run)
        with jmp("p=f32,c=f16,o=bf16").region():
            y = model(fs.Tensor(batch[0]))
        y.backward(np.full(y.shape, np.float32(0.3)))
        gradients.append([p.grad.data.tolist() for p in model.parameters()])
        assert set(model.seen) == {fs.FP16}
    assert gradients[0] == gradients[1]
    assert len(model.seen) == 2


def test_outside_of_models_a_whole_region_changes_nothing():
    x = fs.Tensor(np.ones((2, 2), np.float32))
    with fs.presets.O3.region():
        assert (x @ x).fmt is fs.FP32
        model = fs.nn.Linear(2, 2, rng=0)
        assert (F.mse_loss(model(x), x) * 3.0).fmt is fs.FP32  # and not fp16, as in jmp


def test_outputs_of_any_structure():
    class Two(fs.nn.Module):
        def forward(self, x):
            return {"a": [x, 3], "b": (x,)}, None

    with fs.presets.O3.region():
        out, nothing = Two()(fs.Tensor(np.ones(2, np.float32)))
    assert out["a"][0].fmt is out["b"][0].fmt is fs.FP32
    assert (out["a"][1], nothing) == (3, None)


def test_storage():
    assert fs.presets.O2.storage() == {"master_weights": True}
    assert fs.presets.O3.storage() == {"master_weights": False}
    stochastic = pure("bf16", stochastic=True)
    assert stochastic.storage(7) == {"rounding": "stochastic", "rng": 7}
    model = stochastic.prepare(network())
    optimizer = fs.optim.SGD(model.parameters(), 0.1, **stochastic.storage(0))
    assert optimizer.rounding == "stochastic"
    with pytest.raises(ValueError, match="rng=7 is not allowed; O2 rounds without chance"):
        fs.presets.O2.storage(7)
    with pytest.raises(ValueError, match="rng=None is not allowed for rounding='stochastic'"):
        fs.optim.SGD(model.parameters(), 0.1, **stochastic.storage())
    with pytest.raises(ValueError, match="master_weights=True"):
        replace(fs.presets.O2, rounding="stochastic")


def test_scaler():
    assert fs.presets.O1.scaler().get_scale() == 65536
    assert fs.presets.keras_mixed_float16.scaler().get_scale() == 32768
    assert not fs.presets.O3.scaler().is_enabled()
    assert fs.presets.O1.scaler() is not fs.presets.O1.scaler()
    fixed = jmp("half", LossScale(scale=8.0, dynamic=False)).scaler()
    assert fixed.get_scale() == 8


def test_o2_divides_in_fp32_what_fp16_cannot_hold():
    """A gradient of 2^-30: 2^-14 when scaled; unscaled in fp16 it would be 0."""
    setup = replace(fs.presets.O2, scale=LossScale(scale=2.0**16))
    model = setup.prepare(fs.nn.Linear(1, 1, bias=False, rng=0))
    model.weight.data = np.float32([[0.0]])
    optimizer = fs.optim.SGD(model.parameters(), 1.0, **setup.storage())
    scaler = setup.scaler()
    for count in (1, 2):
        optimizer.zero_grad()
        with setup.region():
            loss = (model(fs.Tensor(np.float32([[1.0]]))) * np.float32(2.0**-30)).sum()
        scaler.scale(loss).backward()
        assert model.weight.grad.fmt is fs.FP16
        assert model.weight.grad.item() == 2.0**-14
        assert scaler.step(optimizer)
        scaler.update()
        assert optimizer.state[0]["master"].item() == -count * 2.0**-30
        assert model.weight.data.item() == 0
    optimizer.zero_grad()
    with setup.region():
        loss = (model(fs.Tensor(np.float32([[1.0]]))) * np.float32(2.0)).sum()
    scaler.scale(loss).backward()  # 2^17: infinite in fp16
    assert not scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**15
    with pytest.raises(ValueError, match="fp16 gradient"):
        scaler.unscale_(optimizer)
    assert optimizer.grad_factor == 1


@pytest.mark.parametrize("setup", [*PRESETS.values(), jmp("bf16")], ids=lambda x: x.name)
def test_every_preset_trains_the_mlp(setup):
    task = fs.models.task("mlp", "tiny", 0)
    setup.prepare_training(task.model, task.optimizer)
    run = task.run(precision=setup.region(), scaler=setup.scaler())
    losses = [step.loss for step in run.train(40)]
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    with pytest.raises(RuntimeError, match="before the first step"):
        setup.prepare_training(task.model, task.optimizer)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("p=f32,c=f16,o=f32", "fp32 fp16 fp32"),
        ("params=float32,compute=bfloat16,output=half", "fp32 bf16 fp16"),
        ("c=f16", "fp32 fp16 fp16"),
        ("p=f16", "fp16 fp16 fp16"),
        ("o=f64", "fp32 fp32 fp64"),
        (" o = full , p = bf16 ", "bf16 bf16 fp32"),
        ("float16", "fp16 fp16 fp16"),
        ("f64", "fp64 fp64 fp64"),
    ],
)
def test_jmps_rules(policy, expected):
    """Read by hand off the source of jmp's policy.py."""
    setup = jmp(policy)
    assert f"{setup.parameters} {setup.compute} {setup.output}" == expected
    assert setup.norms is setup.parameters
    assert setup.scale is None


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("p=f32,q=f16", "has 'q=f16'; allowed are p=, c= and o="),
        ("p=f32,p=f16", "once each"),
        ("p=f8", "has the format 'f8'; allowed are f16"),
        ("fp16", "has the format 'fp16'"),
        ("", "has the format ''"),
        ("p=f32,", "allowed are p="),
    ],
)
def test_what_jmp_does_not_read(policy, message):
    with pytest.raises(ValueError, match=message):
        jmp(policy)


def test_types_are_checked():
    with pytest.raises(TypeError, match="policy must be a string"):
        jmp(16)
    with pytest.raises(TypeError, match="stochastic must be True or False"):
        pure("fp16", stochastic=1)
    with pytest.raises(TypeError, match="model must be a Module"):
        fs.presets.O2.prepare([])
    with pytest.raises(TypeError, match="optimizer must be an Optimizer"):
        fs.presets.O2.prepare_training(network(), None)


def test_the_table_says_what_the_presets_are():
    rows = {row.name: row for row in describe()}
    assert set(PRESETS) < set(rows)
    assert rows["O2"].parameters == "fp16, norms fp32, fp32 copies"
    assert rows["amp"].pytorch == 'autocast("cuda", torch.float16) + GradScaler()'
    assert rows["keras_mixed_float16"].keras == 'set_dtype_policy("mixed_float16")'
    assert rows["keras_mixed_float16"].jmp == "p=f32,c=f16,o=f32"
    for row in rows.values():
        if row.jmp:  # as jmp would read it
            setup, named = jmp(row.jmp), PRESETS.get(row.name)
            if named is not None:
                kept = (named.parameters, named.norms, named.compute, named.output)
                assert kept == (setup.parameters, setup.norms, setup.compute, setup.output)


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "fp16sim", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_has_the_table_of_the_code():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    table = re.search(r"<!-- presets -->\n(.*?)<!-- end -->", readme, re.DOTALL)[1]
    assert table == command("presets", "--markdown")


def test_commands():
    assert json.loads(command("presets", "--json"))[0]["name"] == "O0"
    assert "keras_mixed_bfloat16" in command("presets")
    record = json.loads(
        command("train", "mlp", "--fast", "--precision", "O2", "--steps", "3", "--json")
    )
    assert record["scaling"] is True
    assert record["precision"] == "O2"
    from fp16sim.cli.train import PRESETS as NAMES

    assert set(NAMES) == set(PRESETS)


def test_presets_are_data():
    mine = Preset("mine", parameters=fs.BF16, compute=fs.E4M3, op_lists=True, output=fs.BF16)
    assert mine.policy == "p=bf16,c=e4m3,o=bf16"
    with mine.region():
        x = fs.Tensor(np.ones((2, 2), np.float32))
        assert ((x @ x).fmt, (x @ x).sum().fmt) == (fs.E4M3, fs.BF16)


@pytest.mark.parametrize("name", ["keras_mixed_float16", "O2", "O3"])
def test_a_frozen_weight_is_a_weight(name):
    preset = getattr(fs.presets, name)
    model = fs.nn.Sequential(fs.nn.Linear(4, 4, rng=0), fs.nn.Linear(4, 2, rng=1))
    for parameter in model[0].parameters():
        parameter.requires_grad = False
    preset.prepare(model)
    formats = {}
    with fs.watch(model) as xray, preset.region():
        model(fs.Tensor(np.ones((3, 4), np.float32)))
    for key in xray.counts:
        if key.op == "linear":
            formats[key.scope] = key.fmt
    assert formats == {"0": fs.FP16, "1": fs.FP16}
    assert model[0].weight.fmt is preset.parameters


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: fs.presets.Preset("x", rounding="up"), ValueError, "rounding='up'"),
        (lambda: fs.presets.Preset("x", parameters="fp17"), ValueError, "parameters='fp17'"),
        (lambda: fs.presets.Preset("x", op_lists=1), TypeError, "op_lists"),
        (lambda: fs.presets.jmp("p=f32", scale=128.0), TypeError, "scale must be a LossScale"),
        (lambda: Policy("fp17"), ValueError, "low='fp17'"),
        (lambda: Policy(fs.FP16, recipe=3), TypeError, "recipe"),
    ],
)
def test_fields_are_checked_at_once(make, error, words):
    with pytest.raises(error, match=words):
        make()
    assert fs.presets.Preset("x", parameters="fp16").parameters is fs.FP16
    assert Policy("bf16").low is fs.BF16
