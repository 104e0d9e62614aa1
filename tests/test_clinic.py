"""Every case fails as it says, is recognised, and is mended; healthy runs are left in peace."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import fp16sim as fs
from fp16sim import xray
from fp16sim.cli.doctor import examine
from fp16sim.clinic import CASES, case
from fp16sim.clinic.case import differences
from fp16sim.plots import ENDINGS

F = fs.functional

#: by number: the step in which the finding must see it first, how the broken program ends, and how
#: the mended one does
ENDS = {
    1: (0, "4 of 60 steps skipped, scale 4096, accuracy 8.%", "0 of 60 .* accuracy [89].%"),
    2: (0, "loss nan, scale 2$", "loss 0[.].*, scale 65536"),
    3: (range(11, 25), "[1-9]\\d* of 25 losses are NaN", "0 of 25 losses are NaN"),
    4: (0, "accuracy \\d%", "accuracy 9.%"),
    5: (0, "16 of 48 attention weights are NaN", "0 of 48 attention weights are NaN"),
    6: (0, "loss 2[.]", "loss 0[.]"),
    7: (range(20, 45), "[1-9]\\d* of 45 losses are NaN, scale \\d", "0 of 45 .* scale 65536"),
    8: (0, "schedule is at 40, after 35 updates", "schedule is at 35, after 35 updates"),
    9: (0, "", "accuracy 9.%"),
    10: (0, "loss nan per image, 2608 weights are NaN", "loss 0[.].* per image, 0 weights"),
    11: (None, "accuracy [89].%, 2 of 2 weight", "accuracy [89].%, 0 of 2 weight"),
    12: (60, "360 of 360 images have no finite", "accuracy 9.%; 0 of 360 images"),
    13: (range(20), "in evaluation every output is NaN", "accuracy in evaluation 9.%"),
    14: (0, "loss 0.07.*; [5-9].% of the first", "loss 0.06.*; \\d% of the first"),
    15: (20, "[1-9] of 20 steps skipped", "0 of 20 steps skipped, scale 4096"),
    16: (0, "accuracy [1-5].%", "accuracy [89].%"),
}


@cache
def examined(number, which):
    """What a program of a case said, its X-ray, and the findings."""
    said = []
    x, findings = examine(lambda: said.append(getattr(case(number), which)()))
    return "".join(said), x, findings


numbers = pytest.mark.parametrize("number", [one.number for one in CASES])


@numbers
def test_the_failure_is_reproduced_and_recognised(number):
    one = case(number)
    said, _, findings = examined(number, "broken")
    step, line, _ = ENDS[number]
    assert re.search(line, said), said
    assert bool(said) == (number != 9)  # which ends with an error
    (finding,) = (f for f in findings if f.name == one.finding)
    assert finding.place == one.place
    assert finding.step in step if isinstance(step, range) else finding.step == step
    assert finding.wrong == (number not in (1, 11))  # which only look like failures
    if not finding.wrong:
        assert not any(f.wrong for f in findings)


@numbers
def test_the_cure_works(number):
    said, _, findings = examined(number, "mended")
    assert re.search(ENDS[number][2], said), said
    assert [f for f in findings if f.wrong] == []
    if number in (1, 11):
        assert case(number).finding not in [f.name for f in findings]


@numbers
def test_a_case_is_told_in_full_and_mended_in_a_few_lines(number):
    one = case(number)
    assert one.question
    assert len(one.story) > 150
    assert one.asked
    assert all(re.fullmatch(r"[\w./-]+#\d+", where) for where in one.asked)
    changed = [
        line for line in differences(one).splitlines() if re.match(r"[+-] +(?!\"\"\")", line)
    ]
    assert 1 <= len(changed) <= 10


@pytest.mark.parametrize(
    ("number", "line"), [(3, "^0 of 25"), (6, "loss 0"), (7, "^0 of 45"), (12, "; 0 of 360")]
)
def test_in_fp32_the_same_programs_do_not_fail(number, line, monkeypatch):
    autocast = fs.autocast
    monkeypatch.setattr(fs, "autocast", lambda fmt: autocast(fmt, enabled=False))
    assert re.search(line, case(number).broken())


def test_cases_are_numbered_from_1():
    assert [one.number for one in CASES] == list(range(1, 17))
    assert sorted(ENDS) == list(range(1, 17))
    with pytest.raises(ValueError, match=r"number=17 is not known; there are the cases 1 to 16"):
        case(17)


class TestCausesAreNamed:
    """The evidence says what a user must know to find the line."""

    def evidence(self, number, name=None):
        findings = examined(number, "broken")[2]
        return next(f.evidence for f in findings if f.name == (name or case(number).finding))

    def test_a_falling_scale_is_traced_to_the_operation_that_made_the_first_nan(self):
        assert re.search(
            r"from 65536 in step 0 to 4; .*no scale can help: step 0: 512 of 4096 values of "
            r"activation became NaN in divide .*c02_scale_falls\.py:\d+",
            self.evidence(2),
        )

    def test_growth_is_told_from_what_overflows_at_once(self):
        steps = re.search(r"step (\d+): .* after (\d+) steps without", self.evidence(3))
        assert steps[1] == steps[2]

    def test_a_hot_pixel_is_named_beside_the_statistics_that_it_poisoned(self):
        poisoned, pixel = self.evidence(13), self.evidence(13, "constant")
        assert "1 of 2048 values of input overflowed in conv1.cast" in pixel
        assert poisoned.split(":")[0] == pixel.split(":")[0]  # the step

    def test_a_lost_scale_is_given_before_and_after(self):
        assert self.evidence(15) == "step 19 left it at 4096, step 20 used 65536"

    def test_the_limit_of_clipping_is_compared(self):
        assert "clipped at a loss scale of 65536" in self.evidence(4)

    def test_where_gradients_die_and_what_a_scale_would_do(self):
        (finding,) = (f for f in examined(14, "broken")[2] if f.name == "underflow")
        assert re.match(r"9\d% of the activation gradients", finding.evidence)
        assert re.match(
            r"scale the loss: by 4194304, 0.0% .* instead of [12]\d.\d%", finding.remedy
        )

    def test_the_schedule_is_compared_with_the_updates(self):
        assert self.evidence(8) == "the schedule took 40 steps, the optimiser 35; first in step 0"

    def test_a_bf16_network_is_sent_back_to_bf16(self):
        (finding,) = (f for f in examined(12, "broken")[2] if f.name == "activation-overflow")
        assert "compute in bf16" in finding.remedy


# --- programs that are no cases -------------------------------------------------------------------


def network(fmt=None):
    model = fs.nn.Sequential(fs.nn.Linear(8, 8, rng=0), fs.nn.Tanh(), fs.nn.Linear(8, 8, rng=1))
    return model if fmt is None else model.to(fmt)


X = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)


def loss_of(model, target=0.0, precision="fp16", fmt=None):
    with fs.autocast(precision):
        y = model(fs.Tensor(X, fmt=fmt))
        return F.mse_loss(y, fs.Tensor(np.full(y.shape, target, np.float32), fmt=y.fmt))


def never_unscaled():
    model, scaler = network(), fs.GradScaler()
    optimizer = fs.optim.SGD(model.parameters(), lr=1e-9)
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(loss_of(model)).backward()
        optimizer.step()


def stepped_twice():
    model, scaler = network(), fs.GradScaler()
    optimizer = fs.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(loss_of(model)).backward()
        scaler.step(optimizer)
        optimizer.step()
        scaler.update()


def gradients_kept(steps=6, scaler=None):
    model, scaler = network(), scaler or fs.GradScaler()
    optimizer = fs.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(steps):
        scaler.scale(loss_of(model)).backward()
        scaler.step(optimizer)
        scaler.update()


def swamped():
    model = network("fp16")
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-6)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model, fmt="fp16").backward()
        optimizer.step()


def moments_flushed():
    model = network()
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-3, state_fmt="fp16")
    for _ in range(3):
        optimizer.zero_grad()
        (loss_of(model, precision="fp32") * 1e-3).backward()
        optimizer.step()


def weights_broken():
    model = network("fp16")
    optimizer = fs.optim.SGD(model.parameters(), lr=1e9)
    loss_of(model, fmt="fp16").backward()
    optimizer.step()


def masked_row():
    scores = np.zeros((2, 4), np.float32)
    scores[1] = -np.inf
    F.softmax(fs.Tensor(scores, fmt="fp16"))


def gradient_overflow():
    model = network("fp16")
    optimizer = fs.optim.SGD(model.parameters(), lr=0.1)
    (loss_of(model, target=100.0, fmt="fp16").to("fp32") * 2.0**16).backward()
    optimizer.step()


def broken_weights_under_a_scaler():
    """Nothing is born: the NaN was there."""
    model, scaler = network(), fs.GradScaler()
    model[0].weight.data[0, 0] = np.nan
    optimizer = fs.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        scaler.scale(loss_of(model)).backward()
        scaler.step(optimizer)
        scaler.update()


def infinite_derivative_under_a_scaler():
    """A gradient of the root at 0, which no scale makes finite; the loss is."""
    w, scaler = fs.Tensor(np.zeros(4, np.float32), requires_grad=True), fs.GradScaler()
    optimizer = fs.optim.SGD([w], lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        scaler.scale(w.sqrt().sum()).backward()
        scaler.step(optimizer)
        scaler.update()


def raises():
    loss_of(network())
    raise KeyError("the data")


#: program, the name of the finding, its place, its step
PROGRAMS = [
    (never_unscaled, "never-unscaled", "optimizer.step", 0),
    (stepped_twice, "stepped-twice", "optimizer.step", 1),
    (gradients_kept, "gradients-kept", "optimizer.zero_grad", 1),
    (swamped, "swamped", "0.weight", None),
    (moments_flushed, "moments-flushed", "optimizer", 0),
    (weights_broken, "weights-broken", "optimizer", 0),
    (masked_row, "masked-row", "softmax", 0),
    (gradient_overflow, "gradient-overflow", "2.cast", 0),
    (broken_weights_under_a_scaler, "scale-falls", "", 0),
    (infinite_derivative_under_a_scaler, "scale-falls", "sqrt", 0),
]


@pytest.mark.parametrize(("program", "name", "place", "step"), PROGRAMS)
def test_programs_that_go_wrong_are_recognised(program, name, place, step):
    findings = examine(program)[1]
    (finding,) = (f for f in findings if f.name == name)
    assert (finding.place, finding.step, finding.wrong) == (place, step, True)
    assert finding.evidence
    assert [f.name for f in findings if f.wrong and f.name != name] == []


def test_gradients_kept_of_a_weight_that_is_used_twice():
    def program():
        layer = fs.nn.Linear(8, 8, rng=0)
        optimizer = fs.optim.SGD(layer.parameters(), lr=0.01)
        for _ in range(4):
            loss_of(lambda x: layer(F.tanh(layer(x)))).backward()
            optimizer.step()

    assert [f.name for f in examine(program)[1] if f.wrong] == ["gradients-kept"]


def test_a_scale_that_falls_is_traced_to_the_step_that_broke_the_weights():
    def program():
        w, scaler = fs.Tensor(np.zeros(4, np.float32), requires_grad=True), fs.GradScaler()
        optimizer = fs.optim.SGD([w], lr=0.1)
        (w.sqrt().sum() * 0.0).backward()  # 0 x infinity
        optimizer.step()
        for _ in range(10):
            optimizer.zero_grad()
            scaler.scale((w * w).sum()).backward()
            scaler.step(optimizer)
            scaler.update()

    found = [(f.name, f.place, f.step) for f in examine(program)[1]]
    assert found == [("scale-falls", "sqrt", 1), ("gradient-overflow", "sqrt", 0)]


def test_the_line_of_an_error_is_that_of_the_program():
    (finding,) = (f for f in examine(raises)[1] if f.wrong)
    assert finding.name == "raised"
    assert finding.evidence == "KeyError: 'the data'"
    line = raises.__code__.co_firstlineno + 2
    assert finding.place == f"test_clinic.py:{line}"


def test_every_finding_that_there_is_has_been_found_here():
    folder = Path(xray.__file__).parent
    sources = "".join((folder / f"{room}.py").read_text() for room in
                      ("diagnose", "failures", "misuse", "wear"))  # fmt: skip
    known = set(re.findall(r'(?:Finding\(|return \()\s*"([a-z0-9-]+)",', sources))
    assert len(known) > 20
    tested = {one.finding for one in CASES} | {name for _, name, _, _ in PROGRAMS} | {"raised"}
    assert known == tested


class TestHealthyProgramsAreLeftInPeace:
    def wrong(self, program):
        return [f.name for f in examine(program)[1] if f.wrong]

    @pytest.mark.parametrize("scaled", [False, True])
    @pytest.mark.parametrize("parts", [2, 4])
    def test_accumulation(self, scaled, parts):
        def program():
            model, scaler = network(), fs.GradScaler(enabled=scaled)
            optimizer = fs.optim.SGD(model.parameters(), lr=0.01)
            for _ in range(5):
                optimizer.zero_grad()
                for _ in range(parts):
                    scaler.scale(loss_of(model)).backward()
                scaler.unscale_(optimizer)
                fs.optim.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()

        assert self.wrong(program) == []

    def test_a_weight_that_is_used_twice(self):
        def program():
            layer = fs.nn.Linear(8, 8, rng=0)
            optimizer = fs.optim.SGD(layer.parameters(), lr=0.01)
            for _ in range(5):
                optimizer.zero_grad()
                loss_of(lambda x: layer(F.tanh(layer(x)))).backward()
                optimizer.step()

        assert self.wrong(program) == []

    def test_two_optimisers_on_one_backward(self):
        """They end one step together, and one of them may be skipped."""

        def program():
            model, scaler = network(), fs.GradScaler()
            first = fs.optim.SGD(model[0].parameters(), lr=0.01)
            second = fs.optim.SGD(model[2].parameters(), lr=0.01)
            for _ in range(4):
                first.zero_grad()
                second.zero_grad()
                scaler.scale(loss_of(model)).backward()
                scaler.step(first)
                scaler.unscale_(second)
                fs.optim.clip_grad_norm_(model[2].parameters(), 1e-3)
                scaler.step(second)
                scaler.update()

        x, findings = examine(program)
        assert [f.name for f in findings if f.wrong] == []
        assert [step.taken for step in x.finished_steps] == [True] * 4
        assert all(step.went_back for step in x.finished_steps)
        assert all([kind for kind, _ in step.log].count("unscale") == 2 for step in x.steps[:4])

    def test_a_skip_by_either_of_two_optimisers_is_a_skip(self):
        def program():
            model, scaler = network(), fs.GradScaler()
            first = fs.optim.SGD(model[0].parameters(), lr=0.01)
            second = fs.optim.SGD(model[2].parameters(), lr=0.01)
            scaler.scale(loss_of(model)).backward()
            model[2].weight.gradient[0, 0] = np.inf
            scaler.step(first)
            scaler.step(second)
            scaler.update()

        x, _ = examine(program)
        assert [(step.taken, step.next_scale) for step in x.finished_steps] == [(False, 2.0**15)]

    def test_two_networks_in_turn(self):
        """As generator and discriminator: each backward is followed by a step of its own."""

        def program():
            models, scaler = (network(), network()), fs.GradScaler()
            optimizers = [fs.optim.SGD(model.parameters(), lr=0.01) for model in models]
            for _ in range(3):
                for model, optimizer in zip(models, optimizers, strict=True):
                    optimizer.zero_grad()
                    scaler.scale(loss_of(model)).backward()
                    scaler.step(optimizer)
                scaler.update()

        x, findings = examine(program)
        assert [f.name for f in findings if f.wrong] == []
        assert len(x.finished_steps) == 6

    def test_one_training_after_another(self):
        """The second begins with a scale of its own, which nobody has lost."""

        def program():
            for scale in (2.0**16, 2.0**10):
                model, scaler = network(), fs.GradScaler(scale)
                optimizer = fs.optim.SGD(model.parameters(), lr=0.01)
                for _ in range(3):
                    optimizer.zero_grad()
                    scaler.scale(loss_of(model)).backward()
                    scaler.step(optimizer)
                    scaler.update()

        x, findings = examine(program)
        assert [f.name for f in findings if f.wrong] == []
        assert len(x.finished_steps) == 6

    def test_two_losses_with_scalers_of_their_own(self):
        def program():
            models = network(), network()
            scalers = fs.GradScaler(2.0**16), fs.GradScaler(2.0**10)
            optimizers = [fs.optim.SGD(model.parameters(), lr=0.01) for model in models]
            for _ in range(3):
                for model, optimizer, scaler in zip(models, optimizers, scalers, strict=True):
                    optimizer.zero_grad()
                    scaler.scale(loss_of(model)).backward()
                for optimizer, scaler in zip(optimizers, scalers, strict=True):
                    scaler.step(optimizer)
                    scaler.update()

        assert "mixed-scales" not in self.wrong(program)

    def test_small_gradients_beside_one_that_leaves_no_room_for_a_larger_scale(self):
        def program():
            x = fs.Tensor(np.ones(1000, np.float32), requires_grad=True)
            weights = np.full(1000, 1e-14, np.float32)
            weights[0] = 1e-2
            loss = (x.to("fp16").to("fp32") * fs.Tensor(weights)).sum()
            fs.GradScaler(2.0**21).scale(loss).backward()

        x, findings = examine(program)
        assert x.select(role="gradient", fmt="fp16").flushed == 999
        assert [f.name for f in findings] == []

    def test_an_update_between_backward_passes_belongs_to_their_step(self):
        steps = examined(16, "broken")[1].finished_steps
        assert {[kind for kind, _ in step.log].count("rescale") for step in steps[:-1]} == {4}

    def test_a_long_search_that_ends(self):
        """Twelve skips, more than are allowed to a scale that only falls, and then it trains."""

        def program():
            model, scaler = network(), fs.GradScaler(2.0**24)
            optimizer = fs.optim.SGD(model.parameters(), lr=1e-6)
            for _ in range(24):
                optimizer.zero_grad()
                scaler.scale(loss_of(model, target=1000.0) * 10).backward()
                scaler.step(optimizer)
                scaler.update()

        x, findings = examine(program)
        skipped = [step.taken for step in x.finished_steps]
        assert skipped == sorted(skipped)  # first all the skips
        assert skipped.count(False) > 8
        assert [f.name for f in findings] == ["probing"]

    def test_a_schedule_of_epochs(self):
        def program():
            model, scaler = network(), fs.GradScaler(2.0**31)
            optimizer = fs.optim.SGD(model.parameters(), lr=1e-3)
            schedule = fs.optim.Schedule(optimizer, fs.optim.schedules.linear_warmup(5))
            for _ in range(3):
                for _ in range(8):
                    optimizer.zero_grad()
                    scaler.scale(loss_of(model)).backward()
                    scaler.step(optimizer)
                    scaler.update()
                schedule.step()

        x, findings = examine(program)
        assert x.steps[7].taken is False  # the last of the first epoch
        assert [f.name for f in findings] == ["probing"]

    def test_gradients_set_by_hand(self):
        def program():
            model = network()
            optimizer = fs.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(3):
                for p in model.parameters():
                    p.grad = fs.Tensor(np.ones(p.shape, np.float32))
                optimizer.step()

        assert self.wrong(program) == []

    @pytest.mark.parametrize("name", fs.models.TASKS)
    def test_the_zoo(self, name):
        for precision, scaler in ((None, None), (fs.autocast("fp16"), fs.GradScaler())):

            def program(precision=precision, scaler=scaler):
                task = fs.models.task(name, "tiny")
                for step in range(12):
                    task.train_step(step, precision=precision, scaler=scaler)

            assert self.wrong(program) == []

    @pytest.mark.parametrize(
        ("name", "findings"), [("autoencoder", ["underflow"]), ("gpt", ["underflow"]), ("mlp", [])]
    )
    def test_the_zoo_without_a_scaler(self, name, findings):
        """Sigmoids and means over many values need one; a plain classifier does not."""

        def program():
            task = fs.models.task(name, "tiny")
            for step in range(20):
                task.train_step(step, precision=fs.autocast("fp16"))

        assert self.wrong(program) == findings


# --- the commands ---------------------------------------------------------------------------------


def fp16sim(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "fp16sim", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
    )


def strict(text):
    """Parsed as JSON, which has no NaN and no infinity."""

    def refuse(word):
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


SCRIPT = """
import sys
import helper  # lies beside the script
import numpy as np
import fp16sim as fs

print("arguments:", *sys.argv[1:])
x = fs.Tensor(np.float32([float(sys.argv[1])]), fmt="fp16")
y = x * x
if len(sys.argv) > 2:
    raise RuntimeError(helper.MESSAGE)
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "helper.py").write_text("MESSAGE = 'out of data'")
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


class TestCommands:
    def test_list(self):
        done = fp16sim("clinic", "list")
        assert done.returncode == 0, done.stderr
        rows = re.findall(r"^ +(\d+) +\S", done.stdout, re.MULTILINE)
        assert rows == [str(one.number) for one in CASES]

    def test_run_shows_the_failure_the_finding_and_the_cure(self):
        done = fp16sim("clinic", "run", 5)
        assert done.returncode == 0, done.stderr
        broken, mended = done.stdout.split("--- mended: ")
        assert "--- broken: 16 of 48 attention weights are NaN" in broken
        assert "a constant or an input does not fit fp16" in broken
        assert mended.startswith("0 of 48 attention weights are NaN")
        assert "nothing wrong was found" in mended
        assert "-    scores = scores + fs.Tensor(np.where(padding, -1e9, 0)" in mended
        assert "+    scores = scores + fs.Tensor(np.where(padding, -fs.FP16.max / 2" in mended
        assert mended.rstrip().endswith("Asked in apex#93, fairseq#3575, transformers#17306")
        assert "Where most is lost" not in done.stdout
        assert "Where most is lost" in fp16sim("clinic", "run", 5, "--all").stdout

    def test_run_says_how_a_program_ends_that_raises(self):
        done = fp16sim("clinic", "run", 9)
        assert "--- broken: ended with an error" in done.stdout
        assert "ValueError: params[0] has an fp16 gradient" in done.stdout

    @pytest.mark.parametrize("command", [("clinic", "run"), ("doctor",)])
    def test_unknown_numbers_are_refused(self, command):
        done = fp16sim(*command, 17)
        assert done.returncode == 2
        assert "there are the cases 1 to 16" in done.stderr
        assert done.stdout == ""

    def test_doctor_of_a_case(self):
        done = fp16sim("doctor", 5)
        assert done.returncode == 1, done.stderr
        assert "Where most is lost" in done.stdout
        assert "a constant or an input does not fit fp16" in done.stdout

    def test_doctor_finds_what_is_wrong_with_a_script(self, script):
        done = fp16sim("doctor", script, "300")
        assert done.returncode == 1, done.stderr
        assert "arguments: 300\n" in done.stdout
        assert "squares or sums left the range of fp16, whose largest is 65504" in done.stdout
        assert "train.py:9" in done.stdout

    def test_what_only_looks_like_a_failure_is_told_and_is_none(self):
        done = fp16sim("doctor", 1)
        assert done.returncode == 0, done.stderr
        assert "4 steps were skipped while the scaler looked for its scale" in done.stdout
        assert "nothing wrong was found" in done.stdout

    def test_doctor_finds_nothing(self, script):
        done = fp16sim("doctor", script, "3")
        assert done.returncode == 0, done.stderr
        assert "nothing wrong was found" in done.stdout

    def test_doctor_prints_json_and_nothing_else(self, script, tmp_path):
        done = fp16sim("doctor", "--json", "--out", tmp_path / "new", script, "--", "300")
        assert done.returncode == 1, done.stderr
        record = strict(done.stdout)
        assert [f["name"] for f in record["findings"]] == ["square-overflow"]
        assert record["findings"][0]["place"] == "multiply"
        assert {row["op"] for row in record["counts"]} == {"tensor", "multiply"}
        assert "arguments: 300\n" in done.stderr
        assert {path.name for path in (tmp_path / "new").iterdir()} == {"xray" + e for e in ENDINGS}

    def test_doctor_says_where_a_script_raised(self, script):
        done = fp16sim("doctor", script, "3", "more")
        assert "seen: RuntimeError: out of data (at train.py:11)" in done.stdout
        assert done.stderr.endswith("RuntimeError: out of data\n")
        assert "Traceback" in done.stderr

    def test_doctor_of_a_script_that_stops_with_words(self, tmp_path):
        path = tmp_path / "train.py"
        path.write_text("import sys\n\nsys.exit('no data')")
        done = fp16sim("doctor", path)
        assert done.returncode == 1
        assert "seen: RuntimeError: no data (at train.py:3)" in done.stdout

    def test_doctor_of_a_script_that_raises(self, script):
        done = fp16sim("doctor", "--json", script, "3", "more")
        assert done.returncode == 1
        (finding,) = strict(done.stdout)["findings"]
        assert finding["name"] == "raised"
        assert finding["evidence"] == "RuntimeError: out of data"
        assert finding["place"] == "train.py:11"
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(("code", "expected"), [("0", 0), ("3", 1)])
    def test_doctor_of_a_script_that_exits(self, tmp_path, code, expected):
        path = tmp_path / "train.py"
        path.write_text(f"raise SystemExit({code})")
        done = fp16sim("doctor", path)
        assert done.returncode == expected
        assert (f"exit code {code}" in done.stdout) == bool(expected)

    def test_doctor_refuses_what_is_no_script(self, tmp_path):
        done = fp16sim("doctor", tmp_path / "none.py")
        assert done.returncode == 2
        assert "there is no file" in done.stderr


def test_the_readme_lists_the_cases():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", readme, re.MULTILINE)
    assert rows == [(str(one.number), one.question) for one in CASES]
