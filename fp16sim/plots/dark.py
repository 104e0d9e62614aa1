"""Figures for dark pages: the same artists, recoloured while they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.collections import Collection
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation, Text

#: what white and black become: contrast 15 to 1
PAPER, INK = 0.08, 0.92

# What an artist's colours are called, as in ``get_color`` and ``set_color``.
_COLOURS: dict[type[Artist], tuple[str, ...]] = {
    Line2D: ("color", "markerfacecolor", "markeredgecolor"),
    Patch: ("facecolor", "edgecolor"),
    Collection: ("facecolor", "edgecolor"),
    Text: ("color",),
}


@contextmanager
def darkened(figure: Figure) -> Iterator[None]:
    """Inside the block greys are turned round, black on white to white on black.

    Colours stay: Okabe and Ito's stand out from either ground. So do images and colour maps.
    """
    found = list(_colours(figure))  # all of them first: some are "as the line's"
    for change, old in found:
        change(_turned(old))
    _recolour_ticks(figure, str(INK))
    try:
        yield
    finally:
        for change, old in found:
            change(old)
        _recolour_ticks(figure, "black")


def _recolour_ticks(figure: Figure, color: str) -> None:
    """Ticks that are not shown now: axes keep some, and drawing may show them."""
    for axes in figure.axes:
        axes.tick_params(which="both", color=color, labelcolor=color)


def _colours(figure: Figure) -> Iterator[tuple[Callable[[Any], None], Any]]:
    """What sets a colour of an artist, and what it is."""
    for artist in _artists(figure):
        if isinstance(artist, Collection) and artist.get_array() is not None:
            continue  # a colour map's
        for name in next((n for kind, n in _COLOURS.items() if isinstance(artist, kind)), ()):
            old = getattr(artist, f"get_{name}")()
            if not (isinstance(old, str) and old == "none"):
                yield getattr(artist, f"set_{name}"), old


def _artists(figure: Figure) -> Iterator[Artist]:
    """All, and those that hide inside texts."""
    for artist in figure.findobj():
        yield artist
        box = artist.get_bbox_patch() if isinstance(artist, Text) else None
        if box is not None:
            yield box
        if isinstance(artist, Annotation) and artist.arrow_patch is not None:
            yield artist.arrow_patch


def _turned(color: Any) -> Any:
    """Greys with their lightness turned round; other colours as they are."""
    rgba = to_rgba_array(color)
    grey = np.ptp(rgba[:, :3], axis=1) == 0
    rgba[grey, :3] = INK + (PAPER - INK) * rgba[grey, :3]
    return rgba if isinstance(color, np.ndarray) and color.ndim == 2 else tuple(rgba[0])
