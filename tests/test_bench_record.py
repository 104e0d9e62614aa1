"""Records: there and back, broken ones refused, and their figure and tables."""

import json
import os
import string
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fp16sim import plots
from fp16sim.bench.clock import Timing
from fp16sim.bench.device import Device
from fp16sim.bench.energy import Energy
from fp16sim.bench.fidelity import Agreement, FidelityRow
from fp16sim.bench.peers import PeerRow
from fp16sim.bench.plan import PRECISIONS, LeftOut, Plan
from fp16sim.bench.record import KIND, SCHEMA, Record, RecordError, default_folder
from fp16sim.bench.sweeps import SweepRow
from fp16sim.bench.zoo import InferenceRow, RecordedRow, StepRow
from fp16sim.cli.bench_tables import print_record


def timing(seconds):
    return Timing(seconds, 0.9 * seconds, 1.2 * seconds, 7, 1)


def made_up(kind="cuda"):
    """A record whose numbers nobody has measured: round ones, to be found again in figures."""
    device = Device(
        kind, "made up, not a device", 2**34, "0.0", "0.0 (driver), 0.0", {"sm": 1}, 1.0,
        "made up", 1, "made up", "3.0", {"OMP_NUM_THREADS": "1"},
        {"numpy": "0", "cupy": "0", "torch": "0"},
    )  # fmt: skip
    storage = "native" if kind == "cuda" else "emulated"
    energy = Energy(2.0, 100.0, 2.0, 100) if kind == "cuda" else Energy(reason="made-up reason")
    precisions = PRECISIONS if kind == "cuda" else ("fp32", "fp16")
    steps = tuple(
        StepRow(
            name, "tiny", precision, "native" if precision == "fp32" else storage, 10,
            timing((i + 1) / (j + 1) / 100), energy, (i + 1) * 2**20, 1000 * (j + 1), 3, 0.5,
        )
        for i, name in enumerate(("mlp", "gpt"))
        for j, precision in enumerate(precisions)
    )  # fmt: skip
    peers = tuple(
        PeerRow("mlp", "tiny", "fp32", engine, "native", 10, timing(seconds), 2.0, None)
        for engine, seconds in (("fp16sim", 0.01), ("PyTorch, eager", 0.02),
                                ("PyTorch, compiled", 0.005))
    )  # fmt: skip
    products = tuple(
        SweepRow("gemm", dtype, n, 2 * n**3, 3 * n * n * size, timing(2 * n**3 / speed))
        for dtype, size, speed in (("fp16", 2, 1e12), ("fp32", 4, 1e11))
        for n in (64, 256, 1024)
    )
    add = SweepRow("add", "fp32", 2**20, 2**20, 12 * 2**20, timing(12 * 2**20 / 1e11))
    rows = (Agreement("linear", "activation", 100, 99, 1e-3),)
    return Record(
        "2000-01-01", device, Plan(size="tiny", device=kind), 2**10, steps,
        (InferenceRow("gpt", "tiny", "fp16", storage, "tokens", 100, timing(0.1)),),
        peers, (*products, add),
        (FidelityRow("mlp", "tiny", "fp16", "emulated, NumPy", "native, CuPy", (2.0, 1.0),
                     (2.0, 1.5), rows, "layers.0: linear, activation", 0),),
        (LeftOut("mlp, tf32", "a made-up reason"),),
        (RecordedRow("mlp", "tiny", "fp16", 10, timing(0.001)),),
    )  # fmt: skip


# --- there and back ------------------------------------------------------------------------------

positive = st.floats(1e-9, 1e9)
text = st.text(string.printable + "äλ", max_size=8)
st.register_type_strategy(
    Timing,
    st.tuples(positive, positive, positive, st.integers(1, 99), st.integers(1, 99)).map(
        lambda t: Timing(*(sorted(t[:3])[i] for i in (1, 0, 2)), *t[3:])
    ),
)
st.register_type_strategy(
    Plan,
    st.builds(
        Plan,
        names=st.sampled_from([(), ("mlp",), ("gpt", "unet")]),
        size=st.sampled_from(["tiny", "laptop", "gpu"]),
        device=st.sampled_from(["cpu", "cuda"]),
        precisions=st.sampled_from([("fp16",), PRECISIONS]),
        seed=st.integers(0, 2**70),
        steps=st.integers(1, 9),
        repeats=st.integers(1, 9),
        seconds=positive,
        energy_seconds=positive,
        turns=st.integers(1, 9),
        turn_steps=st.integers(1, 9),
        fast=st.booleans(),
    ),
)


@settings(max_examples=30)
@given(st.from_type(Record))
def test_there_and_back(record):
    text = json.dumps(record.to_dict(), allow_nan=False)
    again = Record.from_dict(json.loads(text))
    assert repr(again) == repr(record)  # NaN is not equal to itself, and -0.0 is to 0.0


def test_through_a_file(tmp_path):
    record = made_up()
    path = record.save(tmp_path / "new" / "folder" / "bench.json")
    assert Record.load(path) == record
    assert [one.name for one in path.parent.iterdir()] == ["bench.json"]
    document = json.loads(path.read_text())
    assert (document["kind"], document["schema"]) == (KIND, SCHEMA)
    assert document["device"]["name"] == "made up, not a device"


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = made_up().save(tmp_path / "bench.json")

    def fail(handle):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        replace(made_up(), date="2000-01-02").save(path)
    assert Record.load(path) == made_up()
    assert len(list(tmp_path.iterdir())) == 1


# --- broken ones ---------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_short(tmp_path, share):
    path = made_up().save(tmp_path / "bench.json")
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(RecordError, match=r"bench\.json: it is no JSON"):
        Record.load(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"NaN", b"[" * 10**5, b"1 2"])
def test_other_files(tmp_path, content):
    path = tmp_path / "bench.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match="it is no JSON"):
        Record.load(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Record.load(tmp_path / "none.json")


def test_results_of_other_benchmarks():
    path = Path(__file__).parents[1] / "benchmarks" / "results" / "engine.json"
    with pytest.raises(RecordError, match="it is no record of fp16sim bench"):
        Record.load(path)


@pytest.mark.parametrize("document", [None, [], 3, {}, {"kind": "fp16sim"}])
def test_foreign_documents(document):
    with pytest.raises(RecordError, match="it is no record of fp16sim bench"):
        Record.from_dict(document)


@pytest.mark.parametrize(
    ("schema", "message"),
    [(SCHEMA + 1, "upgrade fp16sim"), (0, "did not write it"), ("1", "did not write it"),
     (True, "did not write it"), (None, "did not write it")],
)  # fmt: skip
def test_other_schemas(schema, message):
    with pytest.raises(RecordError, match=message):
        Record.from_dict(made_up().to_dict() | {"schema": schema})


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("date",), 3, "date must be a string, got 3"),
        (("steps",), {}, r"steps must be a list, got {}"),
        (("steps", 0, "loss"), "much", r"steps\[0\].loss must be a number, got 'much'"),
        (("steps", 0, "loss"), True, r"steps\[0\].loss must be a number, got True"),
        (("steps", 1, "samples"), 1.5, r"steps\[1\].samples must be an integer, got 1.5"),
        (("steps", 1, "timing", "median"), -1.0, r"steps\[1\].timing: median=-1.0"),
        (("steps", 1, "timing", "lower"), 1e9, r"steps\[1\].timing: quartiles"),
        (("plan", "size"), "huge", "plan: size='huge' is not known"),
        (("plan", "fast"), 1, "plan.fast must be true or false, got 1"),
        (("device", "clocks"), [], "device.clocks must be an object"),
        (("device", "clocks"), {"sm": "fast"}, "device.clocks.sm must be an integer"),
        (("sweeps", 0), None, r"sweeps\[0\] must be an object, got None"),
        (("device", "cores"), "x" * 99, r"got 'xxxxx.*\.\.\."),
    ],
)
def test_changed_by_hand(place, value, message):
    document = json.loads(json.dumps(made_up().to_dict()))
    *way, last = place
    inner = document
    for step in way:
        inner = inner[step]
    inner[last] = value
    with pytest.raises(RecordError, match=message):
        Record.from_dict(document)


def test_missing_and_unknown_fields():
    document = made_up().to_dict()
    del document["date"]
    document["colour"] = "red"
    with pytest.raises(RecordError, match=r"lacks \['date'\] and has the unknown \['colour'\]"):
        Record.from_dict(document)
    with pytest.raises(RecordError, match=r"lacks \[\] and has the unknown \['colour'\]"):
        Record.from_dict(made_up().to_dict() | {"colour": "red"})


def test_where_a_gpus_record_goes():
    device = replace(made_up().device, name="NVIDIA H200")
    folder = default_folder(device, "2026-11-26")
    assert folder == Path("benchmarks/results/nvidia-h200-2026-11-26")


# --- the figure ----------------------------------------------------------------------------------


def views(record):
    return plots.bench_figure(record).axes


def words(axes):
    return " ".join(text.get_text() for text in axes.texts)


def test_bars_are_the_rows():
    record = made_up()
    time, memory, energy, _ = views(record)
    heights = sorted(bar.get_height() for bar in time.patches)
    assert heights == pytest.approx(sorted(1e3 * row.timing.median for row in record.steps))
    assert sorted(bar.get_height() for bar in memory.patches) == [1] * 4 + [2] * 4
    assert {bar.get_height() for bar in energy.patches} == {2.0}
    assert time.get_ylabel() == "milliseconds (median, quartiles)"
    assert [label.get_text() for label in time.get_xticklabels()] == ["mlp", "gpt"]
    points = {
        line.get_label(): list(line.get_ydata()) for line in time.lines
        if not line.get_label().startswith("_")
    }  # fmt: skip
    assert points == {
        "fp16sim, in turns with": [10.0], "PyTorch, eager": [20.0], "PyTorch, compiled": [5.0],
    }  # fmt: skip
    quartiles = [list(line.get_ydata()) for line in time.lines if len(line.get_ydata()) == 2]
    assert quartiles[0] == pytest.approx([9.0, 12.0])


def test_no_two_bars_look_alike_and_emulated_ones_are_outlined():
    native = {(bar.get_facecolor(), bar.get_hatch()) for bar in views(made_up())[0].patches}
    assert len(native) == len(PRECISIONS)
    assert len({hatch for _, hatch in native}) == len(PRECISIONS)
    fp32, fp16, *_ = views(made_up("cpu"))[0].patches
    assert mpl.colors.to_hex(fp32.get_facecolor()) == "#888888"
    assert mpl.colors.to_hex(fp16.get_facecolor()) == "#ffffff"
    legend = plots.bench_figure(made_up("cpu")).legends[0]
    assert "no hardware's" in legend.get_title().get_text()
    assert [one.get_text() for one in legend.get_texts()] == ["fp32", "fp16, emulated"]
    assert "emulated" not in plots.bench_figure(made_up()).legends[0].get_title().get_text()


def test_what_was_not_measured_is_an_empty_view_that_says_so():
    record = replace(made_up("cpu"), sweeps=())
    *_, energy, roofline = views(record)
    assert "made-up reason" in words(energy)
    assert "--sweeps" in words(roofline)
    for axes in views(replace(record, steps=(), peers=())):
        assert "not measured" in words(axes)


def test_the_roofline_is_under_its_ceilings():
    record = made_up()
    roofline = views(record)[3]
    by_label = {line.get_label(): line for line in roofline.lines}
    assert list(by_label["fp16"].get_ydata()) == pytest.approx([1.0] * 3)
    assert list(by_label["fp16"].get_xdata()) == pytest.approx([n / 3 for n in (64, 256, 1024)])
    slope = by_label["100 GB/s"]
    assert list(slope.get_ydata()) == pytest.approx(list(slope.get_xdata() * 0.1))
    tops = [line.get_ydata()[0] for line in roofline.lines if line.get_linestyle() == "--"]
    assert tops == pytest.approx([1.0, 0.1])


def test_the_figure_says_on_what():
    title = plots.bench_figure(made_up())._suptitle.get_text()
    assert title == "made up, not a device, driver 0.0, 2000-01-01, cupy 0, numpy 0, torch 0"


# --- tables --------------------------------------------------------------------------------------


def test_tables(capsys):
    print_record(made_up())
    said = capsys.readouterr().out
    assert "made up, not a device" in said
    assert "16.0 GiB, at most 1 W" in " ".join(said.split())
    assert "OMP_NUM_THREADS=1" in " ".join(said.split())
    for cell in ("mlp, tf32, 10", "10.0", "9.0-12.0", "1,000", "2.0", "100", "4,000", "99.0000%"):
        assert cell in said, cell
    assert "x our" in said
    assert "0.50" in said
    assert "layers.0: linear, activation" in said
    assert "1.0e-03" in said
    assert "Not measured: mlp, tf32: a made-up reason" in said
    print_record(made_up("cpu"))
    said = capsys.readouterr().out
    assert "mlp, fp16, emulated, 10" in said
    assert "one thread each" in said
    assert "energy of mlp, fp32 and 3 more: made-up reason" in " ".join(said.split())
