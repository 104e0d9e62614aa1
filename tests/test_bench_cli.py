"""``fp16sim bench`` as a user runs it; without a GPU, or made to believe that there is none."""

import json

import pytest
from click.testing import CliRunner
from test_cli import fp16sim

from fp16sim.bench import device
from fp16sim.bench.record import Record
from fp16sim.cli import main
from fp16sim.plots import ENDINGS


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "new"
    settings = ("mlp", "--fast", "--device", "cpu", "--sweeps", "--fidelity")
    return folder, fp16sim("bench", *settings, "--json", "--out", folder)


def test_json_and_nothing_else_on_standard_output(fast):
    folder, done = fast
    assert done.returncode == 0, done.stderr
    record = Record.from_dict(json.loads(done.stdout))
    assert record == Record.load(folder / "bench.json")
    rows = [(row.network, row.precision, row.storage) for row in record.steps]
    assert rows == [("mlp", "fp32", "native"), ("mlp", "fp16", "emulated")]
    assert {row.size for row in record.steps} == {"tiny"}
    assert {row.dtype for row in record.sweeps} == {"fp32", "fp64", "fp16, emulated"}
    assert len(record.fidelity) == 2
    assert record.device.kind == "cpu"
    assert not any(one.failed for one in record.left_out)


def test_progress_and_places_on_standard_error(fast):
    folder, done = fast
    assert "measurements" in done.stderr
    assert "mlp, fp16, twice" in done.stderr
    assert f"Record: {folder / 'bench.json'}" in done.stderr
    written = {path.name for path in folder.iterdir()}
    assert written == {"bench.json", *("bench" + e for e in ENDINGS)}


def test_a_record_is_redrawn_without_measuring(fast, tmp_path):
    folder, _ = fast
    done = fp16sim("bench", "--redraw", folder / "bench.json", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mlp, fp16, emulated, 32" in done.stdout
    assert "round to fp16" in done.stdout
    assert "\x1b" not in done.stdout
    assert "measurements" not in done.stderr
    for name in ("bench" + e for e in ENDINGS):  # from the file alone, and the same bytes
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def run(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture
def no_gpu(monkeypatch):
    def missing(name):
        return "" if name == "cpu" else "device='cuda' needs CuPy: pip install 'fp16sim[gpu]'"

    monkeypatch.setattr(device, "missing", missing)


def test_without_a_gpu_two_lines_say_what_is_missing_and_the_cpu_runs(
    no_gpu, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    done = run("mlp", "--fast", "--precision", "fp32")
    assert done.exit_code == 0, done.output
    first, second, *_ = done.stderr.splitlines()
    assert first.startswith("No GPU: ")
    assert "driver" in second
    assert "pip install 'fp16sim[gpu]'" in second
    assert "mlp, fp32, 32" in done.stdout
    assert not list(tmp_path.iterdir())  # nothing is written without --out
    assert "No GPU" not in run("--device", "cpu", "resnet").stderr


def test_a_measurement_that_breaks_ends_with_code_1_and_the_rest_is_kept(
    no_gpu, monkeypatch, tmp_path
):
    from fp16sim.bench import run as runs

    def broken(name, plan, precision, memory):
        raise MemoryError("out of memory")

    monkeypatch.setattr(runs, "measure_step", broken)
    done = run("yolo", "--fast", "--precision", "fp32", "--out", tmp_path)
    assert done.exit_code == 1
    assert "1 of 2 measurements failed: yolo, fp32: MemoryError: out of memory" in done.stderr
    (row,) = Record.load(tmp_path / "bench.json").inference
    assert row.unit == "images"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet"], "names='resnet' is not known; allowed are autoencoder, mlp"),
        (["--size", "huge"], "size='huge' is not known; allowed are tiny, laptop, gpu"),
        (["--precision", "int8"], "'int8' is not one of"),
        (["--device", "tpu"], "'tpu' is not one of"),
        (["--device", "cuda"], "device='cuda' needs CuPy"),
        (["--compare", "jax"], "'jax' is not"),
        (["--seed", "-1"], "-1 is not in the range"),
        (["--redraw", "none.json"], "No such file"),
        (["--redraw", __file__], "it is no JSON"),
        (["--redraw", __file__, "--sweeps"], "--redraw measures nothing, so sweeps cannot"),
        (["mlp", "--fast", "--out", "/dev/null/x"], "cannot write to /dev/null/x"),
    ],
)
def test_bad_usage_exits_with_2_and_says_why(no_gpu, arguments, message):
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["torch", "threadpoolctl"])
def test_what_a_comparison_needs_is_asked_for_before_any_work(no_gpu, monkeypatch, name):
    import sys
    import types

    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    monkeypatch.setitem(sys.modules, name, None)
    done = run("mlp", "--fast", "--compare", "torch")
    assert done.exit_code == 2
    assert "pip install" in done.stderr.replace("No GPU", "").split("--compare")[-1]


def test_help_shows_examples():
    done = run("--help")
    assert "fp16sim bench gpt --fast" in done.stdout
    assert "--redraw" in done.stdout
