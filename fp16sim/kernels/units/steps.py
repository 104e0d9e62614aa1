"""What one step of a matrix unit does to the sum c that it carries: d = c + sum of L products.

Sources: Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ
Computer Science 7:e330 (2021); Xie et al., "MMA-Sim: bit-accurate reference model of tensor cores
and matrix cores", arXiv 2511.10909 (2025); Khattak and Mikaitis, arXiv 2512.07004 (2025).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Aligned:
    """NVIDIA: all L products and c are shifted to the largest exponent, cut off, and added exactly.

    A product's exponent is the sum of its factors' (subnormal numbers have emin), whatever their
    significands make of it; zeros have none. Cut off means toward zero, after ``fraction_bits``
    bits from that exponent. The sum is cut off again to fp32's 24 bits, or rounded to the nearest
    fp16 number if that is what the unit stores.
    """

    #: L: products a step
    length: int
    #: F: bits kept behind the largest exponent
    fraction_bits: int
    #: fraction bits of an fp32 result; some keep fewer than its 23
    kept_bits: int = 23


@dataclass(frozen=True)
class Tree:
    """AMD CDNA2: fp32 arithmetic, rounded to nearest at each step: neighbours first, then c.

    Subnormal numbers of the operands' format and of fp32 become zero, before and after every step.
    """

    length: int


@dataclass(frozen=True)
class Floored:
    """AMD CDNA3: products are aligned and cut off as NVIDIA's, without c, and added exactly.

    That sum and c are then shifted to the larger of their exponents and cut *downwards*, after 31
    and ``fraction_bits`` bits, added exactly and rounded to the nearest fp32 number.
    """

    length: int
    fraction_bits: int


Step = Aligned | Tree | Floored
