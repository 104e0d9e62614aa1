"""What the package exports, and what importing it does not load."""

import subprocess
import sys
from importlib import metadata

import fp16sim as fs


def test_public_names():
    assert sorted(fs.__all__) == fs.__all__ or set(fs.__all__) == set(fs.__all__)
    for name in fs.__all__:
        assert hasattr(fs, name)
    assert {"Tensor", "round_to", "autocast", "GradScaler", "watch", "FP16"} <= set(fs.__all__)


def test_version():
    assert metadata.version("fp16sim") == fs.__version__


def test_import_loads_only_numpy():
    code = "import sys, fp16sim; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(result.stdout.split())
    heavy = {
        "matplotlib",
        "sklearn",
        "scipy",
        "cupy",
        "numba",
        "rich",
        "click",
        "torch",
        "hypothesis",
    }
    assert "numpy" in loaded
    assert not loaded & heavy


def test_every_public_name_is_documented():
    for name in fs.__all__:
        thing = getattr(fs, name)
        if not isinstance(thing, fs.Format):
            assert thing.__doc__, name
