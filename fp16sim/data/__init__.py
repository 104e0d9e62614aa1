"""Data sets that need no download: real ones that packages ship, and generated ones."""

from fp16sim.data.digits import Digits, batches, digits
from fp16sim.data.phantom import Phantoms, phantoms
from fp16sim.data.road import Scenes, scenes
from fp16sim.data.topics import Text, text, windows

__all__ = [
    "Digits",
    "Phantoms",
    "Scenes",
    "Text",
    "batches",
    "digits",
    "phantoms",
    "scenes",
    "text",
    "windows",
]
