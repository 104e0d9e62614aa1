"""Files that hold a training run: written whole or not at all, and refused if a bit is wrong.

A checkpoint is one safetensors file (https://github.com/huggingface/safetensors): arrays under
their dotted paths, so that other tools read them, and in the metadata, under "fp16sim", one JSON
document: the SHA-256 of the file, the number of this layout, who wrote it, and the state with
names in place of arrays. Nothing is unpickled, so a file of a stranger can be opened.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from fp16sim.backend import Array, namespace_of
from fp16sim.files import write_whole

#: dict with string keys, list, tuple (a list afterwards), str, int, float, bool, None, NumPy array
State: TypeAlias = Any

#: what arrays may hold, in native byte order
DTYPES = tuple(
    map(np.dtype, ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"))
)

#: of the JSON document; a file with a higher number is refused
LAYOUT = 1

_DEEPEST = 100  # levels of nesting: far from the recursion limits of Python and JSON
_LONGEST_HEADER = 100_000_000  # bytes; safetensors refuses to read more
_DAMAGED = "damaged or cut short (use another copy or an older checkpoint)"
_BLANK = b"0" * 64  # stands where the SHA-256 goes while it is computed
_WRONG_JSON = (ValueError, TypeError, AttributeError, RecursionError)  # none, or of other types


class CheckpointError(ValueError):
    """A file that is no checkpoint, or a damaged one, or one from a newer version."""


def save(path: str | os.PathLike[str], state: State) -> None:
    """Write a state to a file, so that the path holds the old file or the new one, always whole.

    path: of the file; its directory must exist. state: nested dicts (string keys), lists, tuples
    (lists, when loaded), str, int of any size, float, bool, None and NumPy arrays of ``DTYPES``.

    Written beside the path under a name of its own, forced to disk, then renamed. Only a process
    that is killed leaves that file (".fp16sim-....tmp") behind, and nothing ever reads it.

    Raises TypeError, naming the path in the state, for anything else in it, before anything is
    written: no subclasses and NumPy scalars either, since they would come back as another type;
    ValueError for more than 100 levels; OSError, naming the file, if it cannot be written.
    """
    target = _checked(path).resolve()  # a link stays a link
    content = _file_of(state)
    if target.is_dir():
        raise IsADirectoryError(f"path={os.fspath(path)!r} is a directory; name a file in it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path={os.fspath(path)!r}: no directory {target.parent}; make it")
    try:
        write_whole(target, content)
    except OSError as error:
        message = f"cannot write the checkpoint {target}: {error.strerror or error}"
        raise OSError(error.errno, message) from error


def load(path: str | os.PathLike[str]) -> State:
    """The state that ``save`` wrote: the same structure, types and bits; arrays are new.

    Raises FileNotFoundError for a missing file; CheckpointError, which is a ValueError, for one
    that is empty, cut short, changed in any bit, not of this package or of a newer layout.
    """
    raw = _checked(path).read_bytes()
    try:
        document = _document_of(raw)
        arrays = safetensors.numpy.load(raw)
        return _decoded(document["state"], {name: _owned(a) for name, a in arrays.items()})
    except CheckpointError as error:
        raise CheckpointError(f"cannot load {os.fspath(path)}: {error}") from None
    except (SafetensorError, struct.error, LookupError, *_WRONG_JSON) as error:
        # The checksum is right, so this was made by somebody else, not damaged.
        raise CheckpointError(
            f"cannot load {os.fspath(path)}: fp16sim did not write it ({error!r})"
        ) from error


def _checked(path: object) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a string or a pathlib.Path, got {path!r}")
    return Path(path)


# --- the file as bytes ---------------------------------------------------------------------------


def _file_of(state: State) -> bytes:
    version = sys.modules["fp16sim"].__version__  # an import would go up the layers
    arrays: dict[str, Array] = {}
    encoded = _encoded(state, (), arrays)
    document = {
        "sha256": _BLANK.decode(),
        "layout": LAYOUT,
        "fp16sim": version,
        "state": encoded,
    }
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    raw = safetensors.numpy.save(arrays, {"fp16sim": text})
    if int.from_bytes(raw[:8], "little") > _LONGEST_HEADER:
        raise ValueError("state has too much outside of arrays; make arrays of its long lists")
    # The metadata comes first in the file, and the checksum first in the document.
    return raw.replace(_BLANK, sha256(raw).hexdigest().encode(), 1)


def _document_of(raw: bytes) -> dict[str, Any]:
    """The JSON document of a file that is as it was written; CheckpointError for any other."""
    if not raw:
        raise CheckpointError("it is empty; use an older checkpoint")
    try:
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")].decode())
        text = header.get("__metadata__", {}).get("fp16sim")
        document = {} if text is None else json.loads(text)
        layout, checksum = document.get("layout"), str(document.get("sha256")).encode()
    except _WRONG_JSON:
        raise CheckpointError(f"it is {_DAMAGED}, or no checkpoint at all") from None
    if text is None:
        raise CheckpointError(
            "it is a safetensors file, but not a checkpoint: its metadata has no entry 'fp16sim'; "
            "read its arrays with the package safetensors"
        )
    if type(layout) is int and layout > LAYOUT:  # before the checksum, which may be another there
        raise CheckpointError(
            f"it was written by fp16sim {document.get('fp16sim')} in layout {layout}, and this "
            f"version reads up to {LAYOUT}; upgrade fp16sim"
        )
    if sha256(raw.replace(checksum, _BLANK, 1)).hexdigest().encode() != checksum:
        raise CheckpointError(f"it is {_DAMAGED}: its checksum is wrong")
    if type(layout) is not int or layout < 1:
        raise CheckpointError(f"fp16sim did not write it: layout={layout!r}")
    return dict(document)


def _owned(array: Array) -> Array:
    return array if array.flags.writeable else array.copy()


# --- the state as JSON ---------------------------------------------------------------------------
# A JSON object is always one name and one value, which say what stands for what: a dict is
# {"dict": {...}}, so nothing in a state can be mistaken for a reference to an array.


def _encoded(value: State, path: tuple[str, ...], arrays: dict[str, Array]) -> Any:
    """A value as JSON; its arrays are put into ``arrays``."""
    if len(path) > _DEEPEST:
        raise ValueError(f"{_named(path[:4])}... is more than {_DEEPEST} levels deep, or in itself")
    kind = type(value)  # not isinstance: a subclass would come back as another type
    if kind is dict:
        for key in value:
            if type(key) is not str or not _is_text(key):
                raise TypeError(f"{_named(path)} has the key {key!r}; allowed are plain strings")
        return {"dict": {k: _encoded(v, (*path, k), arrays) for k, v in value.items()}}
    if kind is list or kind is tuple:
        return [_encoded(v, (*path, str(i)), arrays) for i, v in enumerate(value)]
    if value is None or kind is bool or (kind is str and _is_text(value)):
        return value
    if kind is int:
        return value if abs(value) < 2**63 else {"int": hex(value)}  # Python limits long decimals
    if kind is float:
        return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
    if kind is np.ndarray and value.dtype in DTYPES:
        name = _free_name(".".join(path), arrays)
        arrays[name] = np.asarray(value, order="C")
        return {"array": name}
    raise TypeError(f"{_named(path)} {_complaint(value)}")


def _decoded(value: Any, arrays: dict[str, Array]) -> State:
    """The reverse of ``_encoded``; raises some error for JSON that it did not make."""
    if isinstance(value, list):
        return [_decoded(one, arrays) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "dict":
            return {key: _decoded(one, arrays) for key, one in content.items()}
        case "array":
            return arrays[content]
        case "float":
            return struct.unpack(">d", bytes.fromhex(content))[0]
        case "int":
            return int(content, 16)
    raise ValueError(f"unknown entry {kind!r}")


def _named(path: tuple[str, ...]) -> str:
    return ".".join(("state", *path))


def _is_text(text: str) -> bool:
    """Whether it has no halves of surrogate pairs, which would not survive."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _free_name(name: str, arrays: dict[str, Array]) -> str:
    """The name, or if it is taken ("a.b" beside "a" with "b" in it) the name with marks."""
    while name in arrays or name == "__metadata__":  # that one is safetensors' own
        name += "'"
    return name


def _complaint(value: object) -> str:
    with contextlib.suppress(TypeError):  # no array
        if namespace_of(value) is not np:
            return "is an array on the GPU; copy it to the host first, with .get()"
    if type(value) is np.ndarray:
        return f"has dtype {value.dtype}; allowed are {', '.join(map(str, DTYPES))}"
    if type(value) is str:
        return f"is {value!r}, which is no valid Unicode"
    return (
        f"is of type {type(value).__name__}; allowed are dict, list, tuple, str, int, float, bool, "
        "None and np.ndarray, and no subclasses of them"
    )
