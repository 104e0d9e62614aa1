"""Lessons run headless as plain scripts; solutions pass their checks; wrong answers do not."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fp16sim as fs

LESSONS = Path(__file__).parents[1] / "lessons"
NUMBERED = sorted(LESSONS.glob("[0-9][0-9]_*.py"))

spec = importlib.util.spec_from_file_location("checks", LESSONS / "checks.py")
checks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(checks)


def run(script, *arguments, cwd):
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND")}
    return subprocess.run(
        [sys.executable, "-W", "error", str(script), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=300,
    )


@pytest.mark.parametrize("lesson", NUMBERED, ids=lambda path: path.stem)
def test_lesson_runs_fast_and_headless(lesson, tmp_path):
    done = run(lesson, "--fast", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert list(tmp_path.iterdir()) == []  # a quick run does not touch the real figures


@pytest.mark.parametrize("lesson", NUMBERED, ids=lambda path: path.stem)
def test_lesson_has_a_header_and_a_solution_that_passes(lesson, tmp_path):
    text = lesson.read_text()
    assert text.startswith("# %% [markdown]\n# # ")
    for heading in ("**Question.**", "**Time:**", "**You need:**", "**You will be able to:**"):
        assert heading in text
    assert "**Predict:**" in text
    assert re.search(r"^check_\w+\(", text, re.MULTILINE)
    done = run(LESSONS / "solutions" / lesson.name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Right" in done.stdout


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda g, s: ..., "Not written yet"),
        (lambda g, s: None, "end with `return`"),
        (lambda g, s: (fs.round_to(g * s, "fp16") == 0) & (g != 0), "a share is one number"),
        (lambda g, s: "all", "a share is one number"),
        (lambda g, s: (fs.round_to(g * np.float32(s), "fp16") == 0).mean(), "Zeros that were"),
        (lambda g, s: ((fs.round_to(g, "fp16") == 0) & (g != 0)).mean(), "With scale 1024"),
        (lambda g, s: ((abs(g * s) < 2.0**-24) & (g != 0)).mean(), "rounded up"),
        (lambda g, s: ((abs(g * s) < 2.0**-14) & (g != 0)).mean(), "subnormal"),
        (lambda g, s: int(((fs.round_to(g * s, "fp16") == 0) & (g != 0)).sum()), "share"),
        (lambda g, s: ((abs(g * s) < 2.0**-25) & (g != 0)).mean(), "halfway"),
        (lambda g, s: ((g * s < 2.0**-24.9) & (g != 0)).mean(), "negative values"),
    ],
)
def test_wrong_answers_of_lesson_01_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_flushed_share(answer)
    assert hint in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda v, f: ..., "Not written yet"),
        (lambda v, f: None, "should be one number"),
        (lambda v, f: 2048.0, "Is 2048 built in"),
        (lambda v, f: {"fp16": 2048.0, "bf16": 256.0}[f], "A quarter of the value"),
        (lambda v, f: v * 2 / fs.formats.format_of(f).eps, "grows, by 4"),
        (
            lambda v, f: (
                2.0 ** np.ceil(np.log2(v)) * 2 / fs.formats.format_of(f).eps if v != 1.25 else 8.0
            ),
            "Only from 16",
        ),
    ],
)
def test_wrong_answers_of_lesson_05_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_stalls_at(answer)
    assert hint in capsys.readouterr().out


def roofline(size32, size16, meets):
    def answer(operations, numbers, peak32, peak16, bandwidth):
        times = (
            meets(operations / peak, size * numbers / bandwidth)
            for peak, size in ((peak32, size32), (peak16, size16))
        )
        return next(times) / next(times)

    return answer


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda *_: ..., "Not written yet"),
        (lambda *_: None, "should be one number"),
        (lambda o, n, p, q, b: q / p, "memory decides"),
        (lambda o, n, p, q, b: 2, "only the peaks matter"),
        (roofline(1, 0.5, max), "A number takes 4 bytes"),
        (lambda o, n, p, q, b: min(q / p, 2) if 4 * n / b > o / p else q / p, "not the sum"),
        (roofline(4, 2, lambda x, y: x + y), "not the sum"),
        (roofline(2, 1, max), "A number takes 4 bytes"),
    ],
)
def test_wrong_answers_of_lesson_12_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_speedup(answer)
    assert hint in capsys.readouterr().out
