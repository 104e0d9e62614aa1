"""Instruments that explain what events counted."""

from fp16sim.xray.watch import Key, XRay, watch

__all__ = ["Key", "XRay", "watch"]
