"""What an optimiser saves, and the checks before it continues from that."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from fp16sim.arguments import integer
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, carrier_of, namespace_of
from fp16sim.formats import FP32

if TYPE_CHECKING:
    from fp16sim.optim.optimizer import Optimizer


def save(optimizer: Optimizer) -> dict[str, Any]:
    """See ``Optimizer.state_dict``."""
    settings = {name: getattr(optimizer, name) for name in optimizer._settings}
    saved: dict[str, Any] = {
        "settings": _identity(optimizer) | settings,
        "state": [
            {name: x if name == "step" else x.copy() for name, x in state.items()}
            for state in optimizer.state
        ],
    }
    if optimizer.rng is not None:
        saved["rng"] = plain(optimizer.rng.bit_generator.state)
    return saved


def load(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """See ``Optimizer.load_state_dict``."""
    entries = {"settings", "state", "rng"} if optimizer.rng is not None else {"settings", "state"}
    check_entries("saved", saved, entries)
    settings = _checked_settings(optimizer, saved["settings"])
    state = _checked_state(optimizer, saved["state"])
    if optimizer.rng is not None:
        _check_random_state(optimizer.rng, saved["rng"])
    before = {name: getattr(optimizer, name) for name in settings}
    try:
        vars(optimizer).update(settings)
        optimizer._check_settings()
    except (TypeError, ValueError):
        vars(optimizer).update(before)
        raise
    optimizer.state = state
    if optimizer.rng is not None:
        optimizer.rng.bit_generator.state = deepcopy(saved["rng"])


def check_entries(name: str, value: object, entries: set[str]) -> None:
    """Raise unless the value is a dict with just these entries."""
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be a dict, got {type(value).__name__}")
    if set(value) != entries:
        allowed = ", ".join(sorted(entries)) or "none"
        raise ValueError(
            f"{name} has the entries {', '.join(sorted(map(str, value))) or 'none'}; "
            f"it must have {allowed}"
        )


def plain(value: Any) -> Any:
    """The state of a bit generator with lists for arrays and Python's integers for NumPy's."""
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _identity(optimizer: Optimizer) -> dict[str, Any]:
    """What must be the same where a state is loaded."""
    fmt = optimizer.state_fmt
    return {
        "class": type(optimizer).__name__,
        "master_weights": optimizer.master_weights,
        "state_fmt": None if fmt is None else fmt.name,
        "rounding": optimizer.rounding,
    }


def _checked_settings(optimizer: Optimizer, settings: Any) -> dict[str, Any]:
    identity = _identity(optimizer)
    check_entries("saved['settings']", settings, {*identity, *optimizer._settings})
    for name, own in identity.items():
        if settings[name] != own:
            raise ValueError(
                f"saved['settings'][{name!r}] is {settings[name]!r}; this optimiser's is {own!r}"
            )
    return {name: settings[name] for name in optimizer._settings}


def _checked_state(optimizer: Optimizer, saved: Any) -> list[dict[str, Any]]:
    if not isinstance(saved, list | tuple):
        raise TypeError(f"saved['state'] must be a list, got {type(saved).__name__}")
    if len(saved) != len(optimizer.params):
        raise ValueError(
            f"saved['state'] is of {len(saved)} parameters; this optimiser has "
            f"{len(optimizer.params)}"
        )
    return [
        _checked_entry(optimizer, p, f"saved['state'][{position}]", state)
        for position, (p, state) in enumerate(zip(optimizer.params, saved, strict=True))
    ]


def _checked_entry(optimizer: Optimizer, p: Tensor, where: str, saved: Any) -> dict[str, Any]:
    """One parameter's state: all that a step makes, or nothing, and copies of it."""
    if not isinstance(saved, dict):
        raise TypeError(f"{where} must be a dict, got {type(saved).__name__}")
    if not saved:
        return {}
    wanted = {"master"} if optimizer._keeps_master(p.fmt) else set()
    if wanted != set(saved):  # SGD that had no momentum yet has only a master copy
        check_entries(where, saved, wanted | set(optimizer._state_names))
    state: dict[str, Any] = {}
    for name, value in saved.items():
        label = f"{where}[{name!r}]"
        if name == "step":
            state[name] = integer(label, value, at_least=1)
        else:
            fmt = FP32 if name == "master" else optimizer._moment_format(p.fmt)
            state[name] = _checked_copy(label, value, p, carrier_of(fmt))
    return state


def _checked_copy(name: str, value: Any, p: Tensor, dtype: np.dtype[Any]) -> Array:
    """An array of the parameter's shape, where the parameter is."""
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        raise TypeError(f"{name} must be an array, got {type(value).__name__}")
    if value.shape != p.data.shape or value.dtype != dtype:
        raise ValueError(
            f"{name} is {value.dtype} of shape {value.shape}; it must be {dtype} of shape "
            f"{p.data.shape}"
        )
    copied: Array = namespace_of(p.data).array(value, order="C")
    return copied


def _check_random_state(rng: np.random.Generator, state: Any) -> None:
    """Try it on another generator of the kind: one that fails might be left halfway."""
    kind = type(rng.bit_generator)
    try:
        kind().state = deepcopy(state)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise ValueError(f"saved['rng'] is not a state of {kind.__name__}: {error}") from None
