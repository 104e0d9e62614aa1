"""What fused kernels must give: the primitives' values, computed in float64, rounded once.

A kernel's float arithmetic may err by so much before the rounding: every check says by how much,
in units of EPS, from what is known of each operation (CUDA C++ Programming Guide, "Mathematical
Functions": expf 2 ulp, tanhf 2, erfcf 4, log1pf 1, logf 1; an ulp is up to 2 EPS of a value; sums
and products EPS). Where nothing but products, quotients and ordered sums happens, that is nothing,
and the reference is the primitive in float32: the same bits.
"""

from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fp16sim as fs
from fp16sim.autograd.ops import conv, fused, losses, norms, pool
from fp16sim.autograd.primitive import PRIMITIVES
from fp16sim.kernels.fused.elementwise import FUNCTIONS
from fp16sim.optim import SGD, Adam, AdamW
from fp16sim.scaling import LossScale, next_scale

#: the largest relative error of one operation
EPS = 2.0**-24
#: of a sum of up to 2^16 values: 64 a thread, one after the other, then 5 + 32 across a block
SUM = 104 * EPS
#: a result that is subnormal in float has an absolute error
TINY = 2.0**-146

FORMATS = {"float16": fs.FP16, "bfloat16": fs.BF16, "float32": fs.FP32}
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}


@dataclass
class Lab:
    """The launchers of a place, the way there and back, and the storage type of the arrays."""

    gpu: Any
    normalise: Any
    attention: Any
    updates: Any
    there: Any
    back: Any
    dtype: str

    @property
    def fmt(self):
        return FORMATS[self.dtype]

    def numbers(self, rng, *shape, wide=False, special=False):
        """Numbers of the format, in float32: normal ones; or of all exponents, subnormal too."""
        x = rng.standard_normal(shape)
        if wide:  # below 2^60, so that no sum of products overflows in float
            x *= 2.0 ** rng.uniform(
                self.fmt.emin - self.fmt.precision, min(self.fmt.emax, 60), shape
            )
            x[rng.random(shape) < 0.05] = 0
        x = fs.round_to(x, self.fmt, saturate=True).astype(np.float32)
        if special:
            x.reshape(-1)[::97] = np.inf
            x.reshape(-1)[5::101] = -np.inf
            x.reshape(-1)[11::103] = np.nan
        return x

    def stored(self, x, dtype=None):
        return self.there(np.asarray(x).astype(DTYPES[dtype or self.dtype]))

    def check(self, actual, expected, error=0.0):
        """Whether the result is what rounding makes of a number so near to what is expected."""
        actual = np.asarray(self.back(actual)).astype(np.float32)
        within(actual, expected, error, self.fmt)

    def apply(self, op, inputs, g=None, recomputes=False, **options):
        """A primitive's value in float64; with g, that value stored, and gradients not rounded yet.

        recomputes: backward does not read the stored value, whatever the primitive does.
        """
        if op.knows_format:
            options["fmt"] = fs.FP64
        inputs = [x.astype(np.float64) for x in inputs]
        value, residuals = op._forward(*inputs, **options)
        if g is None:
            return value
        y = fs.round_to(value, self.fmt).astype(np.float64)
        if not recomputes:
            residuals = [y if kept is value else kept for kept in residuals]
        slopes = op._rule(g.astype(np.float64), *residuals)
        return y, [slope() if callable(slope) else slope for slope in slopes]


def within(actual, expected, error, fmt):
    """Every number lies between the roundings of expected - error and of expected + error.

    That is equality where the error is 0 (with the zero's sign, if all are) or no number, and at
    most one ulp apart where it is below half an ulp.
    """
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    if np.isscalar(error) and error == 0:
        low = high = fs.round_to(expected, fmt).astype(np.float32)
        same = (actual == low) & (np.signbit(actual) == np.signbit(low))
    else:
        exact = expected.astype(np.float64)
        error = np.where(np.isfinite(exact) & np.isfinite(error), error, 0)
        low, high = (fs.round_to(exact + e, fmt).astype(np.float32) for e in (-error, error))
        same = (low <= actual) & (actual <= high)
    same |= np.isnan(actual) & np.isnan(expected)
    wrong = np.argwhere(~same)
    if len(wrong):
        at = tuple(wrong[0])
        raise AssertionError(
            f"{len(wrong)} of {actual.size} differ, the first at {at}: {actual[at]!r}, "
            f"expected {low[at]!r} to {high[at]!r}"
        )


def every_number(lab, rng):
    """All 2^16 numbers of the narrow types; for fp32 as many of all sizes."""
    if lab.dtype == "float32":
        x = rng.integers(0, 2**32, 2**16, np.uint64).astype(np.uint32).view(np.float32)
    else:
        x = np.arange(2**16, dtype=np.uint16).view(DTYPES[lab.dtype]).astype(np.float32)
    return x


def _errors(name, x):
    """Bounds of forward's and of the slope's errors, relative to the sizes of their terms.

    A function's argument with a relative error of a few EPS changes e^z by |z| as many, and
    erfc(z) by 2z² + 1.
    """
    x = np.clip(np.nan_to_num(x.astype(np.float64)), -104, 104)
    inner = np.minimum(1.6 * np.abs(x + 0.044715 * x**3), 104)
    return EPS * {"gelu": 16 + 4 * x * x, "gelu_tanh": 16 + 8 * inner}.get(name, 16 + 0 * x)


def check_elementwise(lab, rng):
    ops = {name: PRIMITIVES[name.removesuffix("_tanh")] for name in FUNCTIONS}
    x = every_number(lab, rng)
    g = lab.numbers(rng, x.size, wide=True)
    for name, op in ops.items():
        how = {"approximate": "tanh" if "_" in name else "none"} if "gelu" in name else {}
        value = lab.apply(op, [x], **how)
        error = _errors(name, x) * np.abs(value) + TINY * (1 + np.abs(x))
        lab.check(lab.gpu.forward(name, lab.stored(x)), value, error)
        if FUNCTIONS[name].saves == "y":  # products of what is stored: exact
            y = fs.round_to(value, lab.fmt).astype(np.float32)
            slope = op._rule(g, y)[0]
            saved, error = y, 0.0
        else:
            _, (slope,) = lab.apply(op, [x], g, **how)
            # The slope's terms may cancel: its error is relative to their sizes.
            z = np.clip(np.nan_to_num(x.astype(np.float64)), -200, 200)
            terms = np.where(z < 0, _below(name, z), 2 + np.abs(z) * np.exp(-np.abs(z)) * 4)
            saved, error = x, np.abs(g) * (3 * _errors(name, x) * terms + 200 * TINY) + TINY
        lab.check(lab.gpu.backward(name, lab.stored(g), lab.stored(saved)), slope, error)
    # arrays that begin anywhere, and have any length
    for start, end in ((1, 300), (0, 299), (8, 8)):
        part = lab.stored(x)[start:end]
        lab.check(lab.gpu.forward("exp", part), np.asarray(lab.back(lab.gpu.forward(
            "exp", lab.stored(x))[start:end])).astype(np.float32))  # fmt: skip


def _below(name, z):
    """The size of a slope's terms for z < 0: they vanish as the function does."""
    z = np.minimum(z, 0)
    if name in ("softplus", "silu"):
        return np.exp(z) * (1 - z)
    exponent = z * z / 2 if name == "gelu" else -1.6 * (z + 0.044715 * z**3)
    return np.exp(-np.minimum(exponent, 745)) * (1 - z) * (2 + z * z)


#: rows of a warp and of a block, short ones and long ones
SHAPES = [(5, 1), (9, 33), (3, 1024), (2, 1025), (2, 5000), (1, 2**16)]


def check_cast(lab, rng):
    x = every_number(lab, rng)
    for size in (x.size, 1003, 5):
        for dtype, fmt in ((DTYPES[name], FORMATS[name]) for name in DTYPES):
            ours = lab.gpu.cast(lab.stored(x[-size:]), np.dtype(dtype))
            assert ours.dtype == dtype
            within(np.asarray(lab.back(ours)).astype(np.float32), x[-size:], 0.0, fmt)


def check_add(lab, rng):
    for size in (8, 1003, 2**14):
        x, y = lab.numbers(rng, 2, size, wide=True, special=True)
        lab.check(lab.gpu.add(lab.stored(x), lab.stored(y)), x + y, 0.0)
        lab.check(lab.gpu.add(lab.stored(x)[1:], lab.stored(y)[1:]), (x + y)[1:], 0.0)


#: rows as they are, and as columns: their values apart, some rows in each of several images
def _columns(x):
    images = 3 if len(x) % 3 == 0 else 1
    return np.ascontiguousarray(x.reshape(images, -1, *x.shape[1:]).swapaxes(1, x.ndim))


def _rows(x):
    return x.swapaxes(1, -1).reshape(-1, *x.shape[1:-1])


LIE = [(lambda x: x, -1, lambda x: x), (_columns, 1, _rows)]


def check_softmax(lab, rng):
    for shape in SHAPES:
        for how in ({}, {"wide": True}, {"special": True}):
            x, g = lab.numbers(rng, *shape, **how), lab.numbers(rng, *shape, **how)
            if how and len(x) > 2:
                x[0], x[1, : x.shape[1] // 2], g[2] = -np.inf, -np.inf, np.nan
            for name in ("softmax", "log_softmax"):
                y, (dx,) = lab.apply(getattr(fused, name), [x], g, axis=-1)
                distance = np.nan_to_num(np.abs(x - x.max(-1, keepdims=True)), posinf=0)
                exact = lab.apply(getattr(fused, name), [x], axis=-1)
                error = exact * (SUM + EPS * (16 + np.minimum(distance, 120))) + TINY
                error_dx = SUM * np.abs(g.astype(float) * y).sum(-1, keepdims=True)
                error_dx = (error_dx + 4 * EPS * np.abs(g)) * y + TINY
                if name == "log_softmax":
                    error = SUM + EPS * (140 + 4 * np.abs(exact) + 2 * distance)
                    total = np.abs(g.astype(float)).sum(-1, keepdims=True)
                    error_dx = 2 * EPS * np.abs(g) + np.exp(y) * total * (SUM + 8 * EPS)
                for turned, axis, back in LIE[: 1 if shape[1] > 1024 else 2]:
                    given, slope, stored = (lab.stored(turned(array)) for array in (x, g, y))
                    result = getattr(lab.gpu, name)(given, axis)
                    lab.check(back(lab.back(result)), exact, error)
                    result = getattr(lab.gpu, name + "_backward")(slope, stored, axis)
                    lab.check(back(lab.back(result)), dx, error_dx)


def check_attention_weights(lab, rng):
    """Softmax of scores that were not rounded, with and without masks, and its gradient."""
    for heads, queries, keys in ((6, 5, 7), (1, 3, 1025), (2, 4, 1)):
        shape = (heads, queries, keys)
        scores, g = (4 * rng.standard_normal((2, *shape))).astype(np.float32)
        scores.reshape(-1)[::97] = 60000
        masks = [(None, None), (rng.random((1, *shape[1:])) < 0.7, None),
                 (rng.random(shape) < 0.7, None), (None, 0), (None, 2)]  # fmt: skip
        for allowed, first in masks:
            x = scores.astype(np.float64) * np.float32(0.125)
            if first is not None:
                x = np.where(np.tri(queries, keys, first, dtype=bool), x, -np.inf)
            if allowed is not None:
                x = np.where(allowed, x, -np.inf)
            with np.errstate(all="ignore"):
                distance = np.nan_to_num(np.abs(x - x.max(-1, keepdims=True)), posinf=0)
                exact = np.exp(x - x.max(-1, keepdims=True))
                exact /= exact.sum(-1, keepdims=True)
            error = exact * (SUM + EPS * (16 + 4 * np.minimum(distance, 120))) + TINY
            where = None if allowed is None else lab.there(allowed)
            like = lab.stored(np.zeros(1, np.float32))
            ours = lab.attention.weights(lab.there(scores), where, first, 0.125, like)
            lab.check(ours, exact, error)
        y = fs.round_to(np.nan_to_num(exact), lab.fmt).astype(np.float64)
        total = (g * y).sum(-1, keepdims=True)
        error = SUM * np.abs(g * y).sum(-1, keepdims=True) + 4 * EPS * np.abs(g)
        result = lab.attention.weights_backward(lab.there(g), lab.stored(y), 0.125)
        lab.check(result, (g - total) * y * 0.125, error * y + TINY)


def check_attention(lab, rng):
    """By blocks, which must come together again, and leave nothing out that is seen."""
    unit = 2.0 ** (1 - lab.fmt.precision)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lab.attention, "QUERIES", 3)
        patched.setattr(lab.attention, "SCORE_BYTES", 4 * 3 * 7 * 4)  # of four heads
        for queries, keys in ((7, 7), (8, 5), (2, 7)):
            q, k, v, g = (
                lab.numbers(rng, 2, 5, n, d)
                for n, d in ((queries, 8), (keys, 8), (keys, 4), (queries, 4))
            )
            own, shared = (2, 1, queries, keys), (queries, keys)
            masks = [None, "causal", *(rng.random(size) < 0.7 for size in (own, shared, (keys,)))]
            for allowed in masks:
                causal = isinstance(allowed, str)
                if not causal and allowed is not None:
                    allowed[..., 0] = True  # somebody is seen
                options = {"allowed": None if causal else allowed, "is_causal": causal}
                y, gradients = lab.apply(
                    fused.scaled_dot_product_attention, [q, k, v], g, scale=0.3,
                    multiply=np.matmul, **options,
                )  # fmt: skip
                where = options["allowed"]
                where = where if where is None else lab.there(where)
                sight = lab.attention.Sight(where, causal, 0.3)
                given = [lab.stored(x) for x in (q, k, v)]
                ours = [
                    lab.attention.forward(*given, sight),
                    *lab.attention.backward(lab.stored(g), *given, sight),
                ]
                for actual, expected in zip(ours, (y, *gradients), strict=True):
                    actual = np.asarray(lab.back(actual)).astype(np.float32)
                    np.testing.assert_allclose(actual, expected, rtol=0, atol=24 * unit)


def check_cross_entropy(lab, rng):
    for (rows, classes), smoothing in [(s, p) for s in SHAPES for p in (0.0, 0.1)]:
        for how in ({}, {"wide": True}, {"special": True}):
            x = lab.numbers(rng, rows, classes, **how)
            target = rng.integers(0, classes, rows)
            target[rows // 2] = -100
            factor = rng.standard_normal(rows).astype(np.float32) * (target != -100)
            options = {"target": target, "ignored": -100, "smoothing": smoothing}
            loss = lab.apply(losses.cross_entropy, [x], reduction="none", **options)
            _, (dx,) = lab.apply(losses.cross_entropy, [x], factor, reduction="none", **options)
            distance = np.nan_to_num(np.abs(x - x.max(-1, keepdims=True)), posinf=0)
            error = 2 * SUM + EPS * (64 + 4 * distance.max(-1))
            error += smoothing * SUM * distance.max(-1)
            p = np.exp(lab.apply(fused.log_softmax, [x], axis=-1))
            error_p = p * (SUM + EPS * (64 + np.minimum(2 * distance, 240))) + 4 * EPS
            error_p = (error_p + TINY) * np.abs(factor[:, None])
            for turned, _, back in LIE[: 1 if classes > 1024 else 2]:
                stored = lab.stored(turned(x))
                shape = (len(stored), *stored.shape[2:])
                where = lab.there(target.reshape(shape))
                ours, statistics = lab.gpu.cross_entropy(stored, where, smoothing=smoothing)
                assert ours.dtype == statistics.dtype == np.float32
                assert ours.shape == shape
                within(np.asarray(lab.back(ours)).reshape(-1), loss, error, fs.FP32)
                gradient = lab.gpu.cross_entropy_backward(
                    lab.there(factor.reshape(shape)), stored, where, statistics,
                    smoothing=smoothing,
                )  # fmt: skip
                lab.check(back(lab.back(gradient)), dx, error_p)
    x = lab.stored(lab.numbers(rng, 2, 3))  # no class: NaN, and nothing is read outside
    wrong = lab.there(np.array([-1, 3]))
    loss, statistics = lab.gpu.cross_entropy(x, wrong)
    assert np.isnan(np.asarray(lab.back(loss))).all()
    ones = lab.there(np.ones(2, np.float32))
    gradient = lab.gpu.cross_entropy_backward(ones, x, wrong, statistics)
    assert np.isnan(np.asarray(lab.back(gradient)).astype(np.float32)).all()


def check_column_sums(lab, rng):
    for shape in ((1, 1), (63, 33), (129, 64), (700, 5), (0, 3)):
        x = lab.numbers(rng, *shape, wide=True)
        error = SUM * np.abs(x.astype(float)).sum(0)
        ours = np.asarray(lab.back(lab.gpu.column_sums(lab.stored(x))))
        assert ours.dtype == np.float32
        within(ours, x.astype(float).sum(0), error, fs.FP32)


def check_norms(lab, rng):
    cases = [("layer", (5, 1), 1), ("layer", (130, 33), 1), ("layer", (3, 1025), 1),
             ("rms", (130, 33), 1), ("rms", (3, 5000), 1), ("group", (3, 6, 5, 7), 2),
             ("group", (70, 4, 3), 4), ("group", (3, 8), 2), ("group", (3, 6, 16), 3)]  # fmt: skip
    for kind, shape, groups in cases:
        for parameters in range(2 if kind == "rms" else 3):
            for how in ({}, {"special": True}, {"shift": 30})[: 2 + (parameters == 0)]:
                _check_norm(lab, rng, kind, shape, groups, parameters, **how)


def _check_norm(lab, rng, kind, shape, groups, parameters, shift=0, special=False):
    x = lab.numbers(rng, *shape, special=special and shape[0] > 2)
    x = fs.round_to(x + np.float32(shift), lab.fmt).astype(np.float32)
    g = lab.numbers(rng, *shape)
    width = shape[1] if kind == "group" else shape[-1]
    dtype = ("float32", lab.dtype)[rng.integers(2)]
    parts = [fs.round_to(rng.standard_normal(width), FORMATS[dtype]).astype(np.float32)
             for _ in range(parameters)]  # fmt: skip
    op = getattr(norms, f"{kind}_norm")
    options = {"groups": groups} if kind == "group" else {"axes": (-1,)}
    # The kernels normalise x once more; the primitives without parameters read what they stored.
    _, slopes = lab.apply(op, [x, *parts], g, recomputes=True, eps=1e-5, **options)
    y = lab.apply(op, [x, *parts], eps=1e-5, **options)
    function = getattr(lab.normalise, f"{kind}_norm")
    arguments = [lab.stored(x), *((groups,) if kind == "group" else ())]
    ours, normal = function(*arguments, *(lab.stored(p, dtype) for p in parts))

    rows = x.astype(float).reshape(len(normal.rstd), -1)
    mean = rows.mean(1, keepdims=True) if kind != "rms" else np.zeros((len(rows), 1))
    off = SUM * np.abs(rows).mean(1, keepdims=True) * (kind != "rms")  # the mean's error
    apart = np.abs(rows - mean)
    square = (apart**2).mean(1, keepdims=True)
    relative = (SUM * square + 2 * off * apart.mean(1, keepdims=True) + off**2) / (square + 1e-5)
    relative = relative + 8 * EPS
    scale = 1 / np.sqrt(square + 1e-5)
    error = scale * off + apart * scale * relative  # of the normalised values
    size = (len(x), width, -1) if kind == "group" else (-1, width)
    one = (1, width, 1) if kind == "group" else (1, width)
    w = np.abs(parts[0].astype(float) if parts else np.ones(width)).reshape(one)
    b = np.abs(parts[1].astype(float) if parameters == 2 else np.zeros(width)).reshape(one)
    n = (apart * scale).reshape(y.reshape(size).shape)
    errors = error.reshape(n.shape)
    forward = errors * w + 4 * EPS * (n * w + b)
    h = (np.abs(g.astype(float)).reshape(n.shape) * w).reshape(rows.shape)
    n, mean_of = apart * scale, lambda p: p.mean(1, keepdims=True)
    along = mean_of(h * n) * 2 * SUM + mean_of(h * error)
    back = n * along + mean_of(h * n) * error + 2 * SUM * mean_of(h)
    back += 6 * EPS * (h + n * mean_of(h * n))
    total = (h + n * mean_of(h * n) + mean_of(h)) * relative
    back = scale * (back + total)
    lab.check(ours, y, forward.reshape(y.shape) + TINY)
    ours = lab.normalise.norm_backward(lab.stored(g), normal)
    lab.check(ours, slopes[0], back.reshape(y.shape) + TINY)
    if not parts:
        return
    sums = np.asarray(lab.back(lab.normalise.norm_parameters_backward(lab.stored(g), normal)))
    assert sums.dtype == np.float32
    axes = (0, 2) if kind == "group" else (0,)
    sizes = np.abs(g.astype(float)).reshape(errors.shape)
    n = n.reshape(errors.shape)
    bounds = [(sizes * (errors + 2 * SUM * n)).sum(axes), 2 * SUM * sizes.sum(axes)]
    for ours, slope, bound in zip(sums, slopes[1:], bounds, strict=False):
        slope = slope.reshape(errors.shape).sum(axes) if slope.shape != (width,) else slope
        within(ours, slope, bound, fs.FP32)


def check_batch_norm(lab, rng):
    for shape in (
        (3, 5, 7),
        (70, 2, 3, 5),
        (4, 3, 300),
        (2, 1, 70, 33),
        (300, 3, 1),
        (66, 3, 4, 8),
    ):
        for parameters in (0, 1, 2):
            for fixed in (False, True):
                _check_batch_norm(lab, rng, shape, parameters, fixed)


def _check_batch_norm(lab, rng, shape, parameters, fixed):
    shift = 30 * (parameters == 0)
    x = fs.round_to(lab.numbers(rng, *shape) + np.float32(shift), lab.fmt).astype(np.float32)
    g = lab.numbers(rng, *shape)
    dtype = ("float32", lab.dtype)[rng.integers(2)]
    parts = [fs.round_to(rng.standard_normal(shape[1]), FORMATS[dtype]).astype(np.float32)
             for _ in range(parameters)]  # fmt: skip
    given = (rng.standard_normal((2, shape[1])).astype(np.float32) ** 2) if fixed else None
    told = []
    options = {"eps": 1e-5, "fixed": given, "tell": lambda *both: told.extend(both)}
    _, slopes = lab.apply(norms.batch_norm, [x, *parts], g, recomputes=True, **options)
    y = lab.apply(norms.batch_norm, [x, *parts], **options)
    known = None if given is None else tuple(lab.there(part) for part in given)
    ours, normal, variance = lab.normalise.batch_norm(
        lab.stored(x), *(lab.stored(p, dtype) for p in parts), fixed=known
    )

    def rows(array):  # one for each channel
        return np.moveaxis(array.astype(float), 1, 0).reshape(shape[1], -1)

    def back(array):
        return np.moveaxis(array.reshape(shape[1], shape[0], *shape[2:]), 0, 1)

    values = rows(x)
    mean = given[0][:, None] if fixed else values.mean(1, keepdims=True)
    square = given[1][:, None] if fixed else ((values - mean) ** 2).mean(1, keepdims=True)
    off = 0 if fixed else SUM * np.abs(values).mean(1, keepdims=True)  # the mean's error
    apart = np.abs(values - mean)
    loose = SUM * square + 2 * off * apart.mean(1, keepdims=True) + off**2
    relative = (0 if fixed else loose) / (square + 1e-5) + 8 * EPS
    scale = 1 / np.sqrt(square + 1e-5)
    error = scale * off + apart * scale * relative  # of the normalised values
    w = np.abs(parts[0].astype(float)[:, None]) if parts else 1.0
    b = np.abs(parts[1].astype(float)[:, None]) if parameters == 2 else 0.0
    n = apart * scale
    lab.check(ours, y, back(error * w + 4 * EPS * (n * w + b)) + TINY)
    if not fixed:
        within(np.asarray(lab.back(normal.mean)), told[0], off[:, 0], fs.FP32)
        within(np.asarray(lab.back(variance)), told[1], loose[:, 0] + TINY, fs.FP32)

    sums = lab.normalise.batch_norm_parameters_backward(lab.stored(g), normal)
    found = np.asarray(lab.back(sums))
    assert found.dtype == np.float32
    size = np.abs(rows(g))
    bounds = [(size * (error + 2 * SUM * n)).sum(1), 2 * SUM * size.sum(1)]
    for ours, slope, bound in zip(found, slopes[1:], bounds, strict=False):
        within(ours, slope, bound, fs.FP32)

    h = size * w

    def of(p):
        return p.mean(1, keepdims=True)

    along = of(h * n) * 2 * SUM + of(h * error)
    slack = 0 if fixed else n * along + of(h * n) * error + 2 * SUM * of(h)
    slack += 6 * EPS * (h + (0 if fixed else n * of(h * n)))
    slack += (h + (0 if fixed else n * of(h * n) + of(h))) * relative
    result = lab.normalise.batch_norm_backward(lab.stored(g), normal, sums)
    lab.check(result, slopes[0], back(scale * slack) + TINY)


def check_windows(lab, rng):
    for shape, kernel, stride, padding, dilation, groups in (
        ((2, 4, 7, 6), (3, 2), (2, 1), (1, 2), (1, 2), 2),
        ((1, 2, 5, 5), (1, 1), (1, 1), (0, 0), (1, 1), 1),
        ((1, 1, 9, 8), (2, 3), (3, 2), (0, 1), (3, 1), 1),
        ((1, 2, 20, 19), (3, 3), (1, 1), (1, 1), (1, 1), 1),
        ((2, 1, 4, 4), (2, 2), (3, 3), (0, 0), (1, 1), 1),
        ((2, 3, 8, 12), (3, 3), (1, 1), (1, 1), (1, 1), 1),  # whole packs, across rows
    ):
        geometry = conv.Geometry(stride, padding, dilation, groups)
        output = geometry.output_size(shape[2:], kernel)
        x = lab.numbers(rng, *shape, wide=True, special=True)
        blocks = conv._columns(x, kernel, output, geometry, whole=True)
        expected = np.concatenate([np.array(part) for _, part in blocks])
        where = (kernel, stride, padding, dilation)
        ours = lab.gpu.im2col(lab.stored(x), *where, groups)
        lab.check(ours, expected)
        # Back, as ``conv.of_inputs`` adds up the columns that it has computed.
        columns = lab.numbers(rng, *expected.shape, special=True)
        padded = np.zeros(
            (*shape[:2], *(n + 2 * p for n, p in zip(shape[2:], padding, strict=True))), np.float32
        )
        spread = columns.reshape(*shape[:2], *kernel, *output)
        for i, j, window in geometry.taps(kernel, output):
            padded[window] += spread[:, :, i, j]
        inside = padded[
            :, :, padding[0] : padding[0] + shape[2], padding[1] : padding[1] + shape[3]
        ]
        bias = rng.standard_normal(shape[1]).astype(DTYPES[lab.dtype]).astype(np.float32)
        for given in (None, bias):
            out = lab.stored(x)
            also = () if given is None else (lab.stored(given),)
            lab.gpu.col2im(lab.there(columns), out, *where, *also)
            lab.check(out, inside if given is None else inside + given[:, None, None])


def check_max_pool(lab, rng):
    for shape, kernel, stride, padding, dilation in (
        ((2, 3, 6, 8), (2, 2), (2, 2), (0, 0), (1, 1)),
        ((2, 2, 9, 10), (3, 2), (2, 1), (1, 1), (1, 2)),
        ((1, 1, 7, 7), (5, 5), (1, 1), (2, 2), (1, 1)),
        ((1, 2, 5, 5), (2, 2), (3, 3), (0, 0), (1, 1)),
    ):
        geometry = conv.Geometry(stride, padding, dilation)
        x = rng.integers(-3, 4, shape) + np.float32(0.5)  # many of a window are the same
        x[rng.random(shape) < 0.1] = -np.inf
        x[rng.random(shape) < 0.03] = np.nan
        output = geometry.output_size(shape[2:], kernel)
        g = lab.numbers(rng, *shape[:2], *output)
        y, (dx,) = lab.apply(pool.max_pool2d, [x], g, kernel=kernel, geometry=geometry)
        where = (kernel, stride, padding, dilation)
        ours = lab.gpu.max_pool(lab.stored(x), *where)
        lab.check(ours, y.astype(np.float32))
        slope = lab.gpu.max_pool_backward(lab.stored(g), lab.stored(x), ours, *where)
        lab.check(slope, dx, 25 * EPS * np.abs(g).max())


def check_optimizers(lab, rng):
    """Three steps, the second with a gradient that is not finite: NumPy's bits."""
    narrow = lab.dtype if lab.dtype != "float32" else "float16"
    for kind, make in {
        "adam": lambda p: Adam(p, 0.01), "decayed": lambda p: Adam(p, 0.01, weight_decay=0.1),
        "adamw": lambda p: AdamW(p, 0.01, weight_decay=0.1), "sgd": lambda p: SGD(p, 0.1),
        "momentum": lambda p: SGD(p, 0.1, 0.9, weight_decay=0.1),
        "nesterov": lambda p: SGD(p, 0.1, 0.9, nesterov=True),
    }.items():  # fmt: skip
        shapes = [(3, 5), (2**14 + 3,), (2**14,), (1,)]
        weights = [rng.standard_normal(s).astype(np.float32) for s in shapes]
        params = [fs.Tensor(w, requires_grad=True) for w in weights]
        rule = make(params)
        ours, first, second = ([lab.there(p.copy()) for p in parts] for parts in
                               (weights, *[[np.zeros_like(w) for w in weights]] * 2))  # fmt: skip
        copies = [None if i == 1 else lab.stored(w, narrow) for i, w in enumerate(weights)]
        step, found, corrections, inverse = (
            lab.there(np.zeros(n, t)) for n, t in ((1, "i4"), (1, "i4"), (2, "f4"), (1, "f4"))
        )
        inverse[...] = 2.0**-7 / 3
        for turn in range(3):
            kinds = [narrow if i % 2 else "float32" for i in range(len(shapes))]
            gradients = [rng.standard_normal(s) * 100 for s in shapes]
            gradients[0][0, 0] = -0.0  # which a sum with zero would not keep
            if turn == 1:
                gradients[1][-1] = (np.inf, np.nan)[rng.integers(2)]
            gradients = [lab.stored(g, k) for g, k in zip(gradients, kinds, strict=True)]
            table = lab.updates.table(gradients, ours, first, second, copies)
            found[...] = 0
            lab.updates.find_nonfinite(table, found)
            assert int(found[0]) == (turn == 1)
            lab.updates.count_step(
                step, corrections, found, rule.lr, getattr(rule, "betas", (0, 0))
            )
            how = {"lr": rule.lr, "weight_decay": rule.weight_decay}
            if "adam" in kind or kind == "decayed":
                how |= {"betas": rule.betas, "eps": rule.eps, "decoupled": kind == "adamw"}
                lab.updates.adam(table, corrections, inverse, found, **how)
            else:
                how |= {"momentum": rule.momentum, "nesterov": rule.nesterov}
                lab.updates.sgd(table, step, inverse, found, **how)
            if turn != 1:
                rule.grad_factor = float(lab.back(inverse)[0])
                for p, g in zip(params, gradients, strict=True):
                    p.gradient = np.asarray(lab.back(g)).astype(np.float32)
                rule.step()
            for i, (p, w) in enumerate(zip(params, ours, strict=True)):
                assert lab.back(w).tobytes() == p.data.tobytes(), (kind, turn, i)
                for name, moment in (("m", first), ("momentum", first), ("v", second)):
                    if name in rule.state[i]:
                        same = lab.back(moment[i]).tobytes() == rule.state[i][name].tobytes()
                        assert same, (kind, turn, i, name)
                if copies[i] is not None:
                    within(np.asarray(lab.back(copies[i])).astype(np.float32), p.data, 0.0,
                           FORMATS[narrow])  # fmt: skip
        assert int(step[0]) == 2


def check_loss_scale(lab, rng):
    for rule in (
        LossScale(growth_interval=3, hysteresis=2),
        LossScale(scale=3e38, growth_interval=1),
        LossScale(scale=5.0, growth_factor=1.7, backoff_factor=0.3, growth_interval=2,
                  min_scale=1.1, max_scale=9.3),
        LossScale(scale=1e-44),
        LossScale(scale=7.0, max_scale=4.0),
    ):  # fmt: skip
        scale, inverse = (lab.there(np.full(1, rule.scale, np.float32)) for _ in range(2))
        streak, borne, found = (lab.there(np.zeros(1, np.int32)) for _ in range(3))
        how = {name: getattr(rule, name) for name in (
            "growth_factor", "backoff_factor", "growth_interval", "hysteresis", "min_scale",
            "max_scale")}  # fmt: skip
        state = replace(rule, scale=float(np.float32(rule.scale)))
        for finite in rng.random(40) < 0.6:
            found[...] = not finite
            lab.updates.move_scale(scale, inverse, streak, borne, found, **how)
            state = next_scale(state, bool(finite))
            ours = [float(lab.back(p)[0]) for p in (scale, streak, borne, inverse)]
            one_over = float(np.float32(1 / np.float64(state.scale)))
            assert ours == [state.scale, state.streak, state.borne, one_over]


CHECKS = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_")
}


def run(name, lab):
    """One of ``CHECKS``; its numbers are infinite and NaN here and there."""
    with np.errstate(all="ignore"):
        CHECKS[name](lab, np.random.default_rng(3))
