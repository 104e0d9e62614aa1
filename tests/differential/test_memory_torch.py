"""What the tape holds for backward, against what PyTorch's graph saves, to the byte."""

import pytest
import torch
from test_zoo_torch import torchs, twins

import fp16sim as fs


def saved_bytes(reference, run):
    """Bytes of all that is saved for backward, each storage once, without parameters."""
    saved = []  # kept until the end, so that no storage has the address of another
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)
    with hooks:
        run()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    for own in (*reference.parameters(), *reference.buffers()):
        storages.pop(own.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def held_bytes(task, policy):
    report = fs.memory_report(task.model, task.batch(0), policy)
    return report.activations + report.casts


# Cross-entropy keeps a factor for each sample or cell, PyTorch one number for all.
FACTORS = {"mlp": 32 * 4 - 4, "cnn": 32 * 4 - 4, "gpt": 8 * 16 * 4 - 4, "unet": 4 * 32 * 32 * 4 - 4}

#: bytes that we hold and PyTorch does not, less those that PyTorch holds and we do not
DIFFERENCES = {
    # the difference of images; PyTorch: both of them, which the layers keep anyway
    "autoencoder": 64 * 64 * 4,
    "mlp": FACTORS["mlp"],
    # PyTorch: means of norms, and the pool's indices; we the pool's output, which is the next
    # layer's input for both
    "cnn": FACTORS["cnn"] - (4 + 8) * 4 - 32 * 8 * 4 * 4 * 8,
    # probabilities of all keys for each query, where PyTorch has one number; means of three norms
    "gpt": FACTORS["gpt"] + 8 * 2 * 16 * 16 * 4 - 8 * 2 * 16 * 4 - 3 * 8 * 16 * 4,
    # means of six norms of four groups, and the pool's indices
    "unet": FACTORS["unet"] - 6 * 4 * 4 * 4 - 4 * 4 * 16 * 16 * 8,
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_fp32(name):
    task, reference = twins(name)
    theirs = saved_bytes(reference, lambda: reference.loss(*torchs(task.batch(0))))
    assert held_bytes(task, "fp32") - theirs == DIFFERENCES[name]


def test_detector():
    """Its loss has many parts, each with some arrays of its own: 0.5% in all."""
    task, reference = twins("yolo")
    theirs = saved_bytes(reference, lambda: reference.loss(*torchs(task.batch(0))))
    assert held_bytes(task, "fp32") == pytest.approx(theirs, rel=5e-3)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_everything_in_fp16(name):
    task, reference = twins(name)
    reference.half()
    forward = reference.forward
    reference.forward = lambda x: forward(x.half()).float()
    theirs = saved_bytes(reference, lambda: reference.loss(*torchs(task.batch(0))))
    # Statistics of norms are fp16 on the CPU, where we and GPUs keep them in fp32.
    statistics = {"mlp": 0, "cnn": (4 + 8) * 4}[name]
    assert held_bytes(task, "O3") - theirs == DIFFERENCES[name] + statistics


@pytest.mark.parametrize(("name", "first"), [("mlp", 64 * 32), ("autoencoder", 64 * 16)])
def test_autocast(name, first):
    """And the first layer's cast weight, which PyTorch knows that nobody will read."""
    task, reference = twins(name)

    def run():
        with torch.autocast("cpu", torch.float16):
            reference.loss(*torchs(task.batch(0)))

    expected = DIFFERENCES[name] + first * 2
    if name == "autoencoder":  # fp32 images, of which the layers keep fp16 ones
        expected -= 2 * 64 * 64 * 4
    assert held_bytes(task, "amp") - saved_bytes(reference, run) == expected


def test_all_of_the_zoo_is_here():
    assert DIFFERENCES.keys() | {"yolo"} == fs.models.TASKS.keys()
