"""``memory_report``: a training step on a copy of the model, and the bytes that it takes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

from fp16sim import events, nn, optim, presets
from fp16sim.arguments import one_of
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, carrier_of, device_of, peak_memory
from fp16sim.formats import BF16, FP32, Format
from fp16sim.nn.layers import NORMS
from fp16sim.optim import Optimizer
from fp16sim.precision import autocast
from fp16sim.presets import Preset
from fp16sim.recipes import CurrentScaling
from fp16sim.training import train_step
from fp16sim.xray.budget import MemoryReport
from fp16sim.xray.holdings import Account, account, native_bytes


@dataclass(frozen=True)
class MemoryPolicy:
    """In which formats a model is kept and trained: a ``presets.Preset``, as far as bytes go."""

    name: str
    #: of all parameters but those of norm layers
    weights: Format = FP32
    #: of the parameters of norm layers
    norms: Format = FP32
    #: what the forward pass runs in; None: in the formats of weights and inputs
    region: autocast | None = None
    #: whether the optimiser keeps an fp32 copy of parameters in less
    masters: bool = False

    @classmethod
    def of(cls, preset: Preset) -> MemoryPolicy:
        """What a preset says."""
        formats = preset.parameters, preset.norms
        return cls(preset.name, *formats, preset.region(), preset.master_weights)


#: by name: PyTorch's fp32 and its autocast to fp16 (apex's O1) and to bf16; apex's O2 (fp16
#: weights, fp32 norms, fp32 masters) and O3 (all fp16); bf16 with fp8 operands, as Transformer
#: Engine keeps them
POLICIES: Mapping[str, MemoryPolicy] = MappingProxyType(
    {
        "fp32": MemoryPolicy("fp32"),
        "amp": MemoryPolicy.of(presets.amp),
        "O2": MemoryPolicy.of(presets.O2),
        "O3": MemoryPolicy.of(presets.O3),
        "amp_bf16": MemoryPolicy.of(presets.amp_bf16),
        "fp8": MemoryPolicy("fp8", region=autocast(BF16, recipe=CurrentScaling())),
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

PolicyLike: TypeAlias = MemoryPolicy | Preset | autocast | str
#: from a model and a batch's arrays to a loss of one value
Loss: TypeAlias = Callable[..., Tensor]


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
    nothing changes that was given. It runs in the mode that the model is in. Sizes are those of
    native storage, in which an fp16 value takes 2 bytes. What the emulation takes is told beside
    them.

    model: of the zoo, or any Module with a ``loss``. batch: arrays whose first axis counts samples,
        two or more; on the model's device. The batch itself counts where backward reads it.
    policy: one of ``POLICIES``, a preset, a ``MemoryPolicy``, or an ``autocast`` region over fp32
        weights.
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
    with events.unobserved(), _kept(checked.region):
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


# --- running it ----------------------------------------------------------------------------------


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
        if isinstance(module, NORMS):
            module.to(policy.norms)
    return twin, mover


@contextmanager
def _kept(region: autocast | None) -> Iterator[None]:
    """Nothing that is done in the block moves the scales of the region's recipe."""
    recipe = None if region is None else region.recipe
    state = {} if recipe is None else recipe.state_dict()
    try:
        yield
    finally:
        if recipe is not None:
            recipe.load_state_dict(state)


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
    return account(root, [value for _, value in model.named_tensors()])


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


# --- arguments -----------------------------------------------------------------------------------


def _policy_of(policy: object) -> MemoryPolicy:
    if isinstance(policy, MemoryPolicy):
        return policy
    if isinstance(policy, Preset):
        return MemoryPolicy.of(policy)
    if isinstance(policy, autocast):
        return MemoryPolicy("autocast", region=policy)
    if not isinstance(policy, str):
        raise TypeError(
            "policy must be a MemoryPolicy, a Preset, an autocast or one of "
            f"{', '.join(POLICIES)}; got {policy!r}"
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
