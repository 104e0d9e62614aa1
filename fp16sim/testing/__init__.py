"""Property tests of rounding and arithmetic, this package's or anyone's.

``check_rounding`` and ``check_arithmetic`` compare a function with the correct results on the
inputs that are hard, or on all of them, and sort what is wrong into classes. ``strategies`` draws
numbers of any format for Hypothesis; only it needs that package (``pip install 'fp16sim[test]'``).

Example::

    import numpy as np
    from fp16sim.testing import check_rounding

    print(check_rounding(lambda x: x.astype(np.float16), "fp16"))
"""

import importlib
from typing import Any

from fp16sim.testing.conformance import check_arithmetic, check_rounding
from fp16sim.testing.report import CLASSES, ConformanceError, Failure, Report

__all__ = [
    "CLASSES",
    "ConformanceError",
    "Failure",
    "Report",
    "check_arithmetic",
    "check_rounding",
    "strategies",
]


def __getattr__(name: str) -> Any:
    """Hypothesis is loaded, and need be installed, only for who uses it."""
    if name == "strategies":
        return importlib.import_module("fp16sim.testing.strategies")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
