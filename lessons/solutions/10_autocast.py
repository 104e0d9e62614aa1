"""Solution of the exercise of lesson 10."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the checks are
from checks import check_class_of

LOW = {"matmul", "linear", "conv2d", "scaled_dot_product_attention"}
WIDE = {"exp", "log", "power", "sum", "softmax", "layer_norm", "cross_entropy", "mse_loss"}


def class_of(operation: str) -> str:
    """The list of an operation, by its name."""
    return "low" if operation in LOW else "wide" if operation in WIDE else "any"


assert check_class_of(class_of)
