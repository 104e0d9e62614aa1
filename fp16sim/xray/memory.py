"""Memory accounts: the bytes of a training step, and how large a batch may be, by precision."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from fp16sim import events, nn, optim
from fp16sim.arguments import integer, one_of
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, carrier_of, device_of, peak_memory
from fp16sim.formats import BF16, E4M3, FP16, FP32, Format
from fp16sim.optim import Optimizer
from fp16sim.precision import autocast
from fp16sim.training import train_step
from fp16sim.xray.holdings import Account, Held, account, native_bytes

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class MemoryPolicy:
    """In which formats a model is kept and trained.

    With weights below fp32 and no region, float inputs of the model are cast to the weights'
    format, and its output to fp32, as apex does for O2 and O3.
    """

    name: str
    #: of all parameters but those of batch norms
    weights: Format = FP32
    #: of the parameters of batch norms
    norms: Format = FP32
    #: what the forward pass runs in; None: in the formats of weights and inputs
    region: autocast | None = None
    #: whether the optimiser keeps an fp32 copy of parameters in less
    masters: bool = False
    #: in which linear layers keep inputs and weights for backward; None: as they were computed.
    #: This is counted and not computed: the values are those of the region.
    operands: Format | None = None


#: by name: fp32; PyTorch's autocast to fp16 (apex's O1) and to bf16; apex's O2 (fp16 weights, fp32
#: batch norms, fp32 masters) and O3 (all fp16); bf16 with fp8 operands, as Transformer Engine's
POLICIES: Mapping[str, MemoryPolicy] = MappingProxyType(
    {
        policy.name: policy
        for policy in (
            MemoryPolicy("fp32"),
            MemoryPolicy("amp", region=autocast(FP16)),
            MemoryPolicy("O2", weights=FP16, masters=True),
            MemoryPolicy("O3", weights=FP16, norms=FP16),
            MemoryPolicy("amp_bf16", region=autocast(BF16)),
            MemoryPolicy("fp8", region=autocast(BF16), operands=E4M3),
        )
    }
)

#: optimisers by name, with settings that decide what they keep
OPTIMIZERS: Mapping[str, Callable[[Iterable[Tensor]], Optimizer]] = MappingProxyType(
    {
        "sgd": optim.SGD,
        "momentum": partial(optim.SGD, momentum=0.9),
        "adam": optim.Adam,
        "adamw": optim.AdamW,
        "lion": optim.Lion,
    }
)

PolicyLike: TypeAlias = MemoryPolicy | autocast | str
#: from a model and a batch's arrays to a loss of one value
Loss: TypeAlias = Callable[..., Tensor]


@dataclass(frozen=True)
class MemoryReport:
    """The bytes of one training step, in native storage unless said otherwise. ``print`` it."""

    policy: str
    #: in the batch
    samples: int
    #: parameters, in their formats
    weights: int
    #: tensors of the model that are no parameters: running statistics
    buffers: int
    #: fp32 copies of parameters that are kept in less
    masters: int
    #: moments
    states: int
    #: of all parameters, each in its parameter's format
    gradients: int
    #: what backward reads, array by array, without parameters; casts of weights are among it
    held: tuple[Held, ...] = field(repr=False)
    #: what is held and gradients at every moment of backward, for this batch and for another one
    moments: tuple[int, ...] = field(repr=False)
    other_samples: int = field(repr=False)
    other_moments: tuple[int, ...] = field(repr=False)
    #: the most at a time in this process, whose carriers take 4 or 8 bytes a value: on paper
    carrier_peak: int
    #: and as it was seen, if it was measured
    measured: int | None = None

    @property
    def casts(self) -> int:
        """Casts of weights that are held for backward."""
        return self.by_kind.get("weight", 0)

    @property
    def activations(self) -> int:
        """All else that is held for backward: activations, inputs, statistics, masks, targets."""
        return sum(one.bytes for one in self.held) - self.casts

    @property
    def at_rest(self) -> int:
        """What is there between steps, and does not depend on the batch."""
        return self.weights + self.buffers + self.masters + self.states

    @property
    def peak(self) -> int:
        """The most at a time: at rest, and what is held and gradients at the worst moment."""
        return self.at_rest + max(self.moments)

    @property
    def by_format(self) -> dict[str, int]:
        """What is held by format, the largest first."""
        return self._held_by(lambda one: one.fmt)

    @property
    def by_kind(self) -> dict[str, int]:
        """What is held by kind, see ``Held``, the largest first."""
        return self._held_by(lambda one: one.kind)

    @property
    def by_module(self) -> dict[str, int]:
        """What is held by the path of the module that keeps them, the largest first."""
        return self._held_by(lambda one: one.scope)

    def _held_by(self, key: Callable[[Held], str]) -> dict[str, int]:
        totals: dict[str, int] = {}
        for one in self.held:
            totals[key(one)] = totals.get(key(one), 0) + one.bytes
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    def largest_batch(self, budget: int) -> int:
        """The most samples whose peak fits into so many bytes; 0 if not even one does.

        Every moment of backward is a line over the size of the batch, which two sizes determine;
        the peak is the largest of them, and not always the same one's. Raises ValueError if the
        model computes something else for another size, or needs nothing that grows with it.
        """
        room = integer("budget", budget, at_least=1) - self.at_rest
        if len(self.moments) != len(self.other_moments):
            raise ValueError(
                f"{self.other_samples} samples take other operations than {self.samples}: "
                "what a larger batch needs cannot be told from them"
            )
        between = self.samples - self.other_samples
        lines = [(m, m - other) for m, other in zip(self.moments, self.other_moments, strict=True)]
        if any(m > room for m, rise in lines if rise <= 0):
            return 0
        fits = [self.samples + (room - m) * between // rise for m, rise in lines if rise > 0]
        if not fits:
            raise ValueError("nothing that this model keeps grows with the batch")
        return max(0, min(fits))

    def table(self) -> str:
        """The parts, and activations by module and format."""
        parts = _table(f"A training step in {self.policy}, {self.samples} samples", "part", "bytes")
        for name, size in _parts(self).items():
            parts.add_row(name, f"{size:,}")
        held = _table("Held for backward", "module", "operation", "what", "format", "bytes")
        totals: dict[tuple[str, ...], int] = {}
        for *place, size in self.held:
            totals[tuple(place)] = totals.get(tuple(place), 0) + size
        for place, size in totals.items():
            held.add_row(place[0] or "(program)", *place[1:], f"{size:,}")
        return _printed(parts, held)

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        parts = ("weights", "buffers", "masters", "casts", "states", "gradients", "activations")
        totals = ("at_rest", "peak", "carrier_peak", "measured", "by_format", "by_kind")
        names = ("policy", "samples", *parts, *totals)
        held = [one._asdict() for one in self.held]
        return {name: getattr(self, name) for name in names} | {"held": held}

    def to_json(self, **options: Any) -> str:
        """``to_dict`` as JSON; options go to ``json.dumps``."""
        return json.dumps(self.to_dict(), **options)


def memory_report(
    model: nn.Module,
    batch: Sequence[Array],
    policy: PolicyLike = "fp32",
    *,
    loss: Loss | None = None,
    optimizer: Optimizer | str = "adam",
    measure: bool = False,
) -> MemoryReport:
    """The bytes of a training step: of the model, its optimiser, and what the tape holds.

    The forward pass runs, on a copy of the model, with the batch and with the first half of it;
    nothing changes that was given. It runs in the mode that the model is in. Sizes are those of native storage, in which an fp16 value takes
    2 bytes. What the emulation takes is told beside them.

    model: of the zoo, or any Module with a ``loss``. batch: arrays whose first axis counts samples,
        two or more; on the model's device. The batch itself counts where backward reads it.
    policy: one of ``POLICIES``, a ``MemoryPolicy``, or an ``autocast`` region over fp32 weights.
    loss: from the model and the batch's arrays to a loss of one value; None: ``model.loss``.
    optimizer: one of ``OPTIMIZERS``, or an optimiser of this model's parameters, whose class and
        settings count; whether it keeps masters is the policy's to say, unless it rounds
        stochastically, which needs none.
    measure: train for two steps, and see what is really allocated; see ``backend.peak_memory``.

    What is held is what PyTorch keeps, but for these: attention keeps its probabilities, where
    FlashAttention keeps a number for each row; dropout keeps its factors as numbers, PyTorch a
    mask; max pooling its output, PyTorch 8 bytes for each; norms no mean; losses an array or two
    of their own; and the first layer its cast weight, which nobody reads if the input needs no
    gradient. On top of ``peak`` come what a kernel needs while it runs, the fp32 copies of
    gradients that apex makes, and the gaps of an allocator.

    Raises TypeError or ValueError for arguments that are none of these.
    """
    checked = _policy_of(policy)
    batch = _checked_batch(batch)
    loss = _loss_of(model, loss)
    _check_optimizer(model, optimizer)
    samples, half = len(batch[0]), len(batch[0]) // 2
    # Copies: a slice would keep the whole.
    part = tuple(array[:half].copy() for array in batch)
    batch = tuple(array.copy() for array in batch)
    with events.unobserved():
        twin, mover = _twins(model, optimizer, checked)
        whole = _account(twin, checked, loss, batch)
        other = _account(twin, checked, loss, part)
        keeps = [(p.size, name, fmt) for p in mover.params
                 for name, fmt in mover.state_formats(p.fmt).items()]  # fmt: skip
        at_rest = sum(value.data.nbytes for _, value in twin.named_tensors())
        at_rest += sum(size * carrier_of(fmt).itemsize for size, _, fmt in keeps)
        at_rest += sum(array.nbytes for array in batch)
        seen = _measured(model, optimizer, checked, loss, batch) if measure else None
    return MemoryReport(
        policy=checked.name,
        samples=samples,
        weights=sum(native_bytes(p.size, p.fmt) for p in twin.parameters()),
        buffers=sum(native_bytes(value.size, value.fmt) for _, value in twin.named_buffers()),
        masters=sum(native_bytes(size, fmt) for size, name, fmt in keeps if name == "master"),
        states=sum(native_bytes(size, fmt) for size, name, fmt in keeps if name != "master"),
        gradients=whole.native[-1],
        held=whole.held,
        moments=whole.native,
        other_samples=half,
        other_moments=other.native,
        carrier_peak=at_rest + max(whole.carrier),
        measured=seen,
    )


def memory_table(reports: Sequence[MemoryReport], budget: int | None = None) -> str:
    """Reports side by side, and what they take as shares of the first one's bytes.

    reports: one or more. budget: bytes; adds the largest batch that fits. Raises ValueError for no
    reports, or as ``largest_batch``.
    """
    if not reports:
        raise ValueError("reports is empty: there is nothing to compare")
    names = [report.policy for report in reports]
    sizes = _table(f"A training step of {reports[0].samples} samples", "part", *names)
    columns = [_parts(report) for report in reports]
    for name in columns[0]:
        cells = [column[name] for column in columns]
        if any(cells):
            sizes.add_row(name, *map(size_text, cells))
    if reports[0].measured:
        ratios = ((report.measured or 0) / report.carrier_peak for report in reports)
        sizes.add_row("  seen / on paper", *(f"{ratio:.2f}" for ratio in ratios))
    if budget is not None:
        largest = (f"{report.largest_batch(budget):,}" for report in reports)
        sizes.add_row(f"largest batch in {size_text(budget)}", *largest)
    shares = _table(f"Shares of {names[0]}", "part", *names)
    for name, of in _SHARES.items():
        shares.add_row(name, *(f"{of(report) / max(of(reports[0]), 1):.2f}" for report in reports))
    return _printed(sizes, shares)


def size_text(size: float) -> str:
    """Bytes for people: three digits and a unit."""
    for unit in ("B", "KiB", "MiB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.3g} GiB" if size < 999.5 else f"{size:,.0f} GiB"


# --- running it ------------------------------------------------------------------------------------


def _twins(
    model: nn.Module, optimizer: Optimizer | str, policy: MemoryPolicy
) -> tuple[nn.Module, Optimizer]:
    """A copy of the model as the policy wants it, with an optimiser that has not stepped."""
    if isinstance(optimizer, str):
        twin = copy.deepcopy(model)
        mover = OPTIMIZERS[optimizer](twin.parameters())
    else:
        twin, mover = copy.deepcopy((model, optimizer))  # together: it moves the copy's parameters
        mover.state = [{} for _ in mover.params]
    mover.master_weights = policy.masters and mover.rounding != "stochastic"
    twin.to(policy.weights)
    for _, module in twin.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.to(policy.norms)
    if policy.region is None and policy.weights != FP32:
        _cast_ends(twin, policy.weights)
    return twin, mover


def _cast_ends(model: nn.Module, fmt: Format) -> None:
    """Let a model take inputs in a format, and give fp32, whatever it is called with."""
    forward = model.forward

    def cast_forward(*inputs: Any) -> Any:
        output = forward(*(x.to(fmt) if isinstance(x, Tensor) else x for x in inputs))
        return output.to(FP32) if isinstance(output, Tensor) else output

    vars(model)["forward"] = cast_forward


def _account(model: nn.Module, policy: MemoryPolicy, loss: Loss, batch: Sequence[Array]) -> Account:
    with policy.region or autocast(enabled=False):
        root = loss(model, *batch)
    if not isinstance(root, Tensor) or root.size != 1:
        raise TypeError(f"loss must return a Tensor of one value, got {root!r}")
    if not root.requires_grad:
        raise ValueError(
            "the loss does not require a gradient: backward would keep nothing "
            "(no parameter requires one, or this is inside no_grad)"
        )
    return account(root, [value for _, value in model.named_tensors()], policy.operands)


def _measured(
    model: nn.Module,
    optimizer: Optimizer | str,
    policy: MemoryPolicy,
    loss: Loss,
    batch: Sequence[Array],
) -> int:
    """The most that is allocated at a time by a copy of all that a step needs, in two steps."""
    twin, mover = _twins(model, optimizer, policy)  # tables that are made once are not the step's
    train_step(partial(loss, twin, *batch), mover, precision=policy.region)
    del twin, mover
    with peak_memory(next(model.parameters()).device) as peak:
        batch = [array.copy() for array in batch]
        twin, mover = _twins(model, optimizer, policy)
        for _ in range(2):  # the first makes the optimiser's state
            train_step(partial(loss, twin, *batch), mover, precision=policy.region)
        del twin, mover
    return peak()


# --- arguments -------------------------------------------------------------------------------------


def _policy_of(policy: object) -> MemoryPolicy:
    if isinstance(policy, MemoryPolicy):
        return policy
    if isinstance(policy, autocast):
        return MemoryPolicy("autocast", region=policy)
    if not isinstance(policy, str):
        raise TypeError(
            f"policy must be a MemoryPolicy, an autocast or one of {', '.join(POLICIES)}; "
            f"got {policy!r}"
        )
    return POLICIES[one_of("policy", policy, POLICIES)]


def _checked_batch(batch: object) -> tuple[Array, ...]:
    if not isinstance(batch, tuple | list) or not batch:
        raise TypeError(f"batch must be a tuple of arrays, got {batch!r}")
    for position, array in enumerate(batch):
        device_of(array)  # TypeError for what is no array
        if not array.ndim or len(array) != len(batch[0]) or len(array) < 2:
            raise ValueError(
                f"batch[{position}] has shape {array.shape}; allowed are arrays whose first axis "
                "counts samples, two or more, and the same number in all"
            )
    return tuple(batch)


def _loss_of(model: object, loss: object) -> Loss:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a Module, got {model!r}")
    if loss is None:
        if not callable(getattr(model, "loss", None)):
            raise TypeError(f"{type(model).__name__} has no loss; give one: loss(model, *batch)")
        return lambda twin, *batch: twin.loss(*batch)
    if not callable(loss):
        raise TypeError(f"loss must be a function of the model and the batch, got {loss!r}")
    return loss


def _check_optimizer(model: nn.Module, optimizer: object) -> None:
    if isinstance(optimizer, str):
        one_of("optimizer", optimizer, OPTIMIZERS)
        return
    if not isinstance(optimizer, Optimizer):
        allowed = ", ".join(OPTIMIZERS)
        raise TypeError(f"optimizer must be an Optimizer or one of {allowed}; got {optimizer!r}")
    own = {id(p) for p in model.parameters()}
    if any(id(p) not in own for p in optimizer.params):
        raise ValueError("optimizer moves parameters that are not the model's")


# --- in words --------------------------------------------------------------------------------------


def _parts(report: MemoryReport) -> dict[str, int]:
    parts = {
        "weights": report.weights,
        "fp32 masters": report.masters,
        "casts of weights": report.casts,
        "buffers": report.buffers,
        "optimiser": report.states,
        "gradients": report.gradients,
        "activations": report.activations,
        "peak": report.peak,
        "this process, on paper": report.carrier_peak,
    }
    return parts if report.measured is None else parts | {"this process, seen": report.measured}


# What Micikevicius et al., "Mixed Precision Training" (2018), section 3.1, tell of the parts: half
# more for weights, as there are two copies; half for activations; about half in all.
_SHARES: dict[str, Callable[[MemoryReport], int]] = {
    "weights, masters, casts": lambda report: report.weights + report.masters + report.casts,
    "activations": lambda report: report.activations,
    "peak": lambda report: report.peak,
}


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE, title_justify="left", title_style="bold")
    for column in columns:
        left = column in ("part", "module", "operation", "what", "format")
        table.add_column(column, justify="left" if left else "right", no_wrap=left)
    return table


def _printed(*tables: Table) -> str:
    from rich.console import Console

    console = Console(width=120, highlight=False)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    return capture.get()
