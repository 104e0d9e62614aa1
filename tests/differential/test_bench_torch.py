"""``bench --compare torch``: the same networks, in turns; what is not the same is refused."""

import sys
import types

import pytest
import torch

import fp16sim as fs
from fp16sim.bench import peers, torch_zoo
from fp16sim.bench.plan import Plan

PLAN = Plan(size="tiny", turns=1, turn_steps=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", fs.models.TASKS)
def test_first_losses_agree_and_all_is_as_it_was(name, precision):
    before = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    rows, left_out = peers.compare(name, PLAN, precision)
    assert [row.engine for row in rows] == [peers.OURS, peers.EAGER]
    ours, theirs = rows
    assert theirs.first_loss == pytest.approx(
        ours.first_loss, rel=2e-4 if precision == "fp32" else 2e-2
    )
    assert theirs.storage == "native"
    assert ours.storage == ("native" if precision == "fp32" else "emulated")
    assert ours.samples == theirs.samples
    (compiled,) = left_out
    assert compiled.what == f"{name}, {precision}, PyTorch, compiled"
    assert "C++ compiler" in compiled.why
    assert before == (torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32)


def test_another_network_is_refused(monkeypatch):
    honest = torch_zoo.network

    def other(task):
        model = honest(task)
        with torch.no_grad():
            next(model.parameters()).mul_(1.5)
        return model

    monkeypatch.setattr(torch_zoo, "network", other)
    with pytest.raises(RuntimeError, match="they are not the same network"):
        peers.compare("mlp", PLAN, "fp32")


def test_steps_learn_as_ours_do():
    step = peers._step_of(torch, "mlp", PLAN, "fp32", compiled=False)
    theirs = [step() for _ in range(6)]
    task = fs.models.task("mlp", "tiny", seed=0)
    ours = [
        fs.training.train_step(lambda i=i: task.model.loss(*task.batch(i % 4)), task.optimizer).loss
        for i in range(6)
    ]
    assert theirs == pytest.approx(ours, rel=1e-5)


def test_a_compiler_that_fails_is_a_line_of_the_record(monkeypatch):
    def fails(function):
        def call(*_):
            raise RuntimeError("no compiler\nand much more")

        return call

    monkeypatch.setattr(peers, "_why_not", lambda *_: "")
    monkeypatch.setattr(torch, "compile", fails)
    rows, (left,) = peers.compare("mlp", PLAN, "fp32")
    assert len(rows) == 2
    assert left.why == "torch.compile failed (RuntimeError: no compiler)"
    assert left.failed


def test_compiled_steps_take_turns_like_the_others(monkeypatch):
    compiled = []
    monkeypatch.setattr(peers, "_why_not", lambda *_: "")
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(1) or function)
    rows, left_out = peers.compare("mlp", PLAN, "fp32")
    assert [row.engine for row in rows] == [peers.OURS, peers.EAGER, peers.COMPILED]
    assert compiled == [1]
    assert not left_out


def test_a_pytorch_without_cuda_is_said_to_be():
    cuda = types.SimpleNamespace(is_available=lambda: False)
    said = peers._why_not(types.SimpleNamespace(cuda=cuda, __version__="0"), peers.EAGER, "cuda")
    assert "without CUDA, or finds no GPU" in said


def test_tf32_is_as_it_was_after_an_error():
    place = torch.backends.cuda.matmul
    before, inside = place.allow_tf32, []

    def fails():
        inside.append(place.allow_tf32)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), peers._tf32(torch, not before):
        fails()
    assert inside == [not before]
    assert place.allow_tf32 is before


def test_importing_the_room_loads_no_pytorch():
    import subprocess

    code = "import sys, fp16sim.bench.run, fp16sim.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
