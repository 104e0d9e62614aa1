"""The loop: the same for all precisions; runs that are stopped and continued."""

import os
import signal
import threading

import numpy as np
import pytest

import fp16sim as fs
from fp16sim import checkpoint

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


def gpt_run(seed=0, dropout=0.2):
    """Dropout, a schedule, a scale that moves up and down, and a generator of the user's own."""
    model = fs.models.GPT(20, length=8, width=16, depth=1, heads=2, dropout=dropout, rng=seed)
    optimizer = fs.optim.AdamW(model.parameters(), lr=1e-2)
    noise = np.random.default_rng(7)

    def loss_of(step):
        ids = np.random.default_rng([seed, step]).integers(0, 20, (4, 9))
        ids[noise.integers(4)] = 0
        return model.loss(ids[:, :-1], ids[:, 1:])

    return fs.training.Run(
        model,
        optimizer,
        loss_of,
        precision=fs.autocast("fp16"),
        scaler=fs.GradScaler(init_scale=2.0**22, growth_interval=3),
        schedule=fs.optim.Schedule(optimizer, fs.optim.schedules.cosine(9, warmup=2)),
        generators={"noise": noise},
    )


def cnn_run():
    """Running statistics."""
    task = fs.models.task("cnn", "tiny", seed=3)
    scaler = fs.GradScaler(init_scale=2.0**18, growth_interval=3)
    return task.run(precision=fs.autocast("fp16"), scaler=scaler)


RUNS = {"gpt": gpt_run, "cnn": cnn_run}


def state(run, path):
    """All that a run is, as bytes."""
    run.save(path)
    return path.read_bytes()


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


@pytest.fixture(autouse=True)
def the_handler_is_restored():
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def hysteresis_run():
    """The second step bears the last overflow but one; the scale has limits."""
    scaler = fs.GradScaler(2.0**24, growth_interval=3, hysteresis=3, max_scale=2.0**24)
    return fs.models.task("cnn", "tiny", seed=3).run(precision=fs.autocast("fp16"), scaler=scaler)


class TestContinuedRuns:
    def test_overflows_that_the_scaler_bore_are_not_forgotten(self, path):
        whole, run, again = hysteresis_run(), hysteresis_run(), hysteresis_run()
        whole.train(6)
        assert [step.scale for step in whole.history[:4]] == [2.0**24] * 3 + [2.0**23]
        run.train(2, path=path)
        assert run.scaler.state_dict()["borne"] == 2
        again.load(path)
        again.train(6)
        assert again.history == whole.history

    @pytest.mark.parametrize("make", RUNS.values(), ids=RUNS)
    def test_are_the_uninterrupted_ones_bit_for_bit(self, make, path, tmp_path):
        whole = make()
        whole.train(9)
        assert len({step.scale for step in whole.history}) > 2
        assert len({step.skipped for step in whole.history}) == 2
        for stop in (2, 5, 8):  # each in a new run, as in a new process
            run = make()
            if stop > 2:
                run.load(path)
            run.train(stop, path=path)
            assert len(run.history) == stop
        last = make()
        last.load(path)
        assert last.history == whole.history[:8]
        last.train(9)
        assert last.history == whole.history
        for (name, x), (_, y) in zip(
            last.model.named_tensors(), whole.model.named_tensors(), strict=True
        ):
            assert x.data.tobytes() == y.data.tobytes(), name
        for name, rng in last.generators.items():
            assert rng.bit_generator.state == whole.generators[name].bit_generator.state
        assert state(last, tmp_path / "last") == state(whole, tmp_path / "whole")

    def test_all_generators_are_found(self):
        run = gpt_run()
        assert run.generators.keys() == {"noise", "model.blocks.0.dropout"}
        assert run.generators["model.blocks.0.dropout"] is run.model.blocks[0].dropout.rng

    def test_saving_changes_nothing(self, path, tmp_path):
        often, never = gpt_run(), gpt_run()
        often.train(4, path=path, every=1)
        never.train(4)
        assert state(often, path) == state(never, tmp_path / "never")

    def test_what_is_done_is_not_done_again(self, path):
        run = gpt_run()
        run.train(3, path=path)
        before = state(run, path)
        assert len(run.train(2)) == 3
        assert len(run.train(0)) == 3
        assert state(run, path) == before


class TestInterrupted:
    @pytest.mark.parametrize("where", ["loss", "on_step", "evaluate"])
    def test_finishes_the_step_saves_and_raises(self, where, path, tmp_path):
        whole, run = gpt_run(), gpt_run()
        whole.train(6)
        loss_of = run.loss_of

        def loss_and_interrupt(step):
            if step == 3:
                interrupt()
            return loss_of(step)

        hooks = {
            "loss": {},
            "on_step": {"on_step": lambda step: interrupt() if step.index == 3 else None},
            "evaluate": {"every": 4, "evaluate": lambda: interrupt() or {}},
        }[where]
        if where == "loss":
            run.loss_of = loss_and_interrupt
        with pytest.raises(KeyboardInterrupt, match="stopped after step 4 of 6"):
            run.train(6, path=path, **hooks)
        assert run.history == whole.history[:4]
        again = gpt_run()
        again.load(path)
        again.train(6)
        assert again.history == whole.history
        again.metrics = []
        assert state(again, tmp_path / "again") == state(whole, tmp_path / "whole")

    def test_a_second_one_does_not_wait(self, path):
        run = gpt_run()
        loss_of, reached = run.loss_of, []

        def loss_and_interrupt(step):
            if step == 3:
                interrupt()
                reached.append("after the first")
                interrupt()
                reached.append("after the second")
            return loss_of(step)

        run.loss_of = loss_and_interrupt
        with pytest.raises(KeyboardInterrupt):
            run.train(6, path=path, every=2)
        assert reached == ["after the first"]
        assert len(run.history) == 3
        other = gpt_run()
        other.load(path)
        assert len(other.history) == 2  # the last that was saved

    def test_without_a_path_nothing_is_saved(self, tmp_path):
        run = gpt_run()
        with pytest.raises(KeyboardInterrupt, match="after step 1 of 3"):
            run.train(3, on_step=lambda _: interrupt())
        assert len(run.history) == 1
        assert list(tmp_path.iterdir()) == []

    def test_the_handler_is_ours_only_while_training(self):
        before, seen = signal.getsignal(signal.SIGINT), []
        gpt_run().train(1, on_step=lambda _: seen.append(signal.getsignal(signal.SIGINT)))
        assert seen[0] is not before
        with pytest.raises(ZeroDivisionError):
            gpt_run().train(1, on_step=lambda _: 1 / 0)
        assert signal.getsignal(signal.SIGINT) is before

    def test_in_another_thread_the_handler_stays(self, path, tmp_path):
        before, seen, run, same = signal.getsignal(signal.SIGINT), [], gpt_run(), gpt_run()
        look = {"on_step": lambda _: seen.append(signal.getsignal(signal.SIGINT))}
        thread = threading.Thread(target=run.train, args=(3,), kwargs=look)
        thread.start()
        thread.join()
        assert seen == [before] * 3
        same.train(3)
        assert state(run, path) == state(same, tmp_path / "same")


class TestOnTheWay:
    def test_on_step_evaluate_and_every(self, path, monkeypatch):
        run, events = gpt_run(), []
        save = run.save
        monkeypatch.setattr(run, "save", lambda path: events.append("save") or save(path))

        def evaluate():
            events.append("evaluate")
            return {"score": 0.5}

        history = run.train(
            5, path=path, every=2, on_step=lambda step: events.append(step.index), evaluate=evaluate
        )
        measured = ["evaluate", "save"]
        assert events == [0, 1, *measured, 2, 3, *measured, 4, *measured]
        assert run.metrics == [{"steps": n, "score": 0.5} for n in (2, 4, 5)]
        assert history is run.history
        assert [step.index for step in history] == list(range(5))
        other = gpt_run()
        other.load(path)
        assert other.metrics == run.metrics

    def test_a_task_can_be_measured_and_saved(self, path):
        task = fs.models.task("yolo", "tiny")
        task.run().train(1, path=path, evaluate=task.evaluate)
        assert checkpoint.load(path)["metrics"][0].keys() == {"steps", *task.evaluate()}

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"steps": -1}, ValueError, "steps=-1"),
            ({"steps": 1.5}, TypeError, "steps must be an integer"),
            ({"steps": 1, "every": 0}, ValueError, "every=0"),
        ],
    )
    def test_refusals(self, arguments, error, message):
        run = gpt_run()
        with pytest.raises(error, match=message):
            run.train(**arguments)
        assert run.history == []


def without(run, name):
    setattr(run, name, None)
    return run


def changed(run):
    run.about = {"size": "tiny"}
    return run


class TestRefusedFiles:
    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (cnn_run, "does not fit the model"),
            (lambda: without(gpt_run(), "scaler"), "was saved with a scaler; this run differs"),
            (lambda: without(gpt_run(), "schedule"), "was saved with a schedule; this run differs"),
            (lambda: changed(gpt_run()), "is of the run {}; this one is {'size': 'tiny'}"),
        ],
    )
    def test_other_runs(self, other, message, path):
        gpt_run().train(1, path=path)
        run = other()
        with pytest.raises(ValueError) as caught:
            run.load(path)
        assert message in str(caught.value)
        assert run.history == []

    @pytest.mark.parametrize("name", ["scaler", "schedule"])
    def test_runs_that_had_less(self, name, path):
        without(gpt_run(), name).train(1, path=path)
        with pytest.raises(ValueError, match=f"was saved without a {name}"):
            gpt_run().load(path)

    def test_other_formats_shapes_generators_and_optimisers(self, path):
        gpt_run().train(1, path=path)
        run = gpt_run()
        run.model.to("bf16")
        with pytest.raises(ValueError, match="differs in name or format"):
            run.load(path)
        run = gpt_run()
        run.generators["more"] = run.generators.pop("noise")
        with pytest.raises(ValueError, match=r"has the generators .*'noise'.*, this run .*'more'"):
            run.load(path)
        run = gpt_run()
        run.optimizer = fs.optim.SGD(run.model.parameters(), lr=0.1)
        with pytest.raises(ValueError, match=r"saved\['settings'\] has the entries betas"):
            run.load(path)
        run = gpt_run()
        run.model.head.weight.data = np.zeros((21, 16), np.float32)
        with pytest.raises(ValueError, match=r"for head\.weight; allowed is"):
            run.load(path)

    def test_files_that_are_no_runs(self, path):
        run = gpt_run()
        with pytest.raises(FileNotFoundError):
            run.load(path)
        checkpoint.save(path, {"model": {}})
        with pytest.raises(ValueError, match="is a checkpoint, but not one of a training run"):
            run.load(path)
        checkpoint.save(path, [1, 2])
        with pytest.raises(ValueError, match="not one of a training run"):
            run.load(path)
        path.write_bytes(b"weights")
        with pytest.raises(checkpoint.CheckpointError):
            run.load(path)
        gpt_run().train(1, path=path)
        whole = path.read_bytes()
        path.write_bytes(whole[:-3])
        with pytest.raises(checkpoint.CheckpointError, match="damaged"):
            run.load(path)
        path.write_bytes(whole)
        run.load(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp16"}, "precision must be an autocast"),
        ({"scaler": 3}, "scaler must be a GradScaler"),
        ({"schedule": 3}, "schedule must be an optim.Schedule"),
        ({"generators": {"a": 3}}, r"generators\['a'\] must be"),
    ],
)
def test_a_run_refuses_what_it_cannot_use(settings, message):
    task = fs.models.task("mlp", "tiny")
    with pytest.raises(TypeError, match=message):
        fs.training.Run(task.model, task.optimizer, lambda step: None, **settings)


def test_a_bad_place_or_metric_is_found_before_work_is_lost(tmp_path):
    run = fs.models.task("mlp", "tiny").run()
    for path, error in (
        (5, TypeError),
        (tmp_path / "no" / "x", ValueError),
        (tmp_path, ValueError),
    ):
        with pytest.raises(error, match="path"):
            run.train(3, path=path)
    assert run.history == []
    run.train(1, path=tmp_path / "a", evaluate=lambda: {"x": np.float32(0.5)})
    assert run.metrics == [{"steps": 1, "x": 0.5}]
    for bad in (None, {"steps": 3}):
        with pytest.raises(TypeError, match="evaluate must return"):
            run.train(len(run.history) + 1, evaluate=lambda bad=bad: bad)


def test_what_a_run_is_about_may_have_tuples(tmp_path):
    run = fs.models.task("mlp", "tiny").run()
    run.about = {"sizes": (64, 10)}
    run.train(1, path=tmp_path / "a")
    run.load(tmp_path / "a")


@pytest.mark.parametrize(
    "change",
    [{"formats": [1]}, {"formats": {"a": [1]}}, {"history": 5}, {"history": [{"index": 0}]},
     {"metrics": 3}, {"generators": None}],
)  # fmt: skip
def test_states_of_another_kind_are_refused(change, tmp_path):
    run = fs.models.task("mlp", "tiny").run()
    run.train(1, path=tmp_path / "a")
    state = fs.checkpoint.load(tmp_path / "a") | change
    fs.checkpoint.save(tmp_path / "a", state)
    with pytest.raises(ValueError, match="a "):
        run.load(tmp_path / "a")
