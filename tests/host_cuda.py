"""CUDA kernels compiled as C++, and run on the host: a stand-in for CuPy that launchers can use.

A block's threads are fibers: those of a warp take turns at shuffles, and a warp runs on until it
meets a barrier of the block. A launch is done twice, once with the threads in reverse order, and
must give the same bits: threads that do not wait for each other would be seen. So are threads that
wait where others do not, arguments of another size than the kernel's, and writes before or behind
an array.
"""

import ctypes
import re
import subprocess
import tempfile
import types
from functools import cache
from pathlib import Path

import numpy as np

from fp16sim.kernels.fused import source

#: in the place of ``source.DEVICE``
HOST = """
#include <cmath>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

enum State { READY, AT_WARP, AT_BLOCK, DONE };
struct Fiber { ucontext_t context; State state; Index at; std::vector<char> stack; };
struct Body { virtual void run() = 0; };
static std::vector<Fiber> fibers(1024);
static ucontext_t home;
static Body* body;
static unsigned current;
static float lanes[1024];

static void wait(State state) {
    fibers[current].state = state;
    swapcontext(&fibers[current].context, &home);
}
static void whole() { body->run(); wait(DONE); }
#define __syncthreads() wait(AT_BLOCK)
static float __shfl_xor_sync(unsigned, float x, unsigned mask) {
    const unsigned own = current;
    lanes[own] = x;
    wait(AT_WARP);
    const float result = lanes[own ^ mask];
    wait(AT_WARP);
    return result;
}

static bool release(unsigned first, unsigned last, State state) {
    for (unsigned i = first; i < last; ++i) if (fibers[i].state != state) return false;
    for (unsigned i = first; i < last; ++i) fibers[i].state = READY;
    return true;
}

// Blocks of one thread, and others of whole warps.
static bool block_ends(unsigned count, bool reverse) {
    for (unsigned i = 0; i < count; ++i) {
        Fiber& fiber = fibers[i];
        fiber.stack.resize(1 << 16);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, whole, 0);
        fiber.state = READY;
        fiber.at = {i % blockDim.x, i / blockDim.x, 0};
    }
    const unsigned warp = count < 32 ? count : 32;
    do {
        for (unsigned turn = 0; turn < count; turn += warp) {
            const unsigned first = reverse ? count - warp - turn : turn;
            do {
                for (unsigned lane = 0; lane < warp; ++lane) {
                    current = first + (reverse ? warp - 1 - lane : lane);
                    if (fibers[current].state != READY) continue;
                    threadIdx = fibers[current].at;
                    swapcontext(&home, &fibers[current].context);
                }
            } while (release(first, first + warp, AT_WARP));
        }
    } while (release(0, count, AT_BLOCK));
    return release(0, count, DONE);
}

template <class... A, std::size_t... i>
static int launched(void (*kernel)(A...), const unsigned* shape, bool reverse, void** arguments,
                    std::index_sequence<i...>) {
    struct Call : Body {
        void (*kernel)(A...);
        void** arguments;
        void run() override { kernel(*(A*)arguments[i]...); }
    } call;
    call.kernel = kernel, call.arguments = arguments, body = &call;
    gridDim = {shape[0], shape[1], 1}, blockDim = {shape[2], shape[3], 1};
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
            if (!block_ends(blockDim.x * blockDim.y, reverse)) return 1;
    return 0;
}

template <class... A>
static int launch(void (*kernel)(A...), const unsigned* shape, bool reverse, void** arguments,
                  const int* sizes, int count) {
    const int expected[] = {sizeof(A)...};
    if (count != sizeof...(A) || std::memcmp(expected, sizes, sizeof expected)) return 2;
    return launched(kernel, shape, reverse, arguments, std::index_sequence_for<A...>());
}

template <class To, class From> static To as(From x) {
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}
static float __uint_as_float(unsigned x) { return as<float>(x); }
static unsigned __float_as_uint(float x) { return as<unsigned>(x); }
static float float_of_half(unsigned short bits) { return as<_Float16>(bits); }
static unsigned short half_of_float(float x) { return as<unsigned short>((_Float16)x); }
"""
RUN = """
extern "C" int run_{0}(const unsigned* shape, int reverse, void** arguments, const int* sizes,
                       int number) {{
    return launch({0}, shape, reverse, arguments, sizes, number);
}}
"""
FLAGS = [
    "-std=c++17", "-O1", "-ffp-contract=off", "-fsanitize=undefined",
    "-fsanitize-undefined-trap-on-error", "-shared", "-fPIC", "-Wl,-Bsymbolic",
]  # fmt: skip
SAID = {1: "threads wait where others of their warp or block do not", 2: "other arguments"}
FENCE = 64

#: memory around the arrays that ``empty`` made, which nobody may write to
_fenced = []


def empty(shape, dtype=np.float32):
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.full(size + 2 * FENCE + 16, 0xA5, np.uint8)
    start = FENCE - memory.ctypes.data % 16
    _fenced.append((memory[:start], memory[start + size :]))
    return memory[start : start + size].view(dtype).reshape(shape)


@cache
def module(code):
    """The library of a text, as ``kernels.cuda`` makes one for a GPU."""
    return Module(code)


def kernel(code, name):
    """In the place of ``kernels.cuda.kernel``."""
    return module(code).get_function(name)


class Module:
    def __init__(self, code):
        names = re.findall(r"__global__ void (\w+)\(", code)
        assert source.DEVICE in code
        text = code.replace(source.DEVICE, HOST) + "".join(map(RUN.format, names))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernels.cpp"
            path.write_text(text)
            library = path.with_suffix(".so")
            subprocess.run(["g++", *FLAGS, "-o", library, path], check=True)
            self._library = ctypes.CDLL(str(library))

    def get_function(self, name):
        function = getattr(self._library, f"run_{name}")

        def run(grid, block, arguments):
            held = [np.asarray(p.ctypes.data) if isinstance(p, np.ndarray) else np.asarray(p)
                    for p in arguments]  # fmt: skip
            pointers = (ctypes.c_void_p * len(held))(*(p.ctypes.data for p in held))
            sizes = (ctypes.c_int * len(held))(*(p.itemsize for p in held))
            shape = (ctypes.c_uint * 4)(*(*grid, 1)[:2], *(*block, 1)[:2])
            arrays = _reachable(arguments)
            before = [x.copy() for x in arrays]
            results = []
            for reverse in (1, 0):
                for x, old in zip(arrays, before, strict=True):
                    x[...] = old
                status = function(shape, reverse, pointers, sizes, len(held))
                assert status == 0, f"{name}: {SAID[status]}"
                results.append([x.tobytes() for x in arrays])
            assert results[0] == results[1], f"{name}: the order of threads matters"
            for fence in _fenced:
                assert all((part == 0xA5).all() for part in fence), f"{name}: wrote outside"

        return run


#: arrays whose addresses a table has, so that a launch may change them
in_tables = []


def _reachable(arguments):
    return [x for x in (*arguments, *in_tables) if isinstance(x, np.ndarray)]


def stand_in():
    """A module as ``cupy``, as far as the launchers need it."""
    module = types.ModuleType("cupy")
    module.empty, module.empty_like = empty, lambda x: empty(x.shape, x.dtype)
    module.asarray, module.ascontiguousarray = np.asarray, np.ascontiguousarray
    module.sqrt = np.sqrt
    module.zeros = lambda shape, dtype: np.zeros(shape, dtype)
    module.broadcast_to = lambda x, shape: np.broadcast_to(x, shape).copy()  # NumPy's is read-only
    return module
