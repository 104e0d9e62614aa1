"""Data sets that need no download: real ones that packages ship, and generated ones."""

from fp16sim.data.digits import Digits, batches, digits

__all__ = ["Digits", "batches", "digits"]
