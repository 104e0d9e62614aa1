"""What the package exports, and what importing it does not load."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import fp16sim as fs


def test_public_names():
    """Lessons and users rely on these: a change here is a change of the interface."""
    formats = "FP64 FP32 TF32 FP16 BF16 E4M3 E5M2 E3M2 E2M3 E2M1 E8M0 Format round_to encode decode"
    blocks = "MXFP8_E4M3 MXFP8_E5M2 MXFP6_E3M2 MXFP6_E2M3 MXFP4 NVFP4 BlockFormat round_blocks"
    blocks += " encode_blocks decode_blocks"
    engine = "arith status_flags Tensor no_grad check_gradients autocast GradScaler watch primitive"
    engine += " StaticScaler NoScaler"
    engine += " memory_report storage"
    sums = "Accumulator matmul dot sum mean tensorcore"
    modules = "testing functional nn optim scaling training data models metrics checkpoint"
    modules += " presets recipes on_device compress"
    assert set(fs.__all__) == set(f"{formats} {blocks} {engine} {sums} {modules}".split())
    assert all(hasattr(fs, name) for name in fs.__all__)


def test_types_are_for_users_too():
    assert (Path(fs.__file__).parent / "py.typed").exists()


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
