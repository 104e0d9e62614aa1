"""Compiling CUDA text, as far as that needs no GPU."""

import sys
from types import SimpleNamespace

import pytest

from fp16sim.kernels import cuda


class Nvrtc(SimpleNamespace):
    """A compiler that compiles nothing."""

    NVRTCError = ValueError
    asked = ()

    def getSupportedArchs(self):
        return (75, 80, 90)

    def createProgram(self, *_):
        return 1

    def compileProgram(self, program, options):
        self.asked = options

    def getCUBIN(self, program):
        return b"code"

    getPTX = getCUBIN  # noqa: N815

    def destroyProgram(self, program):
        pass


@pytest.fixture
def compiler(monkeypatch):
    def made(capability):
        nvrtc = Nvrtc()
        function = SimpleNamespace(Module=lambda: SimpleNamespace(load=lambda binary: None))
        device = SimpleNamespace(compute_capability=capability)
        there = SimpleNamespace(nvrtc=nvrtc, function=function, Device=lambda: device)
        monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=there))
        cuda._module.cache_clear()
        return nvrtc

    yield made
    cuda._module.cache_clear()


@pytest.mark.parametrize(
    ("capability", "option"), [("90", "-arch=sm_90"), ("103", "-arch=compute_90")]
)
def test_for_which_gpu(compiler, capability, option):
    nvrtc = compiler(capability)
    cuda._module("text")
    assert option in nvrtc.asked
    assert "--ftz=false" in nvrtc.asked


def test_a_gpu_older_than_all_that_the_compiler_knows(compiler):
    compiler("70")
    with pytest.raises(RuntimeError, match=r"compute capability, 70; it knows \(75, 80, 90\)"):
        cuda._module("text")
