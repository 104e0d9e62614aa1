"""How long ``import fp16sim`` takes, against ``import numpy`` alone, in fresh processes."""

import subprocess
import sys

from common import interleaved, report


def importing(module: str):
    return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True)


if __name__ == "__main__":
    contenders = {name: importing(name) for name in ("numpy", "fp16sim")}
    report("import_time", interleaved(contenders, 21), "numpy", ["numpy", "fp16sim"])
