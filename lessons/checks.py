"""Checks of the exercises: each prints what is wrong, or that all is well, and returns which."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import fp16sim as fs

NUMBER, PAIR = "one number", "two numbers, as in `return a, b`"


def _is_a(kind: str | tuple[str, ...], result: object) -> bool:
    if kind == NUMBER:
        return isinstance(result, int | float | np.number)
    if kind == PAIR:
        return isinstance(result, tuple) and len(result) == 2
    return isinstance(result, str) and result in kind


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float | np.floating) else f"{value}"


def _judge(
    name: str,
    function: Callable[..., object],
    cases: Sequence[tuple[tuple[Any, ...], Any, str]],
    kind: str | tuple[str, ...],
    praise: str,
) -> bool:
    """Try a function on cases (its arguments, what is right, a hint) until it is wrong.

    ``kind`` is what it should return: NUMBER, PAIR or one of the given words.
    """
    for arguments, expected, hint in cases:
        call = f"{name}({', '.join(map(_shown, arguments))})"
        try:
            result = function(*arguments)
        except Exception as error:  # whatever a reader's code does, the hint may help
            print(f"{call} raises {type(error).__name__}: {error}")
            print(hint)
            return False
        if result is ... or isinstance(result, tuple) and ... in result:
            print(f"Not written yet: {name} returns `...`.")
            return False
        if not _is_a(kind, result):
            allowed = kind if isinstance(kind, str) else f"one of {', '.join(kind)}"
            print(f"{name} returns {result!r}, but it should be {allowed}.")
            return False
        right = (
            np.isclose(result, expected, rtol=1e-6, atol=0)
            if kind == NUMBER
            else result == expected
        )
        if not right:
            print(f"Not yet. {call} gives {_shown(result)}, not {_shown(expected)}.")
            print(hint)
            return False
    print(praise)
    return True


def check_flushed_share(function: Callable[[np.ndarray, float], float]) -> bool:
    """Lesson 01: the share of values that are not zero, and would be zero after rounding."""

    def share(values: list[float], scale: float) -> float:
        return function(np.array(values, dtype=np.float32), scale)

    first = share([1.0, 2.0], 1.0)
    if first is ...:
        print("Not written yet: flushed_share returns `...`.")
        return False
    if first is None:
        print("flushed_share returns None. Does it end with `return`?")
        return False
    if not isinstance(first, int | float | np.number) or isinstance(first, complex):
        print(f"flushed_share returns {first!r}, but a share is one number. Is a .mean() missing?")
        return False
    tiny = 2.0**-30
    cases = [
        (
            ([tiny, 1.0, 1.0, 1.0], 1.0),
            0.25,
            "Of [2^-30, 1, 1, 1] one value in four is flushed. Is your result a share of all?",
        ),
        (
            ([0.0, 0.0, tiny, 1.0], 1.0),
            0.25,
            "Zeros that were there before rounding are not flushed: nothing was lost. "
            "Count the values that are zero after rounding and were not before.",
        ),
        (
            ([2.0**-20, 1.0], 1.0),
            0.0,
            "2^-20 is subnormal in fp16, not zero: it is below 2^-14, the smallest *normal* "
            "number, but above 2^-24, the smallest of all.",
        ),
        (
            ([tiny, tiny * 4], 2.0**10),
            0.0,
            "With scale 1024, 2^-30 becomes 2^-20, which fp16 holds. Is the gradient scaled "
            "before it is rounded?",
        ),
        (
            ([1.5 * 2.0**-25, 1.0], 1.0),
            0.0,
            "1.5 x 2^-25 is below 2^-24, but nearer to it than to 0, so it is rounded up. Let "
            "fs.round_to decide instead of comparing with a limit.",
        ),
        (
            ([2.0**-25, -(2.0**-26), 1.0, -1.0], 1.0),
            0.5,
            "2^-25 is halfway between 0 and 2^-24 and goes to the even one, 0; negative values are "
            "flushed like positive ones.",
        ),
        (
            ([70000.0, tiny], 1.0),
            0.5,
            "70000 overflows to infinity in fp16: not zero, and no reason to miscount.",
        ),
    ]
    for arguments, expected, hint in cases:
        result = share(*arguments)
        if not np.isclose(result, expected):
            values, scale = arguments
            print(f"Not yet. flushed_share({values}, {scale:g}) gives {result}, not {expected:g}.")
            print(hint)
            return False
    print("Right: flushed_share tells what rounding loses from what was never there.")
    return True


def check_spacing(function: Callable[[float, fs.Format], float]) -> bool:
    """Lesson 02: the distance from a number of a format to the next larger one."""
    cases = [
        ((1.0, fs.FP16), 2.0**-10, "At 1 it is what is called eps, 2^-10 in fp16."),
        (
            (1.5, fs.FP16),
            2.0**-10,
            "From 1 to 2 all numbers are equally far apart: the spacing follows the power of two "
            "below the number, not the number.",
        ),
        ((3.0, fs.FP16), 2.0**-9, "It doubles with every power of two: 3 lies between 2 and 4."),
        ((1.0, fs.BF16), 2.0**-7, "bf16 has 8 significant bits, fp16 has 11. Is 2^-10 built in?"),
        (
            (2.0**-20, fs.FP16),
            2.0**-24,
            "2^-20 is subnormal in fp16. Below 2^-14 the spacing does not get smaller any more: "
            "the exponent that counts is never below fmt.emin.",
        ),
        ((448.0 / 2, fs.E4M3), 16.0, "224 lies between 128 and 256, and E4M3 has 4 bits: 128 / 8."),
    ]
    praise = "Right: a power of two for every binade, and the same one for all subnormal numbers."
    return _judge("spacing", function, cases, NUMBER, praise)


def check_round_even(function: Callable[[float, float], float]) -> bool:
    """Lesson 03: rounding to the nearest multiple of a spacing, ties to the even one."""
    cases = [
        ((0.3, 1.0), 0.0, "0.3 is nearer to 0."),
        ((0.7, 1.0), 1.0, "0.7 is nearer to 1. Cutting off is not rounding to nearest."),
        ((5.2, 2.0), 6.0, "The numbers are multiples of the spacing: 4, 6, 8 here."),
        ((0.5, 1.0), 0.0, "0.5 is a tie of 0 and 1, and the even one is 0."),
        ((1.5, 1.0), 2.0, "1.5 is a tie of 1 and 2, and the even one is 2: ties go up as often."),
        ((-0.7, 1.0), -1.0, "-0.7 is nearer to -1: mind that floor goes down, not toward zero."),
        ((-2.5, 1.0), -2.0, "-2.5 is a tie of -3 and -2, and the even one is -2."),
        ((3.0, 2.0), 4.0, "3 is a tie of 2 and 4. Even is the multiple: 2 = 1 x 2 is odd."),
    ]
    praise = "Right: the nearest, and of two the even one, on both sides of zero."
    return _judge("round_even", function, cases, NUMBER, praise)


def check_fate(function: Callable[[float], str]) -> bool:
    """Lesson 04: what becomes of a number in fp16, in a word."""
    cases = [
        ((1.0,), "normal", "1 is in the middle of it all."),
        ((0.0,), "zero", "Nothing is lost of a zero."),
        ((2.0**-20,), "subnormal", "2^-20 is below 2^-14 and above 2^-24: there, with fewer bits."),
        ((1e-9,), "flushed", "1e-9 is below half of the smallest number."),
        ((70000.0,), "overflow", "65504 is the largest number."),
        ((-70000.0,), "overflow", "Negative numbers end at -65504. Is the sign in the way?"),
        (
            (65510.0,),
            "normal",
            "65510 is nearer to 65504 than to what would come next: it is there.",
        ),
        ((1.5 * 2.0**-25,), "subnormal", "1.5 x 2^-25 is below 2^-24, and is rounded up to it."),
        (
            (2.0**-14 * (1 - 2.0**-12),),
            "normal",
            "This one is rounded up to 2^-14, which is normal.",
        ),
        ((float("nan"),), "nan", "A NaN stays NaN, and is less than, equal to, above nothing."),
    ]
    praise = "Right: what counts is what rounding makes of a number, not the number itself."
    return _judge(
        "fate",
        function,
        cases,
        ("zero", "flushed", "subnormal", "normal", "overflow", "nan"),
        praise,
    )


def check_stalls_at(function: Callable[[float, str], float]) -> bool:
    """Lesson 05: where a sum stalls to which the same value is added again and again."""
    cases = [
        ((1.0, "fp16"), 2048.0, "2048 + 1 is halfway to 2050 and goes back: 2048 it is."),
        ((1.0, "bf16"), 256.0, "bf16 has 8 significant bits, fp16 has 11. Is 2048 built in?"),
        (
            (0.25, "fp16"),
            512.0,
            "A quarter of the value, a quarter of the sum: fp16's spacing follows its exponent.",
        ),
        (
            (3.0, "fp16"),
            8192.0,
            "From 4096 on the numbers are 4 apart, and 3 is more than half of that: the sum still "
            "grows, by 4. It stalls where the value is at most half the spacing.",
        ),
        (
            (1.25, "e5m2"),
            16.0,
            "e5m2 has 3 significant bits: from 8 on its numbers are 2 apart, and 1.25 is more than "
            "half of that. Only from 16 on nothing moves.",
        ),
    ]
    praise = "Right: a sum stalls where what is added is at most half the spacing of its numbers."
    return _judge("stalls_at", function, cases, NUMBER, praise)


def check_master_step(function: Callable[[float, float], tuple[float, float]]) -> bool:
    """Lesson 06: a step of an fp32 master weight, and the fp16 weight that is made of it."""
    first = function(1.0, 0.5)
    if not isinstance(first, tuple) or len(first) != 2:
        print(f"master_step returns {first!r}; it should be two numbers: master, weight.")
        return False
    if ... in first:
        print("Not written yet: master_step returns `...`.")
        return False
    if any(not isinstance(number, int | float | np.number) for number in first):
        print(f"master_step returns {first!r}; it should be two numbers: master, weight.")
        return False
    if first == (1.5, 1.5):
        print("Not yet. The update is to be subtracted: 1 and 0.5 give 0.5.")
        return False
    if first != (0.5, 0.5):
        print(f"Not yet. master_step(1, 0.5) gives {first}, not (0.5, 0.5).")
        return False
    master, weight = function(1.0, 2.0**-13)
    if master == 1:
        print(
            "Not yet. An update of 2^-13 leaves the master at 1: it is swamped after all. Does the"
        )
        print("master stay in fp32, or was it rounded to fp16, or added to there?")
        return False
    if weight != 1:
        print(f"Not yet. The weight is {weight!r}, which is no number of fp16: round the master.")
        return False
    if function(1.0, 2.0**-40)[0] != 1:
        print("Not yet. The master is in fp32, which has no 1 - 2^-40: round it, too.")
        return False
    print("Right: updates add up in the master, and the weight is made of it anew every time.")
    return True


def check_flushed(function: Callable[[dict[int, int], int], int]) -> bool:
    """Lesson 07: how many values of known exponents become zero in fp16 under a loss scale."""
    cases = [
        (({0: 5}, 0), 0, "Numbers from 1 to 2 are safe."),
        (({-40: 3, 0: 2}, 0), 3, "2^-40 is far below fp16: how many values are there, not bins?"),
        (({-20: 7}, 0), 0, "2^-20 is subnormal, below 2^-14, but no zero."),
        (({-25: 4}, 0), 0, "Between 2^-25 and 2^-24 the smallest number, 2^-24, is nearer than 0."),
        (({-26: 4}, 0), 4, "From 2^-26 to 2^-25 all values are nearer to 0."),
        (({-30: 6}, 8), 0, "Times 2^8 they are at 2^-22: scaling makes them larger."),
        (({-20: 6}, -8), 6, "A scale of 2^-8 makes them smaller: 2^-28."),
    ]
    praise = "Right: the edge is at 2^-25, and a scale moves the values, not the edge."
    return _judge("flushed", function, cases, NUMBER, praise)


def check_window(function: Callable[..., tuple[float, float]]) -> bool:
    """Lesson 08: the smallest and the largest exponent of a loss scale that will do."""
    quarter = {-22: 4, -20: 3}
    cases = [
        (
            ({-30: 10}, 1.5, 0.0, 0),
            (5, 15),
            "First the smallest k: values of exponent -30 are safe from exponent -25 on, which is "
            "5 more. Then the largest: 1.5 x 2^15 is 49152, and 1.5 x 2^16 is above 65504.",
        ),
        (({-20: 10}, 1.5, 0.0, 0), (-5, 15), "A scale may be below 1: -20 - 5 is still -25."),
        (
            (quarter, 1.5, 0.25, 0),
            (-5, 15),
            "4 x 2^-22 is 2^-20, a quarter of the sum of sizes: 'at most' 0.25 of that, not of the "
            "number of values.",
        ),
        (
            (quarter, 1.5, 0.2, 0),
            (-3, 15),
            "A quarter of the sum is more than 0.2: it has to stay.",
        ),
        (({-20: 10}, 2.5, 0.0, 0), (-5, 14), "2.5 x 2^15 is 81920: round down, not to nearest."),
        (({-20: 10}, 0.1875, 0.0, 0), (-5, 18), "Small gradients leave room: 2^18 x 0.1875 fits."),
        (
            ({-20: 10}, 1.9999, 0.0, 0),
            (-5, 14),
            "1.9999 x 2^15 is 65533: fp16 ends at 65504, not at 2^16.",
        ),
        (({-20: 10}, 1.5, 0.0, 2), (-5, 13), "The headroom lowers the ceiling by so many binades."),
    ]
    praise = "Right: what may be lost sets the floor, what must fit the ceiling; between is room."
    return _judge("window", function, cases, PAIR, praise)


def check_next_scale(function: Callable[[float, int, bool, int], tuple[float, int]]) -> bool:
    """Lesson 09: the rule of dynamic loss scaling."""
    cases = [
        ((1024.0, 0, True, 5), (1024.0, 1), "A good step counts, and changes nothing yet."),
        (
            (1024.0, 2, False, 5),
            (512.0, 0),
            "An overflow halves the scale, and begins a new count.",
        ),
        ((1024.0, 4, True, 5), (2048.0, 0), "The fifth good step doubles it, and counts anew."),
        ((1024.0, 4, False, 5), (512.0, 0), "A bad step is no good one: nothing is doubled."),
        ((1.0, 0, False, 5), (0.5, 0), "There is no floor in this rule: 1 becomes 0.5."),
        ((8.0, 0, True, 1), (16.0, 0), "With an interval of 1 every good step doubles."),
    ]
    praise = "Right: up slowly, down at once, and a new count after either."
    return _judge("next_step", function, cases, PAIR, praise)


def check_class_of(function: Callable[[str], str]) -> bool:
    """Lesson 10: on which list an operation is."""
    cases = [
        (("matmul",), "low", "Products are what fp16 is fast at, and they add in fp32 inside."),
        (("relu",), "any", "A ReLU loses nothing in either: it runs in what it is given."),
        (("exp",), "wide", "e^12 is more than fp16 has."),
        (("linear",), "low", "A linear layer is a product."),
        (("softmax",), "wide", "It exponentiates, and sums."),
        (("layer_norm",), "wide", "It squares and sums."),
        (("add",), "any", "Sums of two numbers are harmless: of two formats, the wider one."),
        (("sum",), "wide", "Sums of many numbers end at 65504."),
        (("cross_entropy",), "wide", "Losses take logarithms and sums."),
        (("conv2d",), "low", "A convolution is a product as well."),
        (("mean",), "any", "The surprise of this lesson: PyTorch leaves the mean off its lists."),
    ]
    praise = "Right: fast and safe, slow but safe, and no matter."
    return _judge("class_of", function, cases, ("low", "wide", "any"), praise)


def check_bytes_of(function: Callable[[int, int, str], int]) -> bool:
    """Lesson 11: the bytes of a training step with Adam."""
    cases = [
        ((0, 1000, "fp32"), 4000, "An fp32 value takes 4 bytes."),
        ((0, 1000, "amp"), 2000, "Activations of products are fp16 under amp: 2 bytes."),
        ((10, 0, "fp32"), 160, "Weight 4, gradient 4, and Adam's two moments 4 each: 16."),
        ((10, 0, "O3"), 120, "Weight 2, gradient 2; the moments stay in fp32, 8: 12."),
        ((10, 0, "O2"), 160, "As O3, and an fp32 master of 4: 16."),
        (
            (10, 0, "amp"),
            180,
            "Under amp weights and gradients are fp32, and casts come on top: 18.",
        ),
        ((10, 1000, "O2"), 2160, "Parameters and activations add up."),
    ]
    praise = "Right: activations halve, and what Adam needs of a weight does not."
    return _judge("bytes_of", function, cases, NUMBER, praise)


def check_speedup(function: Callable[[float, float, float, float, float], float]) -> bool:
    """Lesson 12: the roofline's bound on how much faster fp16 is than fp32."""
    cases = [
        (
            (1e3, 1e9, 60e12, 900e12, 3e12),
            2.0,
            "This one hardly computes: memory decides, and fp16 moves half the bytes.",
        ),
        (
            (1e15, 1e3, 60e12, 900e12, 3e12),
            15.0,
            "This one hardly moves anything: only the peaks matter, 900 over 60.",
        ),
        (
            (60e12, 0.3e12, 60e12, 900e12, 3e12),
            5.0,
            "A number takes 4 bytes in fp32 and 2 in fp16. So in fp32 computing takes longer here "
            "(1 s, moving 0.4 s), in fp16 moving does (0.2 s, computing 0.07). Both go on at once: "
            "the time is the longer one, not the sum, in each format by itself.",
        ),
        (
            (1e12, 1e12, 60e12, 900e12, 1e12),
            2.0,
            "Is a bandwidth built in? It is an argument.",
        ),
    ]
    praise = "Right: the longer of two times, in each format by itself, and then their ratio."
    return _judge("speedup", function, cases, NUMBER, praise)


class _Filled(NamedTuple):
    """A query or a key in one number, as a hint shows it."""

    value: float
    d: int

    def __str__(self) -> str:
        return f"{self.d} times {self.value:g}"

    def tensor(self) -> fs.Tensor:
        return fs.Tensor(np.full((1, self.d), self.value, np.float32), fmt="fp16")


def check_scores(function: Callable[[fs.Tensor, fs.Tensor], fs.Tensor]) -> bool:
    """Lesson 13: attention scores in fp16, in an order that does not overflow."""
    first = function(_Filled(1.0, 64).tensor(), fs.Tensor(np.ones((2, 64)), fmt="fp16"))
    if first is ...:
        print("Not written yet: scores returns `...`.")
        return False
    if not isinstance(first, fs.Tensor) or first.shape != (1, 2) or first.fmt != fs.FP16:
        print(f"scores returns {first!r} of 1 query and 2 keys; it should be a Tensor in fp16 of")
        print("shape (1, 2). Is the second one transposed, and all that is computed in fp16?")
        return False

    def score(q: _Filled, k: _Filled) -> float:
        found = function(q.tensor(), k.tensor()).item()
        exact = float(q.tensor().numpy()[0] @ k.tensor().numpy()[0].T / np.sqrt(q.d))
        return exact if abs(found / exact - 1) <= 0.002 else found

    def case(q: float, k: float, d: int, hint: str) -> tuple[tuple[_Filled, _Filled], float, str]:
        a, b = _Filled(q, d), _Filled(k, d)
        return (a, b), float(a.tensor().numpy()[0] @ b.tensor().numpy()[0].T / np.sqrt(d)), hint

    tiny = 8352 * 2.0**-24  # about 0.0005; over 64 it lies halfway between two subnormal numbers
    few_bits = (
        "0.0005 / 8 is a normal number of fp16, 0.0005 / 64 a subnormal one with few bits left: "
        "divide by no more than you have to."
    )
    cases = [
        case(1, 1, 64, "64 products of 1 add up to 64, and that is divided by the root of 64, 8."),
        case(1, 1, 16, "With d = 16 it is 16 / 4. Is 8 built in?"),
        case(
            80,
            80,
            64,
            "64 x 80 x 80 is 409600: too large to be stored, even if it is divided next. What can "
            "be made smaller before?",
        ),
        case(
            60,
            -60,
            256,
            "The score is -57600 and fits, but only if all of the division by 16 comes before the "
            "product.",
        ),
        case(tiny, 1000, 64, few_bits),
        case(1000, tiny, 64, few_bits),
    ]
    praise = "Right: what is in between fits, if the result does."
    return _judge("scores", score, cases, NUMBER, praise)


_Box = tuple[float, float, float, float]  # left, top, right, bottom


def check_iou(function: Callable[[fs.Tensor, fs.Tensor], fs.Tensor]) -> bool:
    """Lesson 14: intersection over union in fp16, for large boxes and small ones."""

    def tensor(box: _Box) -> fs.Tensor:
        return fs.Tensor(np.array(box, np.float32), fmt="fp16")

    first = function(tensor((0, 0, 10, 10)), tensor((0, 0, 10, 10)))
    if first is ...:
        print("Not written yet: iou returns `...`.")
        return False
    if not isinstance(first, fs.Tensor) or first.size != 1 or first.fmt != fs.FP16:
        print(f"iou returns {first!r}; it should be a Tensor of one value, in fp16.")
        return False

    def close(a: _Box, b: _Box) -> float:
        """The reader's IoU, or the exact one if it is right to one per cent."""
        found = function(tensor(a), tensor(b)).item()
        return exact(a, b) if abs(found - exact(a, b)) <= 0.01 * exact(a, b) else found

    def exact(a: _Box, b: _Box) -> float:
        sides = [max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1)]
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
        return sides[0] * sides[1] / (sum(areas) - sides[0] * sides[1])

    pairs: list[tuple[_Box, _Box, str]] = [
        ((0, 0, 10, 10), (0, 0, 10, 10), "A box has an IoU of 1 with itself."),
        (
            (0, 0, 10, 10),
            (5, 0, 15, 10),
            "They share 50 of 150 square pixels: what is shared counts once in the union.",
        ),
        (
            (0, 0, 10, 10),
            (20, 20, 30, 30),
            "They share nothing. Are two negative sides multiplied?",
        ),
        (
            (0, 0, 220, 220),
            (20, 0, 240, 220),
            "Each area is 48400 and fits into fp16; their sum does not.",
        ),
        (
            (100, 100, 1900, 1100),
            (200, 100, 2000, 1100),
            "1800 x 1000 is 1.8 million: make the sides smaller before they are multiplied.",
        ),
        (
            (0, 0, 2048, 2048),
            (0, 0, 2048, 1024),
            "The whole image: even the largest area, and the sum of two, must fit.",
        ),
        (
            (10, 10, 11.25, 11.5),
            (10.5, 10.5, 12, 11.75),
            "Small boxes: 1.875 square pixels over 2048 x 2048 is subnormal in fp16, with few "
            "bits left. Divide by less than the size of the image.",
        ),
        (
            (1800, 1000, 1804, 1004),
            (1801, 1000, 1805, 1004),
            "Far from the origin: are coordinates rounded before they are subtracted? Numbers just "
            "below 2048 are 1 apart, so that what is divided by 1920, say, is moved.",
        ),
    ]
    cases = [((a, b), exact(a, b), hint) for a, b, hint in pairs]
    praise = "Right: nothing in between overflows, and small boxes keep their bits."
    return _judge("iou", close, cases, NUMBER, praise)


def check_dice(function: Callable[[np.ndarray, np.ndarray], float]) -> bool:
    """Lesson 15: the Dice score of two masks of zeros and ones in float16, of any size."""

    def masks(size: int, first: slice, second: slice) -> tuple[np.ndarray, np.ndarray]:
        both = np.zeros((2, size * size), dtype=np.float16)
        both[0, first] = both[1, second] = 1
        return both[0].reshape(size, size), both[1].reshape(size, size)

    none, everything = slice(0), slice(None)
    # By what is shown of them: the masks, what is right, a hint.
    pairs = {
        "8 x 8, the same 4 pixels": (
            masks(8, slice(4), slice(4)),
            1.0,
            "The same masks: twice the common pixels over both.",
        ),
        "8 x 8, 4 pixels and 4, 1 of them common": (
            masks(8, slice(4), slice(3, 7)),
            0.25,
            "2 x 1 over 4 + 4. No pixel counts that is in neither, and none counts twice below.",
        ),
        "8 x 8, 4 pixels and 1 of them": (
            masks(8, slice(4), slice(1)),
            0.4,
            "2 x 1 over 4 + 1: both sizes count.",
        ),
        "8 x 8, 4 pixels and none": (
            masks(8, slice(4), none),
            0.0,
            "Nothing is common, and only one mask is empty.",
        ),
        "8 x 8, none and none": (
            masks(8, none, none),
            1.0,
            "Of two empty masks it is 1, by definition, not 0 / 0.",
        ),
        "64 x 64, 4096 pixels and 2048 of them": (
            masks(64, everything, slice(2048)),
            2 / 3,
            "A running sum in fp16 stalls at 2048. Add up in a wider format.",
        ),
        "64 x 64, 2049 pixels and 1 of them": (
            masks(64, slice(2049), slice(1)),
            2 / 2050,
            "fp16 has no 2049: the sum, or what was made of it, has been rounded to fp16.",
        ),
        "512 x 512, all and all": (
            masks(512, everything, everything),
            1.0,
            "262144 pixels are more than 65504: does a sum overflow?",
        ),
        "512 x 512, all and a quarter of them": (
            masks(512, everything, slice(2**16)),
            0.4,
            "65536 of 262144 pixels are common: is anything cut to 65504?",
        ),
        "512 x 512, one pixel and the same": (
            masks(512, slice(1), slice(1)),
            1.0,
            "One pixel of many is a class as well.",
        ),
    }
    cases = [((name,), expected, hint) for name, (_, expected, hint) in pairs.items()]
    praise = "Right: counts of pixels are no numbers for fp16, and their ratio is."
    with np.errstate(all="ignore"):
        return _judge("dice", lambda name: function(*pairs[name][0]), cases, NUMBER, praise)


def check_int8_grid(function: Callable[[float, float], tuple[float, int]]) -> bool:
    """Lesson 16: scale and zero point of the int8 grid that holds a range, and 0 exactly."""
    cases = [
        (
            (-128.0, 127.0),
            (1.0, 0),
            "These are int8's own numbers: 256 of them have 255 steps of 1 between them, and the "
            "smallest is q = -128 (not 0, as of uint8), so that q = 0 stands for 0.",
        ),
        ((-51.0, 204.0), (1.0, -77), "Here -51 is q = -128, and 0 is 51 steps further on."),
        (
            (-50.0, 460.0),
            (2.0, -103),
            "Steps of 2: from -50 to 0 there are 25 of them. A zero point counts steps.",
        ),
        (
            (-100.25, 154.75),
            (1.0, -28),
            "-128 + 100.25 is -27.75, which is no integer: then 0 would not be on the grid. The "
            "nearest is -28.",
        ),
        ((-100.75, 154.25), (1.0, -27), "Round to the nearest: of -27.25 that is -27."),
        ((51.0, 510.0), (2.0, -128), "All values are above 0: let the range begin at 0 then."),
        ((-510.0, -51.0), (2.0, 127), "All values are below 0: let the range end at 0 then."),
    ]
    praise = "Right: 255 steps from end to end, and 0 on one of them."
    return _judge("int8_grid", function, cases, PAIR, praise)


def check_shared_exponent(function: Callable[[list[float], int], float]) -> bool:
    """Lesson 17: the exponent of the scale that a block of an MX format shares."""
    cases = [
        (([4.0, 1.0, 0.5], 0), 2, "The largest number is 4 = 2^2, and emax is 0: 2 - 0."),
        (
            ([4.0, 1.0, 0.5], 2),
            0,
            "E2M1 holds numbers of exponent 2 itself (its emax), so a block whose largest number "
            "has exponent 2 needs no scale: subtract emax.",
        ),
        (
            ([7.0, 0.1], 2),
            0,
            "7 lies between 4 = 2^2 and 8 = 2^3. The specification rounds log2 down, even where "
            "the largest number, 7, is then cut to 6.",
        ),
        (([-448.0, 3.0], 8), 0, "Magnitudes count: -448 is the largest here, of exponent 8."),
        (
            ([0.01, 0.003], 8),
            -15,
            "0.01 lies between 2^-7 and 2^-6. Down is toward -7, also for negative exponents; "
            "int() cuts toward zero. And -7 - 8 is -15.",
        ),
        (
            ([0.0, 0.0], 2),
            -127,
            "A block of zeros has no logarithm. Any scale would do; here it is the smallest, -127.",
        ),
        (
            ([2.0**-123, 0.0], 8),
            -127,
            "-123 - 8 is -131, which E8M0 does not have: it ends at -127.",
        ),
    ]
    praise = "Right: the largest magnitude gets the element format's largest exponent."
    return _judge("shared_exponent", function, cases, NUMBER, praise)


def check_diagnosis(function: Callable[[dict[str, float]], str]) -> bool:
    """Lesson 18: what a training suffers from, by its counts."""
    well = {
        "born_forward": 0, "born_backward": 0, "skipped": 0, "clipped_at": 1.0,
        "gradients": 1000, "gradients_zero": 0, "gradients_flushed": 0,
        "updates": 1000, "updates_zero": 0, "updates_swamped": 0,
    }  # fmt: skip

    def patient(**changes: float) -> tuple[dict[str, float]]:
        return ({**well, **changes},)

    cases = [
        (patient(), "well", "Nothing at all is wrong here."),
        (
            patient(born_forward=3, born_backward=9, skipped=60),
            "forward",
            "An infinity on the way forward comes first, whatever else there is.",
        ),
        (
            patient(born_backward=9, skipped=5),
            "well",
            "Gradients that overflow in steps which are skipped are how a scaler finds its scale.",
        ),
        (patient(clipped_at=65536.0), "order", "Clipped with a loss scale of 65536 in them."),
        (
            patient(gradients_flushed=200),
            "underflow",
            "200 of 1000 gradients were flushed, four times the limit.",
        ),
        (
            patient(gradients_zero=700, gradients_flushed=3),
            "well",
            "700 gradients were zero before rounding, behind a ReLU, say: these are not lost. 3 "
            "of the 300 others are, 1 %.",
        ),
        (
            patient(gradients_zero=900, gradients_flushed=20),
            "underflow",
            "20 gradients were flushed of the 100 that were not zero before: 20 %, not 2 %.",
        ),
        (
            patient(updates_swamped=500),
            "swamped",
            "Half of the updates left their weight as it was.",
        ),
        (
            patient(updates_zero=980, updates_swamped=10),
            "swamped",
            "Zero updates have nothing to lose. Of the 20 others 10 were swamped: 50 %, not 1 %.",
        ),
        (
            patient(gradients_flushed=30, updates_swamped=150),
            "well",
            "3 % flushed and 15 % swamped are below the limits, 5 % and 20 %.",
        ),
        (
            patient(clipped_at=65536.0, updates_swamped=900),
            "order",
            "Clipping so hard makes updates too small to count: swamping is the symptom here. The "
            "rules are tried in their order.",
        ),
        (
            patient(gradients_flushed=300, updates_swamped=300),
            "underflow",
            "Gradients come before the updates that are made of them: try underflow first.",
        ),
    ]
    praise = "Right: causes before symptoms, and shares of what could be lost at all."
    words = ("forward", "order", "underflow", "swamped", "well")
    return _judge("diagnosis", function, cases, words, praise)
