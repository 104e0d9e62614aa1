"""Matrix units bit for bit, against integer models written separately and outputs of real GPUs."""

from pathlib import Path

import matrix_units as oracle
import ml_dtypes
import numpy as np
import pytest
from conftest import EXECUTORS, assert_same_bits

import fp16sim as fs
from fp16sim.kernels import cpu
from fp16sim.kernels.units import cpu as units

DTYPES = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}
CASES = [(arch, fmt) for arch, formats in oracle.NVIDIA.items() for fmt in formats]
KINDS = ["ordinary", "wide", "subnormal", "cancelling", "overflowing", "special"]


@pytest.fixture(params=EXECUTORS, ids=lambda module: module.__name__.rpartition(".")[2])
def executor(request, monkeypatch):
    """Every executor: plain NumPy, and compiled from the first product on."""
    choose(request.param, monkeypatch)
    return request.param


def choose(module, monkeypatch):
    """Let products be computed by this executor."""
    if module is cpu:
        monkeypatch.setattr(units, "compiled_if_worth", lambda *_: None)


def codes_of(x, fmt):
    """Bit patterns of the nearest numbers, and these as float32."""
    with np.errstate(all="ignore"):
        if fmt == "tf32":
            codes = x.astype(np.float32).view(np.uint32) >> 13
            return codes, (codes << 13).view(np.float32)
        narrow = x.astype(DTYPES[fmt])
        codes = narrow.view(f"u{narrow.dtype.itemsize}").astype(np.uint32)
        return codes, narrow.astype(np.float32)


def inputs(kind, fmt, shape, k, rng):
    """a (*shape, k), b (*shape, k) as codes and values, c (*shape) as float32."""
    f = fs.formats.format_of(fmt)
    a, b = rng.standard_normal((2, *shape, k))
    c = rng.standard_normal(shape)
    if kind == "wide":
        span = (max(f.emin, -60) - 2, min(f.emax, 60) - 1)
        a, b = (x * 2.0 ** rng.uniform(*span, x.shape) for x in (a, b))
        c = c * 2.0 ** rng.uniform(-60, 60, shape)
    elif kind == "subnormal":
        a, b = (x * 2.0 ** rng.uniform(f.emin - 12, f.emin + 2, x.shape) for x in (a, b))
        c = c * 2.0 ** rng.uniform(-148, -60 if f.emin < -100 else -20, shape)
    elif kind == "cancelling":
        half = k // 2
        a[..., half : 2 * half], b[..., half : 2 * half] = a[..., :half], -b[..., :half]
        order = rng.permutation(k)
        a, b, c = a[..., order], b[..., order], c * 2.0 ** rng.uniform(-40, -10, shape)
    elif kind == "overflowing":
        top = (min(f.emax, 62) - 2, min(f.emax, 64))
        a, b = (np.sign(x) * 2.0 ** rng.uniform(*top, x.shape) for x in (a, b))
        c = np.sign(c) * rng.choice([3.4e38, 1e38, 3.4028234e38], shape)
    a[rng.random(a.shape) < 0.1] = 0
    c[rng.random(shape) < 0.2] = 0
    a_codes, a = codes_of(a, fmt)
    b_codes, b = codes_of(b, fmt)
    c = c.astype(np.float32)
    if kind == "special":
        for x, codes in ((a, a_codes), (b, b_codes)):
            for value, share in ((np.inf, 0.03), (-np.inf, 0.03), (np.nan, 0.02)):
                if fmt != "e4m3" or np.isnan(value):
                    where = rng.random(x.shape) < share
                    codes[where], x[where] = codes_of(np.array(value), fmt)
        c[rng.random(shape) < 0.1] = -np.inf
        c[rng.random(shape) < 0.05] = np.nan
        c[rng.random(shape) < 0.1] = -0.0
    return (a_codes, a), (b_codes, b), c


def rows(a, b, c, **options):
    """Dot products of rows as matrix products of their own."""
    return fs.tensorcore.matmul(a[:, None, :], b[:, :, None], c[:, None, None], **options)[:, 0, 0]


def words(x):
    return np.asarray(x).view(np.uint32)


# --- worked examples -----------------------------------------------------------------------------

U = 2.0**-24
LONG = (
    "3C00 3555 C100 2E66 4700 A000 3CCD 4248 B9A8 1553 4580 C8E0 389E 4170 BDA8 3000",
    "399A 4200 3266 BC66 2356 5640 BAAB 3518 3DA8 5BD0 B1D1 2E90 3EEE B5E3 B9A8 4800",
)
LONG = [np.array([int(c, 16) for c in row.split()], np.uint16).view(np.float16) for row in LONG]
at = np.zeros


def placed(**values):
    """Sixteen factors, those named k0, k1, ... as given, the others zero."""
    x = np.zeros(16)
    for name, value in values.items():
        x[int(name[1:])] = value
    return x


#: a, b, c, the float32 bits on V100, A100 and H100
EXAMPLES = [
    ([2.0**-12], [2.0**-12], 1, "3f800000 3f800000 3f800000"),
    ([2.0**-12] * 2, [2.0**-12] * 2, 1, "3f800000 3f800001 3f800001"),
    ([2.0**-12] * 4, [2.0**-12] * 4, 1, "3f800000 3f800002 3f800002"),
    ([2.0**-12] * 8, [2.0**-13] * 8, 1, "3f800000 3f800000 3f800002"),
    ([2.0**-13] * 16, [2.0**-13] * 16, 1, "3f800000 3f800000 3f800000"),
    ([-(2.0**-12)], [2.0**-12], 1, "3f800000 3f7fffff 3f7fffff"),
    ([-(2.0**-13)], [2.0**-13], 1, "3f800000 3f800000 3f800000"),
    ([1024, 1024, 2.0**-10], [1024, -1024, 2.0**-10], 0, "00000000 00000000 00000000"),
    ([64, 64, 2.0**-6], [64, -64, 2.0**-6], 0, "00000000 39800000 39800000"),
    ([U], [U], 0, "27800000 27800000 27800000"),
    ([U], [32768], 2.0**-9, "3b800000 3b800000 3b800000"),
    ([65504] * 4, [65504] * 4, 3.4e38, "7f7fc99e 7f7fc99e 7f7fc99e"),
    ([1, 1], [2, 3 * U], 0, "40000000 40000000 40000000"),
    ([-1, -1], [2, 3 * U], 0, "c0000000 c0000000 c0000000"),
    ([1], [1], -(1 - U), "34000000 33800000 33800000"),
    ([1, 1], [1, -0.5], -(0.5 - 2.0**-25), "34000000 33800000 33000000"),
    ([1, 1], [1, -0.75], -(0.25 - 2.0**-26), "34000000 33800000 33000000"),
    ([1] * 4, [1, U, U, U], 0, "3f800000 3f800001 3f800001"),
    ([1] + [0.5] * 15, [1] + [U] * 15, 0, "3f800000 3f800000 3f800003"),
    ([32768, 1, 32768], [32768, 1, -32768], 0, "00000000 00000000 00000000"),
    (placed(k0=32768, k1=32768, k8=1), placed(k0=32768, k1=-32768, k8=1), 0,
     "3f800000 3f800000 00000000"),
    (placed(k0=32768, k1=32768, k4=1), placed(k0=32768, k1=-32768, k4=1), 0,
     "3f800000 00000000 00000000"),
    ([1, -0.5], [1, U], 0, "3f800000 3f800000 3f7fffff"),
    ([1.5, 1.5], [1.5, -1.5], U, "00000000 33800000 33800000"),
    ([2.25, 2.25], [1, -1], U, "00000000 00000000 33800000"),
    ([U], [U], 2.0**-53, "27800000 27800000 27840000"),
    ([U], [U], 2.0**-52, "27800000 27880000 27880000"),
    ([1023 * U], [1], 0, "387fc000 387fc000 387fc000"),
    ([0, 0], [0, 32768], 2.0**-149, "00000001 00000001 00000001"),
    ([1, -1], [1, 1], -0.0, "00000000 00000000 00000000"),
    ([-0.0], [1], -0.0, "00000000 00000000 00000000"),
    ([1, -1, -(2.0**-15)], [1, 1, 2.0**-15], 0, "00000000 00000000 00000000"),
    ([2 - 2.0**-10] * 4, [2 - 2.0**-10] * 4, 2 - 2.0**-23, "418fe001 418fe001 418fe001"),
    ([np.inf], [0], 1, "7fffffff 7fffffff 7fffffff"),
    ([np.inf, np.inf], [1, -1], 0, "7fffffff 7fffffff 7fffffff"),
    ([-np.inf], [1], np.inf, "7fffffff 7fffffff 7fffffff"),
    ([np.nan], [1], 0, "7fffffff 7fffffff 7fffffff"),
    ([1], [1], np.nan, "7fffffff 7fffffff 7fffffff"),
    ([np.inf, 1], [1, -3], -5, "7f800000 7f800000 7f800000"),
    ([1], [1], -np.inf, "ff800000 ff800000 ff800000"),
    (*LONG, np.uint32(0x3EAAAAAB).view(np.float32), "3d896dc0 3d896dc8 3d896dcc"),
    (*LONG, 0, "be884f38 be884f38 be884f38"),
]  # fmt: skip


@pytest.mark.parametrize("arch", ["V100", "A100", "H100"])
@pytest.mark.parametrize("example", range(len(EXAMPLES)))
def test_worked_examples(executor, example, arch):
    a, b, c, results = EXAMPLES[example]
    wanted = int(results.split()[["V100", "A100", "H100"].index(arch)], 16)
    with np.errstate(invalid="ignore"):
        a, b = (np.asarray(x, np.float64).astype(np.float16) for x in (a, b))
        c = np.float32(c)
    got = fs.tensorcore.matmul(a[None], b[:, None], c, arch=arch)
    assert hex(words(got)[0, 0]) == hex(wanted)
    codes = (x.view(np.uint16).tolist() for x in (a, b))
    assert oracle.nvidia(*codes, int(words(c)[()]), arch, ("fp16", "fp16")) == wanted


@pytest.mark.parametrize(
    ("a", "b", "results"),
    [
        (placed(k0=2048, k1=1, k8=1), placed(k0=1, k1=1, k8=1), "6800 6800 6801"),
        ([65504, 16], [1, 1], "7c00 7c00 7c00"),
        ([65504, 15], [1, 1], "7bff 7bff 7bff"),
        ([U], [0.5], "0000 0000 0000"),
        ([U], [1.5], "0002 0002 0002"),
        ([U, U], [0.5, U], "0000 0000 0000"),
        ([32768, 32768, 1], [2, -2, 1], "3c00 3c00 3c00"),
        ([np.inf], [0], "7e00 7e00 7e00"),
        ([-U], [0.25], "0000 0000 0000"),
    ],
)
@pytest.mark.parametrize("arch", ["V100", "A100", "H100"])
def test_worked_examples_with_fp16_sums(arch, a, b, results):
    wanted = int(results.split()[["V100", "A100", "H100"].index(arch)], 16)
    a, b = (np.asarray(x).astype(np.float16) for x in (a, b))
    got = fs.tensorcore.matmul(a[None], b[:, None], arch=arch, output="fp16")
    assert hex(fs.encode(got, "fp16")[0, 0]) == hex(wanted)


LARGEST = float(fs.FP32.max)


@pytest.mark.parametrize(
    ("fmt", "a", "b", "c", "wanted", "archs"),
    [
        ("bf16", [2.0**127], [1], 2.0**127, 0x7F800000, "A100 H100"),
        ("bf16", [2.0**103], [1], LARGEST, 0x7F7FFFFF, "A100 H100"),
        ("bf16", [2.0**104], [1], LARGEST, 0x7F800000, "A100 H100"),
        ("bf16", [2.0**100] * 2 + [1], [2.0**100, -(2.0**100), 1], 0, 0, "A100 H100"),
        ("bf16", [2.0**-133], [1], 0, 0x00010000, "A100 H100"),
        ("bf16", [2.0**-75], [2.0**-74], 0, 0x00000001, "A100 H100"),
        ("bf16", [2.0**-75], [2.0**-75], 0, 0, "A100 H100"),
        ("bf16", [2.0**-75] * 2, [2.0**-75] * 2, 0, 0x00000001, "A100 H100"),
        ("bf16", [-(2.0**-75)], [2.0**-75], 0, 0, "A100 H100"),
        ("tf32", [np.uint32(0x3F801FFF).view(np.float32)], [1], 0, 0x3F800000, "A100 H100"),
        ("tf32", [np.uint32(0x3F802000).view(np.float32)], [1], 0, 0x3F802000, "A100 H100"),
        ("tf32", [np.uint32(0x7F800001).view(np.float32)], [1], 0, 0x7F800000, "A100 H100"),
        ("e4m3", [1, 2.0**-6], [1, 2.0**-7], 0, 0x3F800400, "H100 L40S"),
        ("e4m3", [1, 2.0**-7], [1, 2.0**-7], 0, 0x3F800000, "H100 L40S"),
        ("e4m3", [1] + [2.0**-7] * 31, [1] + [2.0**-7] * 31, 0, 0x3F800000, "H100 L40S"),
        ("e4m3", [0], [0], 1 + 2.0**-23, 0x3F800000, "H100 L40S"),
        ("e4m3", [448] * 32, [448] * 32, 0, 0x4AC40000, "H100 L40S"),
        ("e4m3", [256, 256] + [0] * 14 + [2.0**-4], [256, -256] + [0] * 14 + [2.0**-4], 0,
         0x00000000, "H100"),
        ("e4m3", [256, 256] + [0] * 14 + [2.0**-4], [256, -256] + [0] * 14 + [2.0**-4], 0,
         0x3B800000, "L40S"),
        ("e4m3", [np.nan], [1], 0, 0x7FFFFFFF, "H100 L40S"),
    ],
)  # fmt: skip
def test_worked_examples_in_other_formats(executor, fmt, a, b, c, wanted, archs):
    a, b = (np.asarray(x, np.float32) for x in (a, b))
    for arch in archs.split():
        got = fs.tensorcore.matmul(a[None], b[:, None], np.float32(c), arch=arch, fmt=fmt)
        assert hex(words(got)[0, 0]) == hex(wanted), arch
        pair = [codes_of(x, fmt)[0].tolist() for x in (a, b)]
        model = oracle.nvidia(*pair, int(words(np.float32(c))[()]), arch, (fmt, fmt))
        assert model == wanted or fmt == "tf32"  # a code of tf32 has lost the lower bits


# --- differential --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("arch", "fmt"), CASES)
def test_against_the_scalar_model(executor, arch, fmt, kind):
    rng = np.random.default_rng([len(arch), len(fmt), KINDS.index(kind)])
    for k in (1, 7, 32, 40):  # also such as are no multiple of a step
        (a_codes, a), (b_codes, b), c = inputs(kind, fmt, (10,), k, rng)
        got = words(rows(a, b, c, arch=arch, fmt=fmt))
        wanted = [
            oracle.nvidia(x.tolist(), y.tolist(), int(z), arch, (fmt, fmt))
            for x, y, z in zip(a_codes, b_codes, words(c), strict=True)
        ]
        assert [hex(w) for w in got] == [hex(w) for w in wanted]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("arch", "fmt"), [c for c in CASES if c[1] in ("fp16", "e4m3", "e5m2")])
def test_fp16_sums_against_the_scalar_model(arch, fmt, kind):
    rng = np.random.default_rng(KINDS.index(kind))
    for k in (1, 40):
        (a_codes, a), (b_codes, b), c = inputs(kind, fmt, (10,), k, rng)
        with np.errstate(all="ignore"):
            c = c.astype(np.float16).astype(np.float32)
        got = words(rows(a, b, c, arch=arch, fmt=fmt, output="fp16"))
        wanted = [
            oracle.nvidia(x.tolist(), y.tolist(), int(z), arch, (fmt, fmt), half=True)
            for x, y, z in zip(a_codes, b_codes, words(c), strict=True)
        ]
        assert [hex(w) for w in got] == [hex(w) for w in wanted]


@pytest.mark.parametrize("arch", ["L40S", "H100", "B200"])
def test_mixed_fp8(executor, arch, rng):
    (a_codes, a), _, c = inputs("wide", "e4m3", (30,), 70, rng)
    _, (b_codes, b), _ = inputs("wide", "e5m2", (30,), 70, rng)
    got = words(rows(a, b, c, arch=arch, fmt=("e4m3", "e5m2")))
    wanted = [
        oracle.nvidia(x.tolist(), y.tolist(), int(z), arch, ("e4m3", "e5m2"))
        for x, y, z in zip(a_codes, b_codes, words(c), strict=True)
    ]
    assert [hex(w) for w in got] == [hex(w) for w in wanted]


def many(fmt, count, k, rng):
    """Rows of finite codes of every kind, and c."""
    parts = [inputs(kind, fmt, (count // 4,), k, rng) for kind in KINDS[:4]]
    a, b = (
        np.concatenate([np.where(np.isfinite(part[i][1]), part[i][0], 0) for part in parts])
        for i in (0, 1)
    )
    return a, b, np.concatenate([part[2] for part in parts])


def values_of(codes, fmt):
    if fmt == "tf32":
        return (codes.astype(np.uint32) << 13).view(np.float32)
    kind = np.dtype(DTYPES[fmt])
    return codes.astype(f"u{kind.itemsize}").view(kind).astype(np.float32)


@pytest.mark.parametrize(("arch", "fmt"), CASES)
def test_the_vectorised_model_is_the_scalar_one(arch, fmt, rng):
    a, b, c = many(fmt, 200, 40, rng)
    got = oracle.nvidia_many(a, b, words(c), arch, (fmt, fmt))
    wanted = [
        oracle.nvidia(x.tolist(), y.tolist(), int(z), arch, (fmt, fmt))
        for x, y, z in zip(a, b, words(c), strict=True)
    ]
    assert [hex(w) for w in got] == [hex(w) for w in wanted]


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "fmt"), CASES)
def test_a_million_outputs(arch, fmt, monkeypatch):
    """2^20 outputs of every executor: 2^15 rows against 32 columns, in chains of three steps."""
    rng = np.random.default_rng(0)
    a, b, c = many(fmt, 2**15, 75, rng)
    operands = (fs.formats.format_of(fmt),) * 2
    step = fs.tensorcore.ARCHITECTURES[arch].step_for(operands[0])
    for turn in range(32):
        b, c = np.roll(b, 1 + turn, axis=0), np.roll(c, 3 + turn)
        wanted = oracle.nvidia_many(a, b, words(c), arch, (fmt, fmt))
        for module in EXECUTORS:
            out = c.copy()
            with monkeypatch.context() as patch:
                choose(module, patch)
                units.add_up(values_of(a, fmt), values_of(b, fmt), out, step, operands, fs.FP32)
            assert (words(out) == wanted).all(), module.__name__


def test_amd_cdna2(rng):
    for kind in ("ordinary", "wide", "subnormal", "cancelling"):
        _, _, c = inputs(kind, "fp16", (40,), 1, rng)
        for k in (1, 4, 7, 18):
            (_, a), (_, b), c = inputs(kind, "fp16", (40,), k, rng)
            got = rows(a, b, c, arch="MI250")
            wanted = [oracle.cdna2(x, y, z) for x, y, z in zip(a, b, c, strict=True)]
            assert_same_bits(got, np.array(wanted, np.float32))


def test_amd_cdna3(rng):
    for fmt, length in (("fp16", 8), ("bf16", 8), ("tf32", 4)):
        for kind in ("ordinary", "wide", "cancelling"):
            for k in (1, 8, 21):
                (a_codes, a), (b_codes, b), c = inputs(kind, fmt, (40,), k, rng)
                got = words(rows(a, b, c, arch="MI300", fmt=fmt))
                wanted = [
                    oracle.cdna3(x.tolist(), y.tolist(), int(z), fmt, length)
                    for x, y, z in zip(a_codes, b_codes, words(c), strict=True)
                ]
                assert [hex(w) for w in got] == [hex(w) for w in wanted]


# --- recorded on GPUs ----------------------------------------------------------------------------

RECORDED = np.load(Path(__file__).parent / "data" / "tensorcore_rows.npz", allow_pickle=False)


@pytest.mark.parametrize("key", sorted({name.rpartition(".")[0] for name in RECORDED.files}))
def test_outputs_recorded_on_gpus(executor, key):
    arch, fmt, output = key.split(".")
    a, b, c, wanted = (RECORDED[f"{key}.{name}"] for name in ("a", "b", "c", "d"))
    a, b = values_of(a, fmt), values_of(b, fmt)
    got = rows(a, b, c.view(np.float32), arch=arch, fmt=fmt, output=output)
    bits = words(got) if output == "fp32" else fs.encode(got, "fp16")
    assert len(wanted) >= 50
    assert (bits == wanted).all()


# --- properties ----------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["V100", "H100"])
def test_properties(executor, arch, rng):
    length = fs.tensorcore.ARCHITECTURES[arch].step_for(fs.FP16).length
    (_, a), (_, b), c = inputs("wide", "fp16", (50,), 3 * length, rng)
    result = rows(a, b, c, arch=arch)
    assert_same_bits(rows(-a, b, -c, arch=arch) + 0, -result + 0)
    order = np.concatenate([rng.permutation(length) + i * length for i in range(3)])
    assert_same_bits(rows(a[:, order], b[:, order], c, arch=arch), result)
    padded = [np.pad(x, [(0, 0), (0, 5)]) for x in (a, b)]
    assert_same_bits(rows(*padded, c, arch=arch), result)
    assert_same_bits(rows(b, a, c, arch=arch), result)


@pytest.mark.parametrize("arch", list(fs.tensorcore.ARCHITECTURES))
def test_batches_tiles_and_broadcasting(executor, arch, monkeypatch, rng):
    a = rng.standard_normal((2, 1, 9, 20)).astype(np.float16)
    b = rng.standard_normal((3, 20, 11)).astype(np.float16)
    c = rng.standard_normal((9, 1)).astype(np.float32)
    whole = fs.tensorcore.matmul(a, b, c, arch=arch)
    assert whole.shape == (2, 3, 9, 11)
    assert whole.dtype == np.float32
    for i in range(2):
        for j in range(3):
            assert_same_bits(whole[i, j], fs.tensorcore.matmul(a[i, 0], b[j], c, arch=arch))
    monkeypatch.setattr(units, "TILE", 5)
    assert_same_bits(fs.tensorcore.matmul(a, b, c, arch=arch), whole)
    start = fs.tensorcore.matmul(a, b, arch=arch)
    unit = fs.tensorcore.ARCHITECTURES[arch]
    rounded = fs.matmul(a, b, fmt="fp16", accumulator=unit)
    assert_same_bits(rounded, fs.round_to(start, "fp16"))
    vector = fs.dot(a[0, 0], b[0].T[:9], fmt="fp16", accumulator=unit)
    assert_same_bits(vector, np.diagonal(rounded[0, 0])[:9].copy())


def test_zero_sized():
    for m, k, n in ((0, 3, 2), (2, 0, 3), (2, 3, 0)):
        result = fs.tensorcore.matmul(np.zeros((m, k)), np.zeros((k, n)), arch="A100")
        assert result.shape == (m, n)
        assert (result == 0).all()


# --- refusals ------------------------------------------------------------------------------------

ONES = np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"arch": "K80"}, ValueError, "arch='K80' is not known; allowed are V100"),
        ({"arch": 100}, TypeError, "arch must be a name"),
        ({"arch": "V100", "fmt": "bf16"}, ValueError, "fmt=bf16 is not allowed for V100.*fp16"),
        ({"fmt": "fp32"}, ValueError, "fmt=fp32 is not allowed for H100.*e4m3"),
        ({"fmt": ("fp16", "bf16")}, ValueError, "is not allowed for H100"),
        ({"fmt": ("e4m3",)}, ValueError, "one format or a pair"),
        ({"a": ONES / 3}, ValueError, "a has values that fp16 does not have"),
        ({"b": ONES * 1e6}, ValueError, "b has values that fp16 does not have"),
        ({"a": ONES.astype(int)}, TypeError, "a has dtype int64"),
        ({"a": ONES[0]}, ValueError, r"allowed are \(\.\.\., m, k\)"),
        ({"a": np.ones((2, 3))}, ValueError, r"\(2, 3\) and \(2, 2\)"),
        ({"a": np.ones((3, 2, 2)), "b": np.ones((2, 2, 2))}, ValueError, "do not broadcast"),
        ({"c": np.ones(3)}, ValueError, r"c has shape \(3,\)"),
        ({"c": [0.1]}, ValueError, "c has values that fp32 does not have"),
        ({"output": "bf16"}, ValueError, "fmt='bf16'.*fp32, fp16"),
        ({"arch": "MI250", "output": "fp16"}, ValueError, "MI250 keeps sums in fp32"),
    ],
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        fs.tensorcore.matmul(**({"a": ONES, "b": ONES} | arguments))


@pytest.mark.parametrize("fmt", ["e4m3", "e5m2"])
def test_the_largest_sums(executor, fmt):
    """Of 32 products of the largest significands: too many bits for 32-bit integers on B200."""
    largest = np.full(64, fs.formats.format_of(fmt).max, np.float32)
    codes = codes_of(largest, fmt)[0].tolist()
    for arch in ("L40S", "H100", "B200"):
        got = fs.tensorcore.matmul(largest[None], largest[:, None], arch=arch, fmt=fmt)
        wanted = oracle.nvidia(codes, codes, 0, arch, (fmt, fmt))
        assert hex(words(got)[0, 0]) == hex(wanted)


def test_a_sum_that_is_subnormal_has_the_smallest_normal_exponent(executor):
    """After the first step the sum is 2^-140; it makes the second cut its products at 2^-150."""
    a, b = np.zeros(16, np.float32), np.zeros(16, np.float32)
    a[0] = b[0] = 2.0**-70
    a[8:12], b[8:12] = 2.0**-75, 1.5 * 2.0**-75  # 0.75 of the smallest number of fp32 each
    codes = [codes_of(x, "bf16")[0].tolist() for x in (a, b)]
    wanted = oracle.nvidia(*codes, 0, "A100", ("bf16", "bf16"))
    assert wanted == 2**9 + 2
    got = fs.tensorcore.matmul(a[None], b[:, None], arch="A100", fmt="bf16")
    assert words(got)[0, 0] == wanted
