"""The same networks in PyTorch, eager and compiled, in turns with ours.

The same weights, batches, optimiser and precision (PyTorch's: torch.amp), in one process and one
run: turn by turn, A B C A B C, so that all see the machine alike. On the CPU each has one thread:
two pools that wait for work by spinning would take each other's cores. ``benchmarks/engine.py``
gives each more threads, and a process of its own, and is the one to quote for CPUs.
"""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from fp16sim.backend import to_device
from fp16sim.bench.clock import Timing, time_in_turns
from fp16sim.bench.plan import LeftOut, Plan
from fp16sim.bench.zoo import BATCHES, trainer
from fp16sim.models import task

OURS, EAGER, COMPILED = "fp16sim", "PyTorch, eager", "PyTorch, compiled"

#: how far first losses may be apart, relative: sums in another order, and roundings that they turn
_FIRST_LOSS = {"fp32": 2e-4}
_FIRST_LOSS_LOW = 2e-2


@dataclass(frozen=True)
class PeerRow:
    """A training step of one network, by one of those that were compared."""

    network: str
    size: str
    precision: str
    #: ``OURS``, ``EAGER`` or ``COMPILED``
    engine: str
    #: as in ``StepRow``; PyTorch's is native
    storage: str
    samples: int
    timing: Timing
    #: of the first step, before anything was learned
    first_loss: float
    #: bytes that PyTorch's allocator gave out at a time; None: not counted
    peak: int | None


def compare(name: str, plan: Plan, precision: str) -> tuple[list[PeerRow], list[LeftOut]]:
    """Time ours and PyTorch's training steps in turns; and what was left out, and why.

    Raises ImportError, saying what to install, without PyTorch; RuntimeError if first losses differ
    by more than another order of sums explains: then the networks are not the same.
    """
    torch = load_torch()
    left_out: list[LeftOut] = []
    first: dict[str, float] = {}
    peaks: dict[str, int | None] = {}
    steps: dict[str, Callable[[], object]] = {}
    with (
        _one_thread(torch, plan.device),
        _tf32(torch, precision == "tf32"),
        trainer(name, plan, precision) as (ours, storage),
    ):
        first[OURS] = ours.step(ours.batch(0)).loss
        steps[OURS] = ours.repeated()
        peaks[OURS] = None
        for engine in (EAGER, COMPILED):
            why = _why_not(torch, engine, plan.device)
            if why:
                left_out.append(LeftOut(f"{name}, {precision}, {engine}", why))
                continue
            before = torch.cuda.memory_allocated() if plan.device == "cuda" else 0
            step = _step_of(torch, name, plan, precision, compiled=engine == COMPILED)
            try:
                first[engine], peaks[engine] = _first_step(torch, step, before, plan.device)
            except Exception as error:
                if engine == EAGER:
                    raise
                line = (str(error).splitlines() or [""])[0]  # the compiler's reasons are its own
                why = f"torch.compile failed ({type(error).__name__}: {line})"
                left_out.append(LeftOut(f"{name}, {precision}, {engine}", why, failed=True))
                continue
            steps[engine] = step
        _check_first(first, precision, f"{name}, {plan.size}, {precision}")
        timings = time_in_turns(steps, plan.device, turns=plan.turns, calls=plan.turn_steps)
        samples = len(ours.batch(0)[0])
    rows = [
        PeerRow(
            name, plan.size, precision, engine, storage if engine == OURS else "native", samples,
            timing, first[engine], peaks[engine],
        )
        for engine, timing in timings.items()
    ]  # fmt: skip
    return rows, left_out


def load_torch() -> Any:
    """PyTorch; ImportError, saying what to install, without it."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"--compare torch needs PyTorch: pip install torch ({error})") from error
    return torch


def _why_not(torch: Any, engine: str, device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        return f"this PyTorch ({torch.__version__}) was built without CUDA, or finds no GPU"
    if device == "cpu" and engine == COMPILED:
        return "on a CPU torch.compile needs a C++ compiler; it is only compared on GPUs"
    return ""


def _step_of(
    torch: Any, name: str, plan: Plan, precision: str, *, compiled: bool
) -> Callable[[], Any]:
    """A function that does one training step of PyTorch's, and gives its loss."""
    from fp16sim.bench.torch_zoo import network, optimizer

    made = task(name, plan.size, plan.seed)  # of its own: ours may have been trained already
    model = network(made).to(plan.device)
    mover = optimizer(made, model)
    loss_of = torch.compile(model.loss) if compiled else model.loss
    batches = [
        [torch.from_numpy(to_device(part, "cpu")).to(plan.device) for part in made.batch(i)]
        for i in range(BATCHES)
    ]
    turn = itertools.cycle(batches)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    scaler = torch.amp.GradScaler(plan.device, enabled=precision == "fp16")

    def step() -> Any:
        mover.zero_grad()
        with nullcontext() if dtype is None else torch.autocast(plan.device, dtype):
            loss = loss_of(*next(turn))
        scaler.scale(loss).backward()
        scaler.step(mover)
        scaler.update()
        return loss.detach()  # nobody waits for it

    return step


def _first_step(
    torch: Any, step: Callable[[], Any], before: int, device: str
) -> tuple[float, int | None]:
    """The loss of the first step, which may compile, and the most bytes in the two after it.

    before: bytes that others held already, which do not count.
    """
    first = float(step())
    if device == "cpu":
        return first, None
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    step(), step()
    return first, int(torch.cuda.max_memory_allocated()) - before


def _check_first(first: dict[str, float], precision: str, what: str) -> None:
    bound = _FIRST_LOSS.get(precision, _FIRST_LOSS_LOW)
    for engine, loss in first.items():
        if not math.isclose(loss, first[OURS], rel_tol=bound):
            raise RuntimeError(
                f"{what}: the first loss of {engine} is {loss!r}, ours {first[OURS]!r}; they are "
                f"not the same network (allowed is a relative difference of {bound:g})"
            )


def load_threadpoolctl() -> Any:
    """What sets BLAS's threads; ImportError, saying what to install, without it."""
    try:
        import threadpoolctl
    except ImportError as error:
        raise ImportError(
            "--compare torch on a CPU needs threadpoolctl, which scikit-learn brings: pip install "
            f"'fp16sim[lessons]' ({error})"
        ) from error
    return threadpoolctl


@contextmanager
def _one_thread(torch: Any, device: str) -> Iterator[None]:
    """On the CPU one thread for each, since idle threads of one would disturb the other."""
    if device != "cpu":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with load_threadpoolctl().threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


class _tf32(ExitStack):  # noqa: N801 - used like a function
    """PyTorch multiplies fp32 numbers as TF32 inside, or in fp32; as before afterwards."""

    def __init__(self, torch: Any, allowed: bool) -> None:
        super().__init__()
        for place in (torch.backends.cuda.matmul, torch.backends.cudnn):
            self.callback(setattr, place, "allow_tf32", place.allow_tf32)
            place.allow_tf32 = allowed
