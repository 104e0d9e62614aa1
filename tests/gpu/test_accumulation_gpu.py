"""Sums and matrix units on CuPy arrays against NumPy; the models against the GPU's own mma."""

import numpy as np
import pytest

import fp16sim as fs

#: whose arithmetic a compute capability is
ARCHITECTURES = {(8, 0): "A100", (8, 6): "A100", (8, 9): "L40S", (9, 0): "H100", (10, 0): "B200"}

#: one warp multiplies (16, 16) by (16, 8); fragments as in the PTX manual, mma.m16n8k16
MMA = r"""
extern "C" __global__ void mma(const unsigned short* a, const unsigned short* b,
                               const float* c, float* d) {
    const int lane = threadIdx.x, group = lane >> 2, pair = lane % 4 * 2;
    a += blockIdx.x * 256; b += blockIdx.x * 128; c += blockIdx.x * 128; d += blockIdx.x * 128;
    unsigned x[4], y[2];
    for (int i = 0; i < 4; ++i) {
        const int at = (group + i % 2 * 8) * 16 + pair + i / 2 * 8;
        x[i] = a[at] | (unsigned)a[at + 1] << 16;
    }
    for (int i = 0; i < 2; ++i) {
        const int at = (pair + i * 8) * 8 + group;
        y[i] = b[at] | (unsigned)b[at + 8] << 16;
    }
    float z[4];
    for (int i = 0; i < 4; ++i) z[i] = c[(group + i / 2 * 8) * 8 + pair + i % 2];
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.TYPE.TYPE.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(z[0]), "+f"(z[1]), "+f"(z[2]), "+f"(z[3])
                 : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
    for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + pair + i % 2] = z[i];
}
"""


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


def inputs(kind, fmt, count, rng):
    """Factors (count, 16, 16) and (count, 16, 8) with numbers of the format, and c."""
    a, b = rng.standard_normal((count, 16, 16)), rng.standard_normal((count, 16, 8))
    c = rng.standard_normal((count, 16, 8))
    if kind == "wide":
        a, b = (x * 2.0 ** rng.uniform(-20, 10, x.shape) for x in (a, b))
        c *= 2.0 ** rng.uniform(-40, 20, c.shape)
    elif kind == "subnormal":
        a, b = (x * 2.0 ** rng.uniform(fmt.emin - 12, fmt.emin + 2, x.shape) for x in (a, b))
        c *= 2.0 ** rng.uniform(-60, -20, c.shape)
    elif kind == "cancelling":
        a[:, :, 8:], b[:, 8:] = a[:, :, :8], -b[:, :8]
        c *= 2.0**-20
    elif kind == "overflowing":
        a, b = (np.sign(x) * 2.0 ** rng.uniform(fmt.emax - 3, fmt.emax, x.shape) for x in (a, b))
        c = np.sign(c) * 3.4e38
    elif kind == "special":
        for x in (a, b, c):
            x[rng.random(x.shape) < 0.02] = np.inf
            x[rng.random(x.shape) < 0.01] = np.nan
            x[rng.random(x.shape) < 0.1] = 0
    a, b = (fs.round_to(x, fmt).astype(np.float32) for x in (a, b))
    with np.errstate(all="ignore"):
        return a, b, c.astype(np.float32)


def same_bits(ours, expected):
    return (ours.view(np.uint32) == expected.view(np.uint32)) | (
        np.isnan(ours) & np.isnan(expected)
    )


KINDS = ["ordinary", "wide", "subnormal", "cancelling", "overflowing", "special"]


@pytest.mark.hardware("it has no mma")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fmt", [fs.FP16, fs.BF16], ids=repr)
def test_the_model_of_this_gpu_is_its_mma(cupy, fmt, kind):
    capability = cupy.cuda.Device().compute_capability
    arch = ARCHITECTURES[int(capability[:-1]), int(capability[-1])]
    count = 2000  # 256 000 outputs a kind, over a million a format
    a, b, c = inputs(kind, fmt, count, np.random.default_rng(KINDS.index(kind)))
    kernel = cupy.RawKernel(MMA.replace("TYPE", {"fp16": "f16"}.get(fmt.name, fmt.name)), "mma")
    result = cupy.empty(c.shape, cupy.float32)
    codes = [cupy.asarray(fs.encode(x, fmt)) for x in (a, b)]
    kernel((count,), (32,), (*codes, cupy.asarray(c), result))
    rows = [
        fs.tensorcore.matmul(a[i], b[i], c[i], arch=arch, fmt=fmt).view(np.uint32)
        for i in range(count)
    ]
    assert (result.get().view(np.uint32) == np.array(rows)).all()


@pytest.mark.parametrize("arch", ["V100", "A100", "L40S", "H100", "B200"])
@pytest.mark.parametrize("kind", KINDS)
def test_matrix_units_emulated_on_the_gpu(cupy, arch, kind):
    a, b, c = inputs(kind, fs.FP16, 20, np.random.default_rng(1))
    expected = fs.tensorcore.matmul(a, b, c, arch=arch)
    got = fs.tensorcore.matmul(*(cupy.asarray(x) for x in (a, b, c)), arch=arch)
    assert (got.get().view(np.uint32) == expected.view(np.uint32)).all()


@pytest.mark.parametrize(
    "accumulator",
    ["fp16", "fp16-fma", "fp16-pairwise", "fp16-kahan", "bf16", "e4m3", "fp32-sequential"],
)
@pytest.mark.parametrize("block", [None, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_sums(cupy, accumulator, block, kind):
    a, b, _ = inputs(kind, fs.FP16, 4, np.random.default_rng(2))
    options = {"fmt": "fp32", "accumulator": accumulator, "block": block}
    got = fs.matmul(cupy.asarray(a), cupy.asarray(b), **options)
    assert same_bits(got.get(), fs.matmul(a, b, **options)).all()
    got = fs.sum(cupy.asarray(a), axis=(0, 2), **options)
    assert same_bits(got.get(), fs.sum(a, axis=(0, 2), **options)).all()


@pytest.mark.parametrize("accumulator", ["fp32-sequential", "fp32-pairwise", "fp32-kahan"])
def test_what_is_subnormal_in_fp32_is_not_flushed(cupy, accumulator):
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((16, 16)).astype(np.float32) for _ in range(2))
    options = {"fmt": "fp32", "accumulator": accumulator}
    tiny = fs.matmul(a * np.float32(2.0**-66), b * np.float32(2.0**-66), **options)
    assert np.count_nonzero(tiny) > 200
    on_gpu = [cupy.asarray(x) * np.float32(2.0**-66) for x in (a, b)]
    assert same_bits(fs.matmul(*on_gpu, **options).get(), tiny).all()
