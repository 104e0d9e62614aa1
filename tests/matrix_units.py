"""Matrix units in Python integers, from the published description: slow, and easy to check.

Sources: Xie et al., arXiv 2511.10909 (2025); Fasi et al., PeerJ CS 7:e330 (2021); Khattak and
Mikaitis, arXiv 2512.07004 (2025). Nothing here comes from the package.
"""

from fractions import Fraction

import numpy as np

#: fraction bits, exponent bits
LAYOUT = {
    "fp16": (10, 5), "bf16": (7, 8), "tf32": (10, 8), "fp32": (23, 8),
    "e5m2": (2, 5), "e4m3": (3, 4),
}  # fmt: skip
NAN, INFINITE = 0x7FFFFFFF, 0x7F800000

#: products a step, and bits kept, by format; fp8 with what the result keeps
NVIDIA = {
    "V100": {"fp16": (4, 23)},
    "T4": {"fp16": (8, 24)},
    "A100": {"fp16": (8, 24), "bf16": (8, 24), "tf32": (4, 24)},
    "L40S": {"fp16": (8, 24), "bf16": (8, 24), "tf32": (4, 24),
             "e4m3": (16, 13), "e5m2": (16, 13)},
    "H100": {"fp16": (16, 25), "bf16": (16, 25), "tf32": (8, 25),
             "e4m3": (32, 13), "e5m2": (32, 13)},
    "B200": {"fp16": (16, 25), "bf16": (16, 25), "tf32": (8, 25),
             "e4m3": (32, 25), "e5m2": (32, 25)},
}  # fmt: skip


def kept_bits(arch, fmt):
    return 13 if fmt in ("e4m3", "e5m2") and arch in ("L40S", "H100") else 23


def number(code, fmt):
    """(sign, m, e, kind) of a bit pattern: sign m 2^(e - fraction bits), subnormals with emin."""
    p, w = LAYOUT[fmt]
    bias = 2 ** (w - 1) - 1
    sign = -1 if code >> (p + w) & 1 else 1
    field, fraction = code >> p & (2**w - 1), code & (2**p - 1)
    if fmt == "e4m3":
        if field == 15 and fraction == 7:
            return sign, 0, 0, "nan"
    elif field == 2**w - 1:
        return sign, 0, 0, "nan" if fraction else "infinite"
    if field == 0:
        return sign, fraction, 1 - bias, "finite"
    return sign, fraction + 2**p, field - bias, "finite"


def toward_zero(numerator, shift):
    """numerator 2^shift, cut off; the numerator is not negative."""
    return numerator << shift if shift >= 0 else numerator >> -shift


def rounded_word(total, unit, kept, half):
    """The float32 bits of total 2^unit as a unit stores it."""
    if total == 0:
        return 0
    sign, size = (1, -total) if total < 0 else (0, total)
    value = Fraction(size) * Fraction(2) ** unit
    e = 0
    while Fraction(2) ** (e + 1) <= value:
        e += 1
    while Fraction(2) ** e > value:
        e -= 1
    bits, emin, emax = (10, -14, 15) if half else (kept, -126, 127)
    spacing = Fraction(2) ** (max(e, emin) - bits)
    steps = value / spacing
    steps = round(steps) if half else steps.numerator // steps.denominator
    value = steps * spacing
    if value >= Fraction(2) ** (emax + 1):
        return sign << 31 | INFINITE
    if value == 0:
        return 0
    return int(np.float32(float(value)).view(np.uint32)) | sign << 31


def step(pairs, c_word, fmts, bits, kept, half):
    """One step: pairs of codes, and the float32 bits of c; the float32 bits of the result."""
    c = number(c_word, "fp32")
    if half and c[3] == "finite" and c[1]:  # an fp16 number in float32 bits
        sign, m, e, _ = c
        if e < -14:
            assert m % 2 ** (-14 - e) == 0
            c = sign, m >> (-14 - e), -14, "finite"
    specials, terms = [], []
    if c[3] == "nan":
        specials.append("nan")
    elif c[3] == "infinite":
        specials.append(c[0])
    elif c[1]:
        terms.append((c[0], c[1], c[2], 23))
    for a_code, b_code in pairs:
        a, b = number(a_code, fmts[0]), number(b_code, fmts[1])
        kinds = {a[3], b[3]}
        if "nan" in kinds:
            specials.append("nan")
        elif "infinite" in kinds:
            zero = any(x[3] == "finite" and x[1] == 0 for x in (a, b))
            specials.append("nan" if zero else a[0] * b[0])
        elif a[1] and b[1]:
            width = LAYOUT[fmts[0]][0] + LAYOUT[fmts[1]][0]
            terms.append((a[0] * b[0], a[1] * b[1], a[2] + b[2], width))
    if specials:
        if "nan" in specials or len(set(specials)) > 1:
            return NAN
        return INFINITE if specials[0] > 0 else INFINITE | 1 << 31
    if not terms:
        return 0
    largest = max(e for _, _, e, _ in terms)
    total = sum(sign * toward_zero(m, bits - width - (largest - e)) for sign, m, e, width in terms)
    return rounded_word(total, largest - bits, kept, half)


def nvidia(a_codes, b_codes, c_word, arch, fmts, half=False):
    """A dot product of two lists of codes, in steps; float32 bits."""
    length, bits = NVIDIA[arch][fmts[0]]
    pairs = list(zip(a_codes, b_codes, strict=True))
    for start in range(0, len(pairs), length):
        part = pairs[start : start + length]
        c_word = step(part, c_word, fmts, bits, kept_bits(arch, fmts[0]), half)
    return c_word


# --- AMD -----------------------------------------------------------------------------------------


def flushed(x):
    return np.copysign(np.float32(0), x) if 0 < abs(x) < np.float32(2.0**-126) else x


def cdna2(a, b, c):
    """Lists of float32 values: groups of four, fp32 arithmetic, subnormal numbers become zero."""
    a = [0.0 if abs(x) < 2.0**-14 else x for x in a]
    b = [0.0 if abs(x) < 2.0**-14 else x for x in b]
    total = flushed(np.float32(c))
    with np.errstate(all="ignore"):
        for i in range(0, len(a), 4):
            p = [
                flushed(np.float32(x) * np.float32(y))
                for x, y in zip(a[i : i + 4], b[i : i + 4], strict=True)
            ]
            p += [np.float32(0)] * (4 - len(p))
            group = flushed(flushed(p[0] + p[1]) + flushed(p[2] + p[3]))
            total = flushed(total + group)
    return total


def cdna3(a_codes, b_codes, c_word, fmt, length):
    """Finite numbers only: products cut off at 24 bits, then that sum and c cut downwards."""
    for start in range(0, len(a_codes), length):
        terms = []
        for x, y in zip(
            a_codes[start : start + length], b_codes[start : start + length], strict=True
        ):
            a, b = number(x, fmt), number(y, fmt)
            if a[1] and b[1]:
                terms.append((a[0] * b[0], a[1] * b[1], a[2] + b[2]))
        c = number(c_word, "fp32")
        width = 2 * LAYOUT[fmt][0]
        largest = max((e for *_, e in terms), default=None)
        total = Fraction(0)
        if terms:
            total = sum(s * toward_zero(m, 24 - width - (largest - e)) for s, m, e in terms)
            total = total * Fraction(2) ** (largest - 24)
        exponents = ([largest] if terms else []) + ([c[2]] if c[1] else [])
        if not exponents:
            c_word = 0
            continue
        top = max(exponents)
        grid, c_grid = Fraction(2) ** (top - 31), Fraction(2) ** (top - 24)
        c_value = c[0] * c[1] * Fraction(2) ** (c[2] - 23)
        value = total // grid * grid + c_value // c_grid * c_grid
        c_word = int(np.float32(float(value)).view(np.uint32)) if value else 0
    return c_word


# --- many at once --------------------------------------------------------------------------------


def nvidia_many(a_codes, b_codes, c_words, arch, fmts):
    """Rows of finite codes (t, k): the same with NumPy's int64; fp32 sums without overflow."""
    length, bits = NVIDIA[arch][fmts[0]]
    kept = kept_bits(arch, fmts[0])

    def apart(codes, fmt):
        p, w = LAYOUT[fmt]
        codes = codes.astype(np.int64)
        field, fraction = codes >> p & (2**w - 1), codes & (2**p - 1)
        sign = 1 - 2 * (codes >> (p + w) & 1)
        m = np.where(field == 0, fraction, fraction + 2**p)
        return sign, m, np.where(m == 0, -(10**6), np.maximum(field, 1) - (2 ** (w - 1) - 1))

    width = LAYOUT[fmts[0]][0] + LAYOUT[fmts[1]][0]
    for start in range(0, a_codes.shape[1], length):
        part = slice(start, start + length)
        sa, ma, ea = apart(a_codes[:, part], fmts[0])
        sb, mb, eb = apart(b_codes[:, part], fmts[1])
        sc, mc, ec = apart(c_words, "fp32")
        e = ea + eb
        top = np.maximum(e.max(axis=1), ec)
        top = np.where(top < -(10**5), 0, top)

        def cut(m, shift):
            left = m << np.clip(shift, 0, 40)
            return np.where(shift >= 0, left, m >> np.clip(-shift, 0, 62))

        terms = sa * sb * cut(ma * mb, bits - width - (top[:, None] - e))
        total = terms.sum(axis=1) + sc * cut(mc, bits - 23 - (top - ec))
        size = np.abs(total)
        n = np.frexp(size.astype(np.float64))[1] - 1  # exact below 2^53
        exponent = np.maximum(n + top - bits, -126)
        drop = exponent - kept - (top - bits)
        q = np.where(drop >= 0, size >> np.clip(drop, 0, 62), size << np.clip(-drop, 0, 40))
        with np.errstate(all="ignore"):
            value = np.ldexp(q.astype(np.float64), exponent - kept) * np.sign(total)
        c_words = (value + 0.0).astype(np.float32).view(np.uint32)
    return c_words
