"""Dataclasses as plain JSON values and back, every value checked against its declared type."""

from __future__ import annotations

import math
import types
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}  # JSON has no such numbers
_NAMES = {str: "a string", int: "an integer", bool: "true or false"}


def to_plain(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists, NaN and infinities as "nan", "inf", "-inf"."""
    if is_dataclass(value):
        return {one.name: to_plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: to_plain(one) for name, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def from_plain(kind: type[T], value: object, where: str = "") -> T:
    """What ``to_plain`` made a value of this type into. Types: dataclasses, str, int, float, bool,
    ``X | None``, ``tuple[X, ...]``, ``dict[str, X]``.

    Raises ValueError, naming the place in the document, for anything that is not of its type.
    """
    result: T = _read(kind, value, where)
    return result


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (one for one in arguments if one is not type(None))
        return None if value is None else _read(inner, value, where)
    if origin is tuple:
        _check(isinstance(value, list), where, "a list", value)
        return tuple(_read(arguments[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin is dict:
        _check(isinstance(value, dict), where, "an object", value)
        return {name: _read(arguments[1], one, f"{where}.{name}") for name, one in value.items()}
    if is_dataclass(kind):
        return _read_fields(kind, value, where)
    if kind is float:
        if isinstance(value, str) and value in _NOT_FINITE:
            return _NOT_FINITE[value]
        _check(type(value) in (int, float), where, "a number", value)
        return float(value)
    _check(type(value) is kind, where, _NAMES[kind], value)
    return value


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    _check(isinstance(value, dict), where, "an object", value)
    hints = get_type_hints(kind)
    names = [one.name for one in fields(kind)]
    missing, unknown = set(names) - value.keys(), value.keys() - set(names)
    if missing or unknown:
        raise ValueError(
            f"{where or 'the document'} lacks {sorted(missing)} and has the unknown "
            f"{sorted(unknown)}; a {kind.__name__} has {', '.join(names)}"
        )
    dot = "." if where else ""
    made = {name: _read(hints[name], value[name], f"{where}{dot}{name}") for name in names}
    try:
        return kind(**made)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _check(right: bool, where: str, wanted: str, value: object) -> None:
    if not right:
        shown = repr(value)
        shown = shown if len(shown) < 60 else shown[:57] + "..."
        raise ValueError(f"{where or 'the document'} must be {wanted}, got {shown}")
