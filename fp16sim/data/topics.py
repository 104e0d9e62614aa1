"""English about Python, to learn letter by letter: the help topics that Python ships."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fp16sim.arguments import integer
from fp16sim.backend import Array, RandomLike, generator

#: the text is cut here, so that a step costs the same whatever the Python
CHARACTERS = 400_000


class Text(NamedTuple):
    """A text as numbers: the id of a character is its place in the alphabet."""

    train: Array  #: (360000,) int64, from the beginning
    validation: Array  #: (40000,) int64, the rest
    alphabet: str  #: every character that occurs, in order of code points

    @property
    def digest(self) -> str:
        """12 hex digits of the text's SHA-256: results compare only where they are equal."""
        whole = self.decode(np.concatenate([self.train, self.validation]))
        return hashlib.sha256(whole.encode("ascii")).hexdigest()[:12]

    def encode(self, text: str) -> Array:
        """Ids (len(text),) int64; ValueError for a character that the alphabet lacks."""
        ids = {character: i for i, character in enumerate(self.alphabet)}
        for place, character in enumerate(text):
            if character not in ids:
                raise ValueError(
                    f"text[{place}]={character!r} is not in the alphabet {self.alphabet!r}"
                )
        return np.array([ids[character] for character in text], dtype=np.int64)

    def decode(self, ids: Array) -> str:
        """The text of ids (n,); ValueError or TypeError for what :meth:`encode` never returns."""
        ids = _checked(ids)
        for place in np.flatnonzero((ids < 0) | (ids >= len(self.alphabet)))[:1]:
            raise ValueError(
                f"ids[{place}]={ids[place]} is not allowed; "
                f"it must be from 0 to {len(self.alphabet) - 1}"
            )
        return "".join(np.array(list(self.alphabet))[ids]) if len(ids) else ""


def text() -> Text:
    """The text of ``pydoc_data.topics``, which ``help("for")`` shows, in ASCII.

    Topics in alphabetical order, accents and other marks dropped (NFKD), cut to 400 000
    characters; the last 10% are for validation. The Python documentation changes, and so the text
    depends on the version of Python: say :attr:`Text.digest` next to what you measured.
    """
    from pydoc_data.topics import topics  # half a megabyte, only for who wants it

    joined = "\n\n".join(topics[name] for name in sorted(topics))
    folded = unicodedata.normalize("NFKD", joined).encode("ascii", "ignore").decode("ascii")
    whole = folded[:CHARACTERS]
    alphabet = "".join(sorted(set(whole)))
    codes = np.frombuffer(whole.encode("ascii"), dtype=np.uint8)
    ids = np.searchsorted(np.frombuffer(alphabet.encode("ascii"), dtype=np.uint8), codes)
    split = len(ids) - len(ids) // 10
    return Text(ids[:split].astype(np.int64), ids[split:].astype(np.int64), alphabet)


def windows(
    ids: Array, length: int, batch_size: int, steps: int, rng: RandomLike = None
) -> Iterator[tuple[Array, Array]]:
    """Pairs (inputs, targets), each (batch_size, length) int64, ``steps`` times.

    Windows begin anywhere, with equal probability. A target is the id that follows its input.
    Raises ValueError, at once, for a length outside 1..len(ids) - 1, a batch size below 1 or
    negative steps; TypeError for other than integers.
    """
    ids = _checked(ids)
    if len(ids) < 2:
        raise ValueError(f"ids of length {len(ids)} are not allowed; there must be at least 2")
    length = integer("length", length, at_least=1, at_most=len(ids) - 1)
    batch_size = integer("batch_size", batch_size, at_least=1)
    steps = integer("steps", steps, at_least=0)
    return _windows(ids, length, batch_size, steps, generator(rng))


def _windows(
    ids: Array, length: int, batch_size: int, steps: int, random: np.random.Generator
) -> Iterator[tuple[Array, Array]]:
    places = np.arange(length + 1)
    for _ in range(steps):
        starts = random.integers(len(ids) - length, size=batch_size)
        piece = ids[starts[:, None] + places].astype(np.int64)
        yield piece[:, :-1], piece[:, 1:]


def _checked(ids: Array) -> Array:
    """Ids as an array (n,); TypeError unless integers, ValueError unless of one dimension."""
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(f"ids of shape {ids.shape} are not allowed; the shape must be (n,)")
    if len(ids) and ids.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, got {ids.dtype}")
    return ids
