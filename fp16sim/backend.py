"""Where arrays live. Code above asks the array for its module instead of assuming NumPy."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fp16sim.arguments import one_of
from fp16sim.formats import BF16, FP16, FP32, Format

#: a NumPy array, or a CuPy array, which has the same interface
Array: TypeAlias = NDArray[Any]

#: makes so many uniform random numbers, uint32
Draw: TypeAlias = "Callable[[int], Array]"

#: what ``rng`` arguments accept: a seed, a generator, or None for fresh entropy
RandomLike: TypeAlias = "int | np.random.Generator | None"  # a string: np.random loads slowly

#: where an array can be: on the host, or on the GPU; PyTorch's names
DEVICES = ("cpu", "cuda")


def namespace_of(x: object) -> ModuleType:
    """The module whose functions work on ``x``: ``numpy``, or ``cupy`` for a GPU array.

    Raises TypeError for anything that is not an array. CuPy is looked up, never imported: who
    holds one of its arrays has imported it.
    """
    if isinstance(x, np.ndarray | np.generic):
        return np
    if is_on_gpu(x):
        return sys.modules["cupy"]
    raise TypeError(f"expected a NumPy or CuPy array, got {type(x).__name__}")


def device_of(x: object) -> str:
    """Where an array is, one of ``DEVICES``. Raises TypeError for anything that is not one."""
    return "cpu" if namespace_of(x) is np else "cuda"


def is_on_gpu(x: object) -> bool:
    """Whether this is a GPU array; anything may be asked about."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, cupy.ndarray)


def address(array: Array) -> int:
    """Where a CuPy array's first element is in the GPU's memory."""
    data: Any = array.data
    return int(data.ptr)


def to_host(array: Array) -> Array:
    """The values as a NumPy array: a copy of a GPU's array, a NumPy array itself.

    CuPy never does this by itself, since it waits for all that the GPU has still to do.
    """
    host: Array = array if namespace_of(array) is np else array.get()  # type: ignore[attr-defined]
    return host


def to_device(array: Array, device: str) -> Array:
    """The values as an array on that device: the array itself if it is there already.

    device: one of ``DEVICES``. Raises ValueError for others; for "cuda", ImportError without CuPy
    and RuntimeError without a GPU, saying what is needed.
    """
    if one_of("device", device, DEVICES) == device_of(array):
        return array
    if device == "cpu":
        return to_host(array)
    kept = _constants.get()
    moved: Array = _cupy().asarray(array) if kept is None else kept.on_gpu(array)
    return moved


class Constants:
    """Arrays that were copied to the GPU, by their values: the same need not be copied again.

    Sealed, it copies nothing any more: a recorded step must find all it needs on the GPU.
    """

    def __init__(self) -> None:
        self._arrays: dict[tuple[bytes, str, tuple[int, ...]], Array] = {}
        self.sealed = False

    def on_gpu(self, array: Array) -> Array:
        """The values on the GPU, not to be changed. Raises RuntimeError if sealed and not there."""
        key = array.tobytes(), array.dtype.name, array.shape
        if key not in self._arrays:
            if self.sealed:
                raise RuntimeError(
                    f"a recorded step copies an array {array.shape} of {array.dtype} from the host "
                    "that it did not copy before: batches must be arrays on the GPU, which are "
                    "written to, and what is drawn at random (dropout) cannot be recorded"
                )
            self._arrays[key] = _cupy().asarray(array)
        return self._arrays[key]


_constants: ContextVar[Constants | None] = ContextVar("constants", default=None)


@contextmanager
def remembering(constants: Constants) -> Iterator[None]:
    """In the block what is copied to the GPU comes from, and goes to, these constants."""
    token = _constants.set(constants)
    try:
        yield
    finally:
        _constants.reset(token)


def _cupy() -> ModuleType:
    """CuPy, if there is a GPU for it."""
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            "device='cuda' needs CuPy: pip install 'fp16sim[gpu]', or the cupy-cuda package of "
            f"your CUDA version ({error})"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:  # CUDA's own is one
        raise RuntimeError(
            f"device='cuda' needs an NVIDIA GPU and its driver; CUDA says: {error}"
        ) from error
    if not count:
        raise RuntimeError("device='cuda' needs an NVIDIA GPU; CUDA finds none here")
    found: ModuleType = cupy
    return found


@contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], int]]:
    """What is yielded tells, after the block, the most bytes that were allocated in it at a time.

    device: one of ``DEVICES``; "cpu": all of Python's and NumPy's allocations, as ``tracemalloc``
    sees them, which makes everything slower, and whose own peak starts anew; "cuda": those from
    CuPy's memory pool, by this thread. What was allocated before the block does not count.
    """
    counted = _traced() if one_of("device", device, DEVICES) == "cpu" else _pooled()
    with counted as peak:
        yield peak


@contextmanager
def _traced() -> Iterator[Callable[[], int]]:
    already, peak = tracemalloc.is_tracing(), 0
    if not already:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    try:
        yield lambda: peak
    finally:
        peak = tracemalloc.get_traced_memory()[1] - before
        if not already:
            tracemalloc.stop()


@contextmanager
def _pooled() -> Iterator[Callable[[], int]]:
    base: Any = _cupy().cuda.MemoryHook

    class Hook(base):  # type: ignore[misc]  # CuPy has no types
        name = "fp16sim"
        live = peak = 0

        def malloc_postprocess(self, *, mem_size: int, **_: Any) -> None:
            self.live += mem_size
            self.peak = max(self.peak, self.live)

        def free_postprocess(self, *, mem_size: int, **_: Any) -> None:
            self.live -= mem_size

    with Hook() as hook:
        yield lambda: int(hook.peak)


def carrier_of(fmt: Format) -> np.dtype[Any]:
    """The dtype in which an emulated array of this format is stored: float32 if it fits."""
    return np.dtype(np.float32 if FP32.contains(fmt) else np.float64)


#: how values are kept: "native", in the bits of their format where hardware has it; "emulated", as
#: float32 or float64 numbers; "auto": natively on a GPU, emulated on the host
STORAGES = ("auto", "native", "emulated")

_storage: ContextVar[tuple[str, bool]] = ContextVar("storage", default=("auto", False))


class storage(ContextDecorator):  # noqa: N801 - a region, as autocast
    """Inside, values that are computed are kept in this way; also works as a decorator.

    ``native`` keeps fp16 and bf16 values in two bytes, as PyTorch's half tensors do. Every
    primitive widens what it reads to float32, computes there and rounds once, so that it gives the
    numbers that the emulation gives, bit for bit, unless a GPU's library adds in another order or
    treats numbers below 2^-126 as zeros (CuPy's own functions do, the kernels of this package not).
    Formats that no array library stores, and moments of optimisers, are emulated all the same.
    Values made elsewhere keep the storage that they have. In this thread only.

    kind: one of ``STORAGES``; without a region it is "auto". tf32: whether products of fp32
        matrices on a GPU may read them as TF32 (PyTorch's ``allow_tf32``).

    Raises ValueError for another kind, TypeError for a switch that is none. bf16 stored natively
    needs the package ml_dtypes (ImportError; "auto" emulates bf16 without it).
    """

    def __init__(self, kind: str = "auto", *, tf32: bool = False) -> None:
        if not isinstance(tf32, bool):
            raise TypeError(f"tf32 must be True or False, got {tf32!r}")
        self._setting = one_of("kind", kind, STORAGES), tf32

    def __enter__(self) -> storage:
        self._token = _storage.set(self._setting)
        return self

    def __exit__(self, *_: object) -> None:
        _storage.reset(self._token)


def tf32_allowed() -> bool:
    """Whether products of fp32 matrices may read them as TF32."""
    return _storage.get()[1]


@cache
def _native(fmt: Format, needed: bool) -> np.dtype[Any] | None:
    """The dtype of two bytes that holds just the numbers of this format, if there is one."""
    if fmt == FP16:
        return np.dtype(np.float16)
    if fmt != BF16:
        return None
    try:
        import ml_dtypes
    except ImportError as error:
        if not needed:
            return None
        raise ImportError(
            "storage('native') keeps bf16 in ml_dtypes' bfloat16: pip install ml_dtypes"
        ) from error
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


def kept_natively(like: Array) -> bool:
    """Whether values beside this array are kept natively, in the region in force."""
    kind, _ = _storage.get()
    return kind == "native" or (kind == "auto" and namespace_of(like) is not np)


def stored_dtype(fmt: Format, like: Array) -> np.dtype[Any]:
    """The dtype in which values of a format are kept beside this array, in the region in force."""
    if not kept_natively(like):
        return carrier_of(fmt)
    return _native(fmt, _storage.get()[0] == "native") or carrier_of(fmt)


def is_half(x: Array) -> bool:
    """Whether an array keeps fp16 or bf16 values natively."""
    return x.dtype.name in ("float16", "bfloat16")


def select(condition: Array, x: Array, y: Array) -> Array:
    """x where the condition holds, else y, in their dtype; CuPy's ``where`` knows no bf16."""
    xp = namespace_of(x)
    if not (x.dtype.name == y.dtype.name == "bfloat16"):
        other: Array = xp.where(condition, x, y)
        return other
    words: Array = xp.where(condition, x.view(np.uint16), y.view(np.uint16))
    return words.view(x.dtype)


def computing_dtype(x: Array) -> np.dtype[Any]:
    """What is computed in when this array is read: float32 for those of two bytes, or its own."""
    return np.dtype(np.float32) if is_half(x) else x.dtype


def carried(x: Array) -> Array:
    """The same values in the dtype that computes; the array itself if it is in that already."""
    return x.astype(np.float32) if is_half(x) else x


def generator(rng: RandomLike) -> np.random.Generator:
    """A random generator from a seed, or the given one.

    Raises TypeError for other types, ValueError for negative seeds.
    """
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer | np.random.Generator | None):
        raise TypeError(f"rng must be an integer seed, a np.random.Generator or None, got {rng!r}")
    if isinstance(rng, int | np.integer) and rng < 0:
        raise ValueError(f"rng={rng} is not allowed; a seed must be at least 0")
    return np.random.default_rng(rng)


def add_at(target: Array, key: Any, values: Array) -> None:
    """``target[key] += values``, where a place that is named several times gets all its values."""
    xp = namespace_of(target)
    if xp is not np or not (isinstance(key, np.ndarray) and key.ndim == 1 and key.dtype != bool):
        xp.add.at(target, key, values)
        return
    if not len(key):
        return
    # Rows: sorted by their places, each place's are next to each other, and are summed at once.
    key = key.astype(np.intp) % len(target)  # -1 is the last
    order = np.argsort(key, kind="stable")
    places = key[order]
    starts = np.flatnonzero(np.concatenate([[True], places[1:] != places[:-1]]))
    target[places[starts]] += np.add.reduceat(values[order], starts, axis=0)
