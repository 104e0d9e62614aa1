"""The command as a user runs it: real processes, real output streams."""

import json
import subprocess
import sys

import pytest

from fp16sim.plots import ENDINGS


def fp16sim(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "fp16sim", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
    )


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rescue")
    return folder, fp16sim("rescue", "--fast", "--json", "--out", folder / "new" / "folder")


def test_json_and_nothing_else_on_standard_output(fast):
    _, done = fast
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert set(record["runs"]) == {"fp32", "fp16", "fp16_master", "fp16_scaled"}
    for runs in record["runs"].values():
        (run,) = runs
        assert run["seed"] == 0
        assert 0 < run["test_mse"] < 0.1
        assert set(run["layers"]) == {
            f"{half}.{i}" for half in ("encoder", "decoder") for i in range(3)
        }
        assert sum(run["gradients"].values()) == pytest.approx(1)
    assert record["steps"] == 250
    assert record["runs"]["fp16_scaled"][0]["final_scale"] == 65536
    assert record["baseline_mse"] == pytest.approx(0.0741, abs=1e-4)
    assert record["runs"]["fp32"][0]["test_mse"] < record["runs"]["fp16"][0]["test_mse"]


def test_progress_goes_to_standard_error(fast):
    _, done = fast
    assert "training runs" in done.stderr
    assert "Figure: " in done.stderr


def test_figures_are_written(fast):
    folder, _ = fast
    written = {path.name for path in (folder / "new" / "folder").iterdir()}
    assert written == {"rescue" + e for e in ENDINGS}


def test_the_table(tmp_path):
    done = fp16sim("rescue", "--steps", "2", "--seeds", "7,3,", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Test error per pixel after 2 steps" in done.stdout
    assert "encoder.0" in done.stdout
    assert "Train longer" in " ".join(done.stdout.split())
    assert "\x1b" not in done.stdout
    lines = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    assert lines.index("7") < lines.index("3")
    assert (tmp_path / "figures" / "rescue.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rescue", "--seeds", "0"], "a count from 1 to 1000"),
        (["rescue", "--seeds", "99999999999999999999"], "a count from 1 to 1000"),
        (["rescue", "--seeds", "-3"], "'-3' gives no usable seeds"),
        (["rescue", "--seeds", "a"], "'a' is neither a count nor a list"),
        (["rescue", "--seeds", "1,1"], "different numbers"),
        (["rescue", "--steps", "0"], "0 is not in the range x>=1"),
        (["rescue", "--steps", "many"], "'many' is not a valid integer"),
        (["rescue", "--out", __file__], "is a file"),
        (["rescue", "--out", "/dev/null/x"], "cannot write to /dev/null/x"),
        (["rescue", "--tsest"], "No such option"),
        (["resque"], "No such command"),
    ],
)
def test_bad_usage_exits_with_2_and_says_why(arguments, message):
    done = fp16sim(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_help_shows_an_example():
    done = fp16sim("rescue", "--help")
    assert "Example: fp16sim rescue" in done.stdout
    assert "rescue" in fp16sim("--help").stdout


def test_version_is_the_packages():
    import fp16sim as package

    assert package.__version__ in fp16sim("--version").stdout


def test_without_scikit_learn_the_remedy_is_named(tmp_path):
    (tmp_path / "sklearn.py").write_text("raise ImportError('no sklearn')")
    done = fp16sim("rescue", "--fast", cwd=tmp_path)
    assert done.returncode == 1
    assert "fp16sim[lessons]" in done.stderr
    assert "Traceback" not in done.stderr


def test_accumulate(tmp_path):
    done = fp16sim("accumulate", "--longest", "8", "--trials", "2", "--json", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["lengths"] == [16, 64, 256]
    assert record["errors"]["ones"]["fp16"] == [0, 0, 0]
    assert "accumulators" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"accumulate" + e for e in ENDINGS}
    table = fp16sim("accumulate", "--longest", "6", "--trials", "1", "--out", tmp_path)
    assert "Error in ulps of fp16, positive factors" in table.stdout
    assert "fp16 in blocks of 16" in table.stdout


def test_train_stops_and_continues(tmp_path):
    path = tmp_path / "run.ckpt"
    settings = ("train", "gpt", "--fast", "--precision", "fp16", "--json")
    whole = fp16sim(*settings, "--steps", 8)
    assert whole.returncode == 0, whole.stderr
    first = fp16sim(*settings, "--steps", 5, "--save", path)
    assert json.loads(first.stdout)["steps"] == 5
    second = fp16sim(*settings, "--steps", 8, "--save", path)
    assert "has 5 steps; continuing" in second.stderr
    one, two = json.loads(whole.stdout), json.loads(second.stdout)
    assert len(one.pop("losses")) == 8
    assert json.loads(whole.stdout)["losses"] == two.pop("losses")
    assert one.pop("seconds") > 0
    assert two.pop("seconds") > 0
    assert one == two
    assert one["metrics"]["loss"] > 0
    assert one["sample"].startswith("The ")
    other = fp16sim("train", "gpt", "--fast", "--save", path)
    assert other.returncode == 2
    assert "this one is" in other.stderr


def test_train_prints_the_metric_and_refuses_other_networks():
    done = fp16sim("train", "mlp", "--fast")
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    bad = fp16sim("train", "resnet")
    assert bad.returncode == 2
    assert "allowed are autoencoder, mlp" in bad.stderr


def test_memory():
    done = fp16sim("memory", "unet", "--fast", "--json", "--measure", "--budget", 0.5)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["budget"] == 2**29
    reports = {report["policy"]: report for report in record["reports"]}
    assert set(reports) == {"fp32", "amp", "O2", "O3", "amp_bf16", "fp8"}
    assert reports["O3"]["weights"] * 2 == reports["fp32"]["weights"]
    assert reports["fp32"]["largest_batch"] < reports["O3"]["largest_batch"]
    assert reports["amp"]["measured"] > reports["amp"]["peak"]
    table = fp16sim("memory", "mlp", "--fast", "--budget", 1)
    assert "largest batch in 1 GiB" in table.stdout
    assert "weights, masters, casts" in table.stdout
    one = fp16sim("memory", "mlp", "--fast", "--policy", "amp")
    assert "layers.1" in one.stdout
    assert "largest batch in 16 GiB: 5" in one.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet"], "allowed are autoencoder, mlp"),
        (["mlp", "--policy", "O7"], "policy='O7' is not known; allowed are fp32, amp"),
        (["mlp", "--budget", "0"], "0.0 is not in the range"),
    ],
)
def test_memory_refuses(arguments, message):
    done = fp16sim("memory", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_primitives():
    done = fp16sim("primitives", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["conv2d"]["autocast"] == "low"
    assert rows["layer_norm"]["autocast"] == "wide"
    assert rows["batch_norm"]["autocast"] == "first"
    assert rows["gelu"]["precision"].startswith("correctly rounded")
    assert rows["reshape"]["precision"].startswith("exact")
    assert "matmul" in fp16sim("primitives").stdout


@pytest.mark.parametrize(
    ("command", "setting", "words"),
    [
        ("underflow", "--steps", "Train longer"),
        ("swamping", "--epochs", "stochastic rounding"),
    ],
)
def test_experiments_print_tables_and_draw(tmp_path, command, setting, words):
    settings = (command, setting, 1, "--seeds", "3,", "--out", tmp_path)
    done = fp16sim(*settings)
    assert done.returncode == 0, done.stderr
    assert words in " ".join(done.stdout.split())
    assert "fp16, " in done.stdout
    assert "seed 3: " in done.stderr  # a line for every run, to follow it by
    assert {path.name for path in tmp_path.iterdir()} == {command + e for e in ENDINGS}
    record = json.loads(fp16sim(*settings, "--json").stdout)
    assert record["runs"]["fp32"]
