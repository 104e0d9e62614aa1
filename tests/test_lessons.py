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
from fp16sim import functional as F

LESSONS = Path(__file__).parents[1] / "lessons"
NUMBERED = sorted(LESSONS.glob("[0-9][0-9]_*.py"))

spec = importlib.util.spec_from_file_location("checks", LESSONS / "checks.py")
checks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(checks)


def run(script, *arguments, cwd):
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND")}
    # Small matrices, and a worker beside this one: with more threads one lesson took 55 s, not 3.
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error", str(script), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=300,
    )


@pytest.mark.parametrize("lesson", [*NUMBERED, LESSONS / "on_paper.py"], ids=lambda path: path.stem)
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


def test_the_syllabus_has_every_lesson_with_its_title_and_picture():
    page = (LESSONS / "README.md").read_text()
    notes = (LESSONS / "INSTRUCTORS.md").read_text()
    for lesson in NUMBERED:
        title = re.search(r"^# # (\d+ · .+)$", lesson.read_text(), re.MULTILINE)[1]
        assert f"[{title}]({lesson.name})" in page
        assert f"../figures/{lesson.stem}.png" in page
        assert f"## {title}\n" in notes
    for text in (page, notes, (LESSONS / "GLOSSARY.md").read_text()):
        for link in re.findall(r"\]\(([^)#:]+)\)|(?:src|srcset)=\"([^\"]+)\"", text):
            assert (LESSONS / "".join(link)).exists(), link


def test_an_answer_that_raises_gets_the_hint_too(capsys):
    assert not checks.check_round_even(lambda x, s: 1 / 0)
    said = capsys.readouterr().out
    assert "round_even(" in said
    assert "raises ZeroDivisionError: division by zero" in said
    assert len(said.splitlines()) == 2


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


def binade(x):
    return 2.0 ** np.floor(np.log2(x))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x, f: ..., "Not written yet"),
        (lambda x, f: None, "should be one number"),
        (lambda x, f: 2.0**-11, "called eps"),
        (lambda x, f: x * f.eps, "not the number"),
        (lambda x, f: f.eps, "It doubles"),
        (lambda x, f: binade(x) * 2.0**-10, "Is 2^-10 built in"),
        (lambda x, f: binade(x) * f.eps, "never below fmt.emin"),
        (lambda x, f: max(binade(x) * f.eps, 2.0**-24) if f is not fs.E4M3 else 8.0, "E4M3 has 4"),
    ],
)
def test_wrong_answers_of_lesson_02_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_spacing(answer)
    assert hint in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x, s: ..., "Not written yet"),
        (lambda x, s: None, "should be one number"),
        (lambda x, s: np.ceil(x / s) * s, "nearer to 0"),
        (lambda x, s: np.floor(x / s) * s, "Cutting off"),
        (lambda x, s: float(round(x)), "multiples of the spacing"),
        (lambda x, s: np.floor(x / s + 0.5) * s, "the even one is 0"),
        (lambda x, s: np.ceil(x / s - 0.5) * s, "ties go up as often"),
        (lambda x, s: np.trunc(x / s) * s if x < 0 else np.rint(x / s) * s, "floor goes down"),
        (lambda x, s: -3.0 if x == -2.5 else np.rint(x / s) * s, "a tie of -3 and -2"),
        (lambda x, s: 2.0 if x == 3 else np.rint(x / s) * s, "Even is the multiple"),
    ],
)
def test_wrong_answers_of_lesson_03_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_round_even(answer)
    assert hint in capsys.readouterr().out


def fate_by_limits(largest, normal, smallest):
    def fate(x):
        size = abs(x)
        if np.isnan(x):
            return "nan"
        if size == 0:
            return "zero"
        if size > largest:
            return "overflow"
        return "normal" if size >= normal else "subnormal" if size >= smallest else "flushed"

    return fate


RIGHT = fate_by_limits(65520 - 1e-9, 2.0**-14 * (1 - 2.0**-11), 2.0**-25 * (1 + 1e-9))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x: ..., "Not written yet"),
        (lambda x: True, "should be one of zero, flushed"),
        (lambda x: "subnormal", "in the middle"),
        (lambda x: "normal" if x else "flushed", "Nothing is lost"),
        (lambda x: "normal" if x else "zero", "with fewer bits"),
        (lambda x: RIGHT(x) if x < 1e5 and x > 0 else "normal" if x else "zero", "Is the sign"),
        (fate_by_limits(65504, 2.0**-14, 2.0**-24), "nearer to 65504"),
        (fate_by_limits(65519, 2.0**-14, 2.0**-24), "rounded up to it"),
        (fate_by_limits(65519, 2.0**-14, 2.0**-25), "which is normal"),
        (lambda x: "normal" if np.isnan(x) else RIGHT(x), "stays NaN"),
    ],
)
def test_wrong_answers_of_lesson_04_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_fate(answer)
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


def half(x):
    return fs.round_to(float(x), "fp16")


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda m, u: (..., ...), "Not written yet"),
        (lambda m, u: m - u, "two numbers"),
        (lambda m, u: ("1", 2), "two numbers"),
        (lambda m, u: (m + u, m + u), "to be subtracted"),
        (lambda m, u: (u, m), "gives (0.5, 1.0)"),
        (lambda m, u: (half(m - u), half(m - u)), "swamped after all"),
        (lambda m, u: (m - u, m - u), "round the master"),
        (lambda m, u: (m - u, half(m - u)), "round it, too"),
    ],
)
def test_wrong_answers_of_lesson_06_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_master_step(answer)
    assert hint in capsys.readouterr().out


def below(edge, sign=1):
    return lambda counts, k: sum(n for e, n in counts.items() if e + sign * k < edge)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda counts, k: ..., "Not written yet"),
        (lambda counts, k: None, "one number"),
        (lambda counts, k: sum(counts.values()), "are safe"),
        (lambda counts, k: sum(e + k < -25 for e in counts), "not bins"),
        (below(-14), "but no zero"),
        (below(-24), "is nearer than 0"),
        (below(-26), "nearer to 0"),
        (below(-25, sign=-1), "makes them larger"),
        (lambda counts, k: below(-25)(counts, max(k, 0)), "makes them smaller"),
    ],
)
def test_wrong_answers_of_lesson_07_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_flushed(answer)
    assert hint in capsys.readouterr().out


def window(
    edge=-25,
    limit=65504.0,
    size=lambda exponent, number: number * 2.0**exponent,
    may_go=lambda gone, bound: gone <= bound,
    near=np.floor,
):
    """The right answer, with some wrong ones."""

    def answer(counts, largest, bound, headroom):
        sizes = {e: size(e, number) for e, number in counts.items()}

        def gone(k):
            return sum(s for e, s in sizes.items() if e + k < edge) / sum(sizes.values())

        lowest = next(k for k in range(-200, 200) if may_go(gone(k), bound))
        return lowest, int(near(np.log2(limit / largest))) - headroom

    return answer


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda *_: (..., ...), "Not written yet"),
        (lambda *_: None, "two numbers"),
        (lambda *given: window()(*given)[::-1], "First the smallest k"),
        (window(edge=-24), "safe from exponent -25 on"),
        (lambda *given: (max(window()(*given)[0], 0), window()(*given)[1]), "may be below 1"),
        (window(size=lambda e, number: number), "number of values"),
        (window(size=lambda e, number: 2.0**e), "more than 0.2"),
        (window(may_go=lambda gone, bound: gone < max(bound, 1e-9)), "'at most'"),
        (lambda c, g, b, h: window()(c, g, 0.0, h), "'at most'"),
        (window(may_go=lambda gone, bound: gone <= max(bound, 0.25)), "more than 0.2"),
        (window(near=np.rint), "81920"),
        (lambda c, g, b, h: window()(c, max(g, 1.0), b, h), "leave room"),
        (window(limit=2.0**16), "not at 2^16"),
        (lambda c, g, b, h: window()(c, g, b, 0), "lowers the ceiling"),
        (lambda c, g, b, h: window()(c, g, b, -h), "lowers the ceiling"),
    ],
)
def test_wrong_answers_of_lesson_08_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_window(answer)
    assert hint in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda s, n, ok, k: (..., ...), "Not written yet"),
        (lambda s, n, ok, k: s / 2, "two numbers"),
        (lambda s, n, ok, k: (s * 2 if ok else s / 2, 0), "changes nothing yet"),
        (lambda s, n, ok, k: (s, n + 1) if ok else (s / 2, n), "begins a new count"),
        (lambda s, n, ok, k: (s, n + 1) if ok else (s / 2, 0), "The fifth good step"),
        (
            lambda s, n, ok, k: (s * 2, 0) if n + 1 == k else (s, n + 1) if ok else (s / 2, 0),
            "no good one",
        ),
        (
            lambda s, n, ok, k: (
                (max(s / 2, 1.0), 0) if not ok else (s * 2, 0) if n + 1 == k else (s, n + 1)
            ),
            "no floor",
        ),
        (
            lambda s, n, ok, k: (
                (s / 2, 0) if not ok else (s * 2, 0) if n and n + 1 == k else (s, n + 1)
            ),
            "every good step",
        ),
    ],
)
def test_wrong_answers_of_lesson_09_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_next_scale(answer)
    assert hint in capsys.readouterr().out


LISTS = {"low": ["matmul", "linear", "conv2d"], "any": ["relu", "add", "mean"]}


def listed(**changes):
    """The right answer, with some wrong ones."""
    known = {name: kind for kind, names in LISTS.items() for name in names} | changes
    return lambda operation: known.get(operation, "wide")


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda name: ..., "Not written yet"),
        (lambda name: "fp16", "should be one of low"),
        (lambda name: "wide", "Products are what"),
        (lambda name: "low", "loses nothing"),
        (listed(exp="any"), "e^12"),
        (listed(linear="wide"), "is a product"),
        (listed(softmax="low"), "exponentiates"),
        (listed(layer_norm="any"), "squares"),
        (listed(add="wide"), "harmless"),
        (listed(sum="any"), "end at 65504"),
        (listed(cross_entropy="any"), "logarithms"),
        (listed(conv2d="any"), "as well"),
        (listed(mean="wide"), "surprise"),
    ],
)
def test_wrong_answers_of_lesson_10_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_class_of(answer)
    assert hint in capsys.readouterr().out


def bill(wide=4, low=2, **per_parameter):
    known = {"fp32": 16, "amp": 18, "O2": 16, "O3": 12} | per_parameter
    return lambda p, a, policy: p * known[policy] + a * (wide if policy == "fp32" else low)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda p, a, policy: ..., "Not written yet"),
        (lambda p, a, policy: None, "one number"),
        (bill(wide=32), "takes 4 bytes"),
        (bill(low=4), "are fp16 under amp"),
        (bill(fp32=8), "two moments"),
        (bill(O3=8), "stay in fp32"),
        (bill(O2=12), "an fp32 master"),
        (bill(amp=16), "on top"),
        (lambda p, a, policy: max(bill()(p, 0, policy), bill()(0, a, policy)), "add up"),
    ],
)
def test_wrong_answers_of_lesson_11_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_bytes_of(answer)
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


def by_steps(before=1.0, after=1.0):
    """Attention scores, with what is divided before and after the product in terms of √d."""
    return lambda q, k: (
        (q / q.shape[1] ** (before / 2)) @ k.transpose(1, 0) / q.shape[1] ** (after / 2)
    )


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda q, k: ..., "Not written yet"),
        (lambda q, k: None, "should be a Tensor in fp16"),
        (lambda q, k: fs.Tensor(q.numpy() @ k.numpy().T / 8), "should be a Tensor in fp16"),
        (lambda q, k: (q / 8) @ k.transpose(1, 0) * np.ones(1), "should be a Tensor in fp16"),
        (by_steps(0, 0), "that is divided by the root of 64"),
        (by_steps(1, 1), "that is divided by the root of 64"),
        (lambda q, k: (q / 8) @ k.transpose(1, 0), "Is 8 built in"),
        (by_steps(0, 1), "What can be made smaller before"),
        (by_steps(0.5, 0.5), "What can be made smaller before"),
        (lambda q, k: (q / 8) @ k.transpose(1, 0) / (q.shape[1] ** 0.5 / 8), "all of the division"),
        (by_steps(2, -1), "0.0005 / 8 is a normal number"),
        (lambda q, k: q @ (k / q.shape[1]).transpose(1, 0) * q.shape[1] ** 0.5, "0.0005 / 8"),
    ],
)
def test_wrong_answers_of_lesson_13_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_scores(answer)
    assert hint in capsys.readouterr().out


def overlap(divisor, sides=F.relu, union=lambda areas, shared: areas - shared):
    """IoU in the formats of Tensors, with coordinates divided first."""

    def iou(a, b):
        a, b = a / divisor, b / divisor
        width = sides(F.minimum(a[2], b[2]) - F.maximum(a[0], b[0]))
        height = sides(F.minimum(a[3], b[3]) - F.maximum(a[1], b[1]))
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
        return width * height / union(areas[0] + areas[1], width * height)

    return iou


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda a, b: ..., "Not written yet"),
        (lambda a, b: None, "should be a Tensor of one value"),
        (lambda a, b: 1.0, "should be a Tensor of one value"),
        (lambda a, b: overlap(1)(*(fs.Tensor(x.numpy()) for x in (a, b))), "in fp16"),
        (lambda a, b: a[0] + 2, "1 with itself"),
        (overlap(1, union=lambda areas, shared: areas / 2), "counts once"),
        (overlap(1, sides=lambda x: x), "negative sides"),
        (overlap(1), "their sum does not"),
        (overlap(2), "1.8 million"),
        (overlap(8), "The whole image"),
        (overlap(2048), "is subnormal"),
        (overlap(10), "Far from the origin"),
    ],
)
def test_wrong_answers_of_lesson_14_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_iou(answer)
    assert hint in capsys.readouterr().out


def dice_by(total, empty=1.0):
    def answer(truth, prediction):
        sizes = total(truth) + total(prediction)
        return 2 * total(truth * prediction) / sizes if sizes else empty

    return answer


def pixels(mask):
    return mask.sum(dtype=np.float64)


RIGHT_DICE = dice_by(pixels)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda t, p: ..., "Not written yet"),
        (lambda t, p: None, "one number"),
        (lambda t, p: t * p, "one number"),
        (lambda t, p: RIGHT_DICE(t, p) / 2, "The same masks"),
        (lambda t, p: float((t == p).mean()), "that is in neither"),
        (lambda t, p: RIGHT_DICE(t, p) / (2 - RIGHT_DICE(t, p)), "none counts twice"),
        (lambda t, p: (t * p).sum() / t.sum(), "both sizes count"),
        (lambda t, p: RIGHT_DICE(t, p) if p.any() else 1.0, "only one mask is empty"),
        (dice_by(pixels, empty=np.nan), "by definition"),
        (dice_by(lambda mask: fs.sum(mask, accumulator="fp16")), "stalls at 2048"),
        (dice_by(np.sum), "has no 2049"),
        (dice_by(np.mean), "rounded to fp16"),
        (dice_by(lambda mask: pixels(mask) if mask.size < 2**18 else np.sum(mask)), "overflow?"),
        (dice_by(lambda mask: min(pixels(mask), 65504.0)), "cut to 65504"),
        (lambda t, p: RIGHT_DICE(t, p) if t.size < 100 or t.sum() > 9 else 0.0, "as well"),
    ],
)
def test_wrong_answers_of_lesson_15_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_dice(answer)
    assert hint in capsys.readouterr().out


def int8(first=-128, steps=255, rounded=round, begin=0.0, end=0.0, counted=True):
    def answer(low, high):
        low, high = min(low, begin), max(high, end)
        scale = (high - low) / steps
        return scale, rounded(first - low / (scale if counted else 1))

    return answer


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda low, high: (..., ...), "Not written yet"),
        (lambda low, high: None, "should be two numbers"),
        (lambda low, high: (high - low) / 255, "should be two numbers"),
        (int8(first=0), "not 0, as of uint8"),
        (int8(steps=256), "255 steps"),
        (lambda low, high: (max(-low, high) / 127, 0), "int8's own numbers"),
        (lambda low, high: ((high - low) / 255, 0), "51 steps further on"),
        (int8(counted=False), "counts steps"),
        (int8(rounded=lambda z: z), "no integer"),
        (int8(rounded=int), "The nearest is -28"),
        (int8(rounded=np.floor), "of -27.25"),
        (int8(begin=np.inf, end=-np.inf), "begin at 0"),
        (int8(end=-np.inf), "end at 0"),
    ],
)
def test_wrong_answers_of_lesson_16_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_int8_grid(answer)
    assert hint in capsys.readouterr().out


def shared(rounding=np.floor, of=lambda v: max(abs(x) for x in v), zero=-127, lowest=-127):
    def answer(values, emax):
        largest = of(values)
        if largest == 0:
            return zero
        return max(rounding(np.log2(largest)) - emax, lowest)

    return answer


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda v, e: ..., "Not written yet"),
        (lambda v, e: None, "should be one number"),
        (lambda v, e: 2.0 ** shared()(v, e), "2 - 0"),
        (lambda v, e: shared()(v, 0), "subtract emax"),
        (lambda v, e: shared()(v, 0) + e, "subtract emax"),
        (shared(np.ceil), "rounds log2 down"),
        (shared(np.rint), "rounds log2 down"),
        (shared(of=max), "Magnitudes count"),
        (shared(int), "cuts toward zero"),
        (shared(zero=0), "A block of zeros"),
        (shared(zero=-np.inf), "A block of zeros"),
        (shared(lowest=-200), "ends at -127"),
    ],
)
def test_wrong_answers_of_lesson_17_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_shared_exponent(answer)
    assert hint in capsys.readouterr().out


def doctor(
    rules=("forward", "order", "underflow", "swamped"), of_all=(), zeros_too=False, flushed=0.05,
    swamped=0.2, skips_are_ill=False,
):  # fmt: skip
    def answer(seen):
        def share(lost, of):
            count = seen[lost] + zeros_too * seen[f"{of}_zero"]
            return count / (seen[of] - (0 if of in of_all or zeros_too else seen[f"{of}_zero"]))

        fits = {
            "forward": seen["born_forward"] or (skips_are_ill and seen["skipped"]),
            "order": seen["clipped_at"] != 1,
            "underflow": share("gradients_flushed", "gradients") >= flushed,
            "swamped": share("updates_swamped", "updates") >= swamped,
        }
        return next((name for name in rules if fits[name]), "well")

    return answer


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda seen: ..., "Not written yet"),
        (lambda seen: None, "should be one of forward"),
        (lambda seen: "healthy", "should be one of forward"),
        (lambda seen: "underflow", "Nothing at all"),
        (lambda seen: "well", "comes first"),
        (doctor(skips_are_ill=True), "how a scaler finds"),
        (doctor(rules=("forward", "underflow", "swamped")), "Clipped with a loss scale"),
        (doctor(rules=("forward", "order", "swamped")), "four times the limit"),
        (doctor(zeros_too=True), "zero before rounding"),
        (doctor(of_all=("gradients", "updates")), "20 %, not 2 %"),
        (doctor(rules=("forward", "order", "underflow")), "Half of the updates"),
        (doctor(of_all=("updates",)), "nothing to lose"),
        (doctor(flushed=0.01), "zero before rounding"),
        (doctor(swamped=0.1), "below the limits"),
        (doctor(rules=("forward", "underflow", "swamped", "order")), "swamping is the symptom"),
        (doctor(rules=("forward", "order", "swamped", "underflow")), "try underflow first"),
    ],
)
def test_wrong_answers_of_lesson_18_get_the_right_hint(answer, hint, capsys):
    assert not checks.check_diagnosis(answer)
    assert hint in capsys.readouterr().out
