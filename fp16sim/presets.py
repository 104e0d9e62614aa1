"""Mixed precision by name: all that a setup is, as data, in the words of four libraries.

::

    setup = fs.presets.O2
    setup.prepare(model)                                   # round the parameters
    optimizer = fs.optim.Adam(model.parameters(), 1e-3, **setup.storage())
    scaler = setup.scaler()

    with setup.region():
        loss = F.cross_entropy(model(x), labels)
    scaler.scale(loss).backward()

There are two ways to compute in a low format. With *op lists* (torch.amp, apex's O1) every
operation is told by its kind: ``autocast``. As a *whole* (apex's O2 and O3, Keras, jmp) a model
sees its inputs and weights in the low format, all of it runs in that, and its outputs are cast to
the format that the loss is computed in. Norms are computed in fp32 inside in any case; those but
BatchNorm round their fp32 parameters for use. (apex's O1 has lists of its own; here it is torch's.)

Sources: apex.amp's O0 to O3 (frontend.py, at its last version); keras.mixed_precision and its
LossScaleOptimizer; DeepMind's jmp (policy.py); torch.amp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from fp16sim.arguments import one_of
from fp16sim.autograd import Tensor
from fp16sim.backend import RandomLike
from fp16sim.formats import BF16, FP16, FP32, FP64, Format, FormatLike, format_of
from fp16sim.nn import Module
from fp16sim.nn.layers import NORMS
from fp16sim.nn.module import round_parameter
from fp16sim.optim.optimizer import Optimizer, Storage
from fp16sim.precision import Policy, autocast
from fp16sim.scaling import SCALERS, GradScaler, LossScale

M = TypeVar("M", bound=Module)


@dataclass(frozen=True)
class Preset:
    """A mixed-precision setup. What is not said is as in fp32.

    Formats may be given by name. Raises TypeError or ValueError for fields and combinations that
    cannot be.
    """

    #: what it is called
    name: str
    #: the format of parameters
    parameters: Format = FP32
    #: the format of the parameters of norm layers
    norms: Format = FP32
    #: what is computed in; with op lists, the low format
    compute: Format = FP32
    #: what the model's outputs are cast to; with op lists, the wide format
    output: Format = FP32
    #: whether each operation is told its format by op lists; otherwise the model runs as a whole
    op_lists: bool = False
    #: whether the optimiser keeps fp32 copies of parameters in less
    master_weights: bool = False
    #: how the optimiser rounds a weight it has moved: "ties_to_even" or "stochastic"
    rounding: str = "ties_to_even"
    #: how the loss is scaled, from the first step on; None: not at all
    scale: LossScale | None = None

    def __post_init__(self) -> None:
        for name in ("parameters", "norms", "compute", "output"):
            object.__setattr__(self, name, format_of(getattr(self, name), name))
        for name in ("op_lists", "master_weights"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        one_of("rounding", self.rounding, ("ties_to_even", "stochastic"))
        if not isinstance(self.scale, LossScale | None):
            raise TypeError(f"scale must be a LossScale or None, got {self.scale!r}")
        if self.master_weights and self.rounding == "stochastic":
            raise ValueError(
                "rounding='stochastic' is not allowed with master_weights=True: "
                "updates go to the copy, where small ones are not lost"
            )

    def prepare(self, model: M) -> M:
        """Round the parameters of a model to their formats, in place; returns the model.

        Do it before the optimiser is made, or at least before its first step. A parameter that
        several layers share belongs to the first. Buffers stay in fp32.
        """
        if not isinstance(model, Module):
            raise TypeError(f"model must be a Module, got {model!r}")
        for parameter, fmt in self._formats(model):
            round_parameter(parameter, fmt)
        return model

    def _formats(self, model: Module) -> Iterator[tuple[Tensor, Format]]:
        """Each parameter once, with the format it is to have."""
        seen: set[int] = set()
        for _, module in model.named_modules():
            fmt = self.norms if isinstance(module, NORMS) else self.parameters
            for value in vars(module).values():
                weight = isinstance(value, Tensor) and value.origin.role == "weight"  # or frozen
                if weight and id(value) not in seen:
                    seen.add(id(value))
                    yield value, fmt

    def storage(self, rng: RandomLike = None) -> Storage:
        """The keywords that tell an optimiser how to store weights.

        rng: a seed or a generator, which stochastic rounding needs; not for other presets.
        """
        if self.rounding == "stochastic":
            return {"rounding": self.rounding, "rng": rng}
        if rng is not None:
            raise ValueError(f"rng={rng!r} is not allowed; {self.name} rounds without chance")
        return {"master_weights": self.master_weights}

    def scaler(self) -> GradScaler:
        """A new loss scaler; a disabled one if the loss is not scaled."""
        return GradScaler.preset(self.scale or LossScale(), enabled=self.scale is not None)

    def region(self) -> autocast:
        """What the loss is computed in: a new region, for one step or for all."""
        if self.op_lists:
            return autocast(self.compute, wide=self.output)
        return autocast.of(Policy(self.compute, self.output, whole=True))

    def prepare_training(self, model: Module, optimizer: Optimizer, rng: RandomLike = None) -> None:
        """Prepare a model whose optimiser is made already, and tell that how to store weights.

        Raises RuntimeError if the optimiser has stepped.
        """
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be an Optimizer, got {optimizer!r}")
        optimizer.store_in(**self.storage(rng))
        self.prepare(model)

    @property
    def policy(self) -> str:
        """The setup's formats as jmp writes them."""
        formats = {"p": self.parameters, "c": self.compute, "o": self.output}
        return ",".join(f"{letter}={_JMP.get(fmt, fmt)}" for letter, fmt in formats.items())


#: how jmp abbreviates formats
_JMP = {FP16: "f16", BF16: "bf16", FP32: "f32", FP64: "f64"}
# jmp's names; "half" is fp16 there unless it runs on a TPU.
_JMP_NAMES = {
    "f16": FP16, "float16": FP16, "half": FP16, "bf16": BF16, "bfloat16": BF16,
    "f32": FP32, "float32": FP32, "full": FP32, "f64": FP64, "float64": FP64,
}  # fmt: skip

O0 = Preset("O0")
O1 = Preset("O1", compute=FP16, op_lists=True, scale=SCALERS["apex"])
O2 = Preset("O2", parameters=FP16, compute=FP16, master_weights=True, scale=SCALERS["apex"])
O3 = Preset("O3", parameters=FP16, norms=FP16, compute=FP16)
amp = Preset("amp", compute=FP16, op_lists=True, scale=SCALERS["torch"])
amp_bf16 = Preset("amp_bf16", compute=BF16, op_lists=True)
keras_mixed_float16 = Preset("keras_mixed_float16", compute=FP16, scale=SCALERS["keras"])
keras_mixed_bfloat16 = Preset("keras_mixed_bfloat16", compute=BF16)

#: the presets that have a name
PRESETS = {
    preset.name: preset
    for preset in (O0, O1, O2, O3, amp, amp_bf16, keras_mixed_float16, keras_mixed_bfloat16)
}


def pure(fmt: FormatLike, *, stochastic: bool = False) -> Preset:
    """Everything in one format: parameters, norms, activations, loss. No copies, no loss scale.

    stochastic: round moved weights up or down by chance, which lets small updates have their
        effect in the mean, in place of fp32 copies; ``storage`` needs an rng then.
    """
    fmt = format_of(fmt)
    if not isinstance(stochastic, bool):
        raise TypeError(f"stochastic must be True or False, got {stochastic!r}")
    rounding = "stochastic" if stochastic else "ties_to_even"
    name = f"pure {fmt}{', stochastic' if stochastic else ''}"
    return Preset(name, fmt, fmt, fmt, fmt, rounding=rounding)


def jmp(policy: str, scale: LossScale | None = None) -> Preset:
    """The policy that ``jmp.get_policy`` makes of a string, as "p=f32,c=f16,o=f32".

    p, c, o (or params, compute, output): the formats of parameters, of what is computed in, and of
    outputs; what is left out is f32 for p, p for c, and c for o. A format alone is all three.
    Formats: f16, float16, half (as on a GPU), bf16, bfloat16, f32, float32, full, f64, float64.
    scale: jmp leaves loss scaling to its user; None: none.

    Raises ValueError for other strings, TypeError for anything else.
    """
    if not isinstance(policy, str):
        raise TypeError(f"policy must be a string, got {policy!r}")
    if "=" not in policy:
        fmt = _jmp_format(policy.strip(), policy)
        return Preset(f"jmp {policy}", fmt, fmt, fmt, fmt, scale=scale)
    given: dict[str, Format] = {}
    for part in policy.split(","):
        key, _, fmt_name = (piece.strip() for piece in part.partition("="))
        letter = {"params": "p", "compute": "c", "output": "o"}.get(key, key)
        if letter not in ("p", "c", "o") or letter in given:
            raise ValueError(
                f"policy={policy!r} has {part.strip()!r}; allowed are p=, c= and o=, once each"
            )
        given[letter] = _jmp_format(fmt_name, policy)
    parameters = given.get("p", FP32)
    compute = given.get("c", parameters)
    output = given.get("o", compute)
    return Preset(f"jmp {policy}", parameters, parameters, compute, output, scale=scale)


def _jmp_format(name: str, policy: str) -> Format:
    if name not in _JMP_NAMES:
        allowed = ", ".join(_JMP_NAMES)
        raise ValueError(f"policy={policy!r} has the format {name!r}; allowed are {allowed}")
    return _JMP_NAMES[name]


class Row(NamedTuple):
    """A preset, and how other libraries say the same; empty if they cannot."""

    name: str
    parameters: str
    compute: str
    loss_scale: str
    pytorch: str
    keras: str
    jmp: str


def describe() -> list[Row]:
    """All named presets, ``pure`` in fp16 and bf16, and a policy of jmp's."""
    others = (pure("fp16"), pure("bf16", stochastic=True), jmp("p=f32,c=f16,o=f32"))
    return [_row(preset) for preset in (*PRESETS.values(), *others)]


def _row(preset: Preset) -> Row:
    parameters = str(preset.parameters)
    if preset.norms != preset.parameters:
        parameters += f", norms {preset.norms}"
    if preset.master_weights:
        parameters += ", fp32 copies"
    if preset.rounding == "stochastic":
        parameters += ", rounded stochastically"
    compute = f"{preset.compute}, by op lists" if preset.op_lists else f"{preset.compute}, whole"
    scale = "none"
    if preset.scale is not None:
        kind = "dynamic" if preset.scale.dynamic else "fixed"
        scale = f"{kind}, from {preset.scale.scale:g}"
    return Row(preset.name, parameters, compute, scale, *_elsewhere(preset))


def _elsewhere(preset: Preset) -> tuple[str, str, str]:
    """What PyTorch, Keras and jmp call it, where they have it."""
    dtype = _TORCH.get(preset.compute, "")
    scaler = " + GradScaler()" if preset.scale is not None else ""
    if preset.op_lists:
        return f'autocast("cuda", torch.{dtype}){scaler}', "", ""
    if preset.norms != preset.parameters or preset.rounding == "stochastic":
        return "", "", ""  # apex.amp had O2
    pytorch = keras = ""
    if preset.parameters == preset.compute:
        pytorch = "nothing" if preset.compute == FP32 else f"model.to(torch.{dtype})"
        pytorch += ", outputs.float()" if preset.output != preset.compute else ""
    if preset.output == FP32:  # which Keras casts predictions to before a loss
        mixed = "" if preset.parameters == preset.compute else "mixed_"
        keras = f'set_dtype_policy("{mixed}{dtype}")'
    return pytorch, keras, preset.policy


_TORCH = {FP16: "float16", BF16: "bfloat16", FP32: "float32", FP64: "float64"}
