"""The loop: the same for all precisions."""

import numpy as np
import pytest

import fp16sim as fs

F = fs.functional


@pytest.fixture
def problem(rng):
    x = rng.standard_normal((64, 4)).astype(np.float32)
    y = x @ rng.standard_normal((4, 2)).astype(np.float32)
    model = fs.nn.Linear(4, 2, rng=0)

    def loss_of(batch):
        return F.mse_loss(model(fs.Tensor(x[batch])), y[batch])

    return model, loss_of


def test_learns_and_reports_every_step(problem):
    model, loss_of = problem
    seen = []
    history = fs.training.train(
        loss_of,
        fs.data.batches(64, 16, 60, rng=0),
        fs.optim.SGD(model.parameters(), lr=0.1, momentum=0.5),
        on_step=seen.append,
    )
    assert seen == history
    assert [step.index for step in history] == list(range(60))
    assert history[-1].loss < 1e-3 * history[0].loss
    assert all(step.scale == 1.0 and not step.skipped for step in history)


def test_reports_the_unscaled_loss_and_skipped_steps(problem):
    model, loss_of = problem
    scaler = fs.GradScaler(init_scale=2.0**24)
    history = fs.training.train(
        loss_of,
        fs.data.batches(64, 16, 30, rng=0),
        fs.optim.SGD(model.parameters(), lr=0.1),
        precision=fs.autocast("fp16"),
        scaler=scaler,
    )
    skipped = sum(step.skipped for step in history)
    assert 0 < skipped < 20
    assert history[0].skipped
    assert history[0].scale == 2.0**24
    assert scaler.get_scale() == 2.0 ** (24 - skipped)
    assert history[0].loss < 100  # not multiplied by the scale
