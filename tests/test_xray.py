"""The X-ray, against recounts and by hand."""

from pathlib import Path

import numpy as np
import pytest

import fp16sim as fs

F = fs.functional


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
        with pytest.raises(TypeError, match="model must be a Module or None"), fs.watch(3):
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


class Recount:
    """Everything that is announced, kept, and counted by hand afterwards."""

    def __init__(self):
        self.events = []

    def __call__(self, event):
        self.events.append(event)

    def rounded(self):
        return [event for event in self.events if isinstance(event, fs.events.Rounded)]


class Residual(fs.nn.Module):
    """A network of which a part of a part is called, and a sum of two branches."""

    def __init__(self):
        self.parts = fs.nn.Sequential(fs.nn.Linear(4, 4, rng=0), fs.nn.Linear(4, 4, rng=1))
        self.head = fs.nn.Linear(4, 2, rng=2)

    def forward(self, x):
        for _, part in self.parts.children():
            x = x + part(x).tanh()
        return self.head(x)


def train(model, steps, *, scale=None, bad=(), precision="fp16"):
    """Steps of SGD; in the steps of ``bad`` the loss is multiplied by so much."""
    optimizer = fs.optim.SGD(model.parameters(), lr=0.01)
    scaler = fs.GradScaler(scale or 1.0, enabled=scale is not None)
    random = np.random.default_rng(0)
    for step in range(steps):
        x = fs.Tensor(random.standard_normal((8, 4)).astype(np.float32))
        optimizer.zero_grad()
        with fs.autocast(precision):
            loss = F.mse_loss(model(x), fs.Tensor(np.zeros((8, 2), np.float32)))
        scaler.scale(loss * dict(bad).get(step, 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()


class TestSeeing:
    def test_counts_against_a_recount_of_all_that_was_stored(self):
        model, all_of_it = Residual(), Recount()
        with fs.events.observe(all_of_it), fs.watch(model) as xray:
            train(model, 3, scale=1024.0)
        expected = {}
        for event in all_of_it.rounded():
            scope, op, role, _ = event.origin
            total, flushed, subnormal = expected.get((scope, op, role, event.fmt), (0, 0, 0))
            for b, a in zip(event.before.ravel(), event.after.ravel(), strict=True):
                flushed += bool(b != 0 and a == 0)
                subnormal += bool(a != 0 and abs(float(a)) < event.fmt.smallest_normal)
            expected[scope, op, role, event.fmt] = total + event.before.size, flushed, subnormal
        assert {
            key: (c.total, c.flushed, c.subnormal) for key, c in xray.counts.items()
        } == expected
        assert len(expected) > 20

    def test_paths_are_those_of_the_model(self):
        model = Residual()
        with fs.watch(model) as xray:
            train(model, 1)
        scopes = {key.scope for key in xray.counts if key.op == "linear"}
        assert scopes == {"parts.0", "parts.1", "head"}
        assert scopes < {name for name, _ in model.named_modules()}

    def test_names_are_learned_from_the_modules_that_are_called(self):
        model = Residual()
        with fs.watch() as xray:
            train(model, 1)
        assert set(xray.updates) == {name for name, _ in model.named_parameters()}

    def test_paths_in_recomputed_parts_are_the_same(self):
        class Checkpointed(Residual):
            def forward(self, x):
                for _, part in self.parts.children():
                    x = x + fs.nn.checkpoint(part, x).tanh()
                return self.head(x)

        scopes = []
        for model in (Residual(), Checkpointed()):
            with fs.watch(model) as xray:
                train(model, 1)
            scopes.append({key.scope for key in xray.counts if key.op == "linear"})
        assert scopes[0] == scopes[1]

    def test_steps_are_told_apart_and_add_up(self):
        model = Residual()
        with fs.watch(model) as xray:
            train(model, 4, scale=256.0)
        assert [step.index for step in xray.finished_steps] == [0, 1, 2, 3]
        assert all(step.taken for step in xray.finished_steps)
        for key, counts in xray.counts.items():
            tallies = [step.counts[key] for step in xray.finished_steps if key in step.counts]
            assert sum(tally[0] for tally in tallies) == counts.total

    def test_two_optimisers_make_one_step(self):
        model = Residual()
        both = [fs.optim.SGD(part.parameters(), lr=0.1) for part in (model.parts, model.head)]
        with fs.watch(model) as xray:
            for _ in range(3):
                model(fs.Tensor(np.ones((1, 4), np.float32))).sum().backward()
                for optimizer in both:
                    optimizer.step()
        assert [step.taken for step in xray.steps] == [True, True, True, None]

    def test_nothing_is_kept_alive(self):
        import gc
        import weakref

        model = Residual()
        with fs.watch(model) as xray:
            x = fs.Tensor(np.ones((1, 4), np.float32), requires_grad=True)
            y = model(x)
            alive = weakref.ref(y.data)
        del y, x
        gc.collect()
        assert alive() is None
        assert xray.counts


class TestBirths:
    def test_an_overflow_is_named_with_its_line(self):
        model = Residual()
        model.parts[1].weight.data *= 1e4
        with fs.watch(model) as xray, fs.autocast("fp16"):
            model(fs.Tensor(100 * np.ones((1, 4), np.float32)))
        first = xray.first_failure
        assert (first.key.place, first.kind, first.step) == ("parts.1.linear", "overflow", 0)
        assert first.line.startswith("test_xray.py:")
        assert str(first).startswith("step 0: ")

    @pytest.mark.parametrize(
        ("program", "op", "kind"),
        [
            (lambda x: (x - x).log(), "log", "infinity"),
            (lambda x: (x - x) / (x - x), "divide", "NaN"),
            (lambda x: (x * 300.0) * (x * 300.0), "multiply", "overflow"),
            (lambda x: F.relu((x * 1e4) ** 2).sqrt(), "power", "overflow"),
        ],
    )
    def test_what_is_born_where(self, program, op, kind):
        x = fs.Tensor(np.ones(3), fmt="fp16")
        with fs.watch() as xray:
            program(x)
        assert (xray.first_failure.key.op, xray.first_failure.kind) == (op, kind)
        assert xray.first_failure.count == xray.first_failure.total == 3

    def test_what_is_passed_on_is_not_born_again(self):
        x = fs.Tensor(np.ones(3), fmt="fp16", requires_grad=True)
        with fs.watch() as xray:
            y = (x - x).log()  # born
            (y * 2.0 + 1.0).tanh().sum().backward()
        forward = [birth for birth in xray.births if not birth.in_gradient]
        assert [birth.key.op for birth in forward] == ["log"]
        assert xray.select(role="activation").propagated > 0

    def test_gradients_are_named_by_the_line_of_the_operation(self):
        x = fs.Tensor(np.zeros(1), fmt="fp16", requires_grad=True)
        with fs.watch() as xray:
            y = x.sqrt()
            y.backward()
        here = [birth for birth in xray.births if birth.in_gradient]
        assert here
        assert here[0].key.op == "sqrt"
        line = int(here[0].line.removeprefix("test_xray.py:"))
        assert Path(__file__).read_text().splitlines()[line - 1].strip() == "y = x.sqrt()"


class TestTelling:
    @pytest.fixture
    def xray(self):
        model = Residual()
        with fs.watch(model) as xray:
            train(model, 3, bad=[(step, 2.0**-16) for step in range(3)])
        return xray

    def test_the_report_names_the_worst_first(self, xray):
        lines = xray.report().splitlines()
        first = next(line for line in lines if " fp16 " in line or " fp32 " in line)
        worst = max(xray.counts, key=lambda key: xray.counts[key].lost)
        assert first.split()[0] == worst.place
        assert f"{xray.counts[worst].lost:.1%}" in first
        assert "3 steps, 0 skipped" in xray.report()
        assert max(map(len, lines)) <= 130

    def test_a_short_report_says_what_it_leaves_out(self, xray):
        assert f"and {len(xray.counts) - 2} places where less is lost" in xray.report(2)

    def test_an_empty_report(self):
        with fs.watch() as xray:
            pass
        assert "0 steps" in xray.report()
        assert xray.to_dict() == {"counts": [], "updates": {}, "steps": []}

    def test_json(self, xray):
        import json

        record = json.loads(xray.to_json())
        assert len(record["counts"]) == len(xray.counts)
        assert sum(one["total"] for one in record["counts"]) == xray.select().total
        assert [step["taken"] for step in record["steps"]] == [True] * 3

    def test_the_figure(self, xray, tmp_path):
        from fp16sim import plots

        figure = xray.plot()
        axes = figure.axes
        assert {"Gradients that are lost, by layer and step", "The loss scale"} <= {
            a.get_title(loc="left") for a in axes
        }
        assert {p.name for p in plots.save(figure, tmp_path, "x")} == {
            "x" + e for e in plots.ENDINGS
        }

    def test_the_figure_of_nothing(self):
        with fs.watch() as xray:
            pass
        assert xray.plot().axes


class TestWhatIf:
    """Against a run that does what was only asked about."""

    @staticmethod
    def gradients(precision, scale):
        model = Residual()
        with fs.watch(model) as xray:
            x = fs.Tensor(np.random.default_rng(1).standard_normal((64, 4)).astype(np.float32))
            with fs.autocast(precision, enabled=precision != "fp32"):
                loss = F.mse_loss(model(x), fs.Tensor(np.zeros((64, 2), np.float32)))
            (loss * scale).backward()
        return xray

    @pytest.mark.parametrize("fmt", ["fp16", "e5m2", "bf16"])
    def test_from_fp32(self, fmt):
        scale = 2.0**-12 if fmt == "e5m2" else 2.0**-18
        predicted = self.gradients("fp32", scale).what_if(fmt)
        low = self.gradients(fmt, scale).select(role="gradient", fmt=fmt)
        # What was lost upstream arrives as an exact zero in the actual run.
        nothing_left = [(c.zero + c.flushed) / c.total for c in (predicted, low)]
        assert nothing_left[0] == pytest.approx(nothing_left[1], abs=0.08)
        assert fmt == "bf16" or nothing_left[1] > 0.1

    def test_the_scale_of_the_run_is_taken_out(self):
        model = Residual()
        with fs.watch(model) as xray:
            train(model, 3, scale=2.0**12, bad=[(step, 2.0**-16) for step in range(3)])
        other = Residual()
        with fs.watch(other) as plain:
            train(other, 3, scale=1.0, bad=[(step, 2.0**-16) for step in range(3)])
        a, b = xray.what_if("fp16", of="fp16"), plain.select(role="gradient", fmt="fp16")
        assert a.total == b.total
        # What is lost upstream arrives as a zero in the actual run.
        assert a.zero + a.flushed == pytest.approx(b.zero + b.flushed, rel=0.2)
        assert a.subnormal == pytest.approx(b.subnormal, rel=0.1)
        assert min(b.flushed, b.subnormal) > 10

    def test_activations_have_no_scale(self):
        xray = self.gradients("fp32", 1.0)
        a = xray.what_if("e4m3", 2.0**10, role="activation")
        assert a.flushed == xray.what_if("e4m3", role="activation").flushed

    def test_suggestions(self):
        model = Residual()
        with fs.watch(model) as xray:
            train(model, 2, scale=8.0)
        best = xray.suggest_scale()
        assert xray.what_if("fp16", best.scale).overflowed == 0
        assert xray.what_if("fp16", 4 * best.scale).overflowed > 0

    @pytest.mark.parametrize("largest", [65504 / 2.0**30, 65505 / 2.0**30, 2.0**-14, 1.99])
    @pytest.mark.parametrize("fmt", ["fp16", "bf16", "e4m3"])
    def test_a_suggestion_fits_and_twice_it_does_not(self, largest, fmt):
        with fs.watch() as xray:
            x = fs.Tensor(np.ones(3, np.float32), requires_grad=True)
            (x * np.float32(largest)).sum().backward()
        for headroom in (0, 1, 3):
            best = xray.suggest_scale(fmt, headroom).scale
            top = xray.magnitudes(role="gradient").largest * best * 2.0**headroom
            assert top <= getattr(fs, fmt.upper()).max < 2 * top

    def test_a_suggestion_for_what_autocast_narrows(self):
        x = fs.Tensor(np.full((4, 2), 2.0**-6, np.float32))
        layer = fs.nn.Linear(2, 2, bias=False, rng=0)
        with fs.watch(layer) as xray:
            with fs.autocast("bf16"):
                y = layer(x)
            losses = [fs.functional.mse_loss(y, np.zeros((4, 2), np.float32)) for _ in range(2)]
            (losses[0] + losses[1]).backward()
        assert xray.magnitudes(fmt="fp32").largest == 1  # of either loss
        assert xray.suggest_scale().scale == 2.0**14
        largest = xray.magnitudes(fmt="bf16").largest
        assert largest < 0.5
        assert 2.0**14 <= largest * xray.suggest_scale(of="bf16").scale < 2.0**15

    def test_refusals(self):
        xray = self.gradients("fp32", 1.0)
        with pytest.raises(ValueError, match="scale=0"):
            xray.what_if("fp16", 0)
        with pytest.raises(ValueError, match="fmt='fp17'"):
            xray.what_if("fp17")
        with pytest.raises(ValueError, match="role='wieght'"):
            xray.what_if("fp16", role="wieght")


def test_a_forward_failure_is_found_behind_many_overflows():
    """Part 1 of an accumulated step overflows on its way back, part 2 on its way forward."""
    layers = [fs.nn.Linear(4, 4, rng=i) for i in range(24)]
    model = fs.nn.Sequential(*layers)
    optimizer = fs.optim.SGD(model.parameters(), lr=0.1)
    scaler = fs.GradScaler(init_scale=2.0**40)
    x = fs.Tensor(np.ones((2, 4), np.float32))
    with fs.watch(model) as xray:
        for broken in (False, True):
            with fs.autocast("fp16"):
                loss = sum(layer(x).sum() for layer in layers)
            if broken:
                loss = loss + (x * 0).log().sum()
            scaler.scale(loss).backward()
        assert not scaler.step(optimizer)
    (step,) = xray.finished_steps
    assert sum(birth.in_gradient for birth in step.births) == 20
    assert not step.probing
    assert xray.first_failure.key.op == "log"
    assert not xray.first_failure.in_gradient
    assert "log" in xray.report()


def test_a_scale_moves_the_gradients_of_all_values():
    x = fs.Tensor(np.full(64, 2.0**-30, np.float32), requires_grad=True)
    with fs.watch() as xray:
        (x * x).sum().backward()
    both = [xray.what_if("fp16", 2.0**e, role=None) for e in (0, 14)]
    only = [xray.what_if("fp16", 2.0**e, role="gradient") for e in (0, 14)]
    rest = xray.what_if("fp16", role="activation")
    assert [one.flushed for one in both] == [one.flushed + rest.flushed for one in only]
    assert only[1].flushed < only[0].flushed


def test_updates_of_two_models_are_told_apart():
    models = [fs.nn.Sequential(fs.nn.Linear(2, 2, rng=i)) for i in range(2)]
    with fs.watch() as xray:
        for model in models:
            model(fs.Tensor(np.ones((1, 2), np.float32))).sum().backward()
            fs.optim.SGD(model.parameters(), lr=0.1).step()
    assert set(xray.updates) == {"0.weight", "0.bias", "Sequential 2: 0.weight",
                                 "Sequential 2: 0.bias"}  # fmt: skip


def test_a_step_of_two_optimisers_is_taken_if_both_took_it():
    layers = [fs.nn.Linear(2, 1, bias=False, rng=i) for i in range(2)]
    optimizers = [fs.optim.SGD(layer.parameters(), lr=0.1) for layer in layers]
    scaler = fs.GradScaler(init_scale=2.0**14)
    with fs.watch() as xray:
        for sizes in ((2.0**30, 1.0), (1.0, 2.0**30), (1.0, 1.0)):  # whose gradients overflow
            with fs.autocast("fp16"):
                x = fs.Tensor(np.ones((1, 2), np.float32))
                loss = sum(
                    (layer(x) * size).sum() for layer, size in zip(layers, sizes, strict=True)
                )
            scaler.scale(loss).backward()
            for optimizer in optimizers:
                scaler.step(optimizer)
                optimizer.zero_grad()
            scaler.update()
    assert [step.taken for step in xray.finished_steps] == [False, False, True]
