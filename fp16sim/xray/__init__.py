"""Instruments that explain what events counted."""

from fp16sim.xray.budget import MemoryReport, memory_table
from fp16sim.xray.diagnose import diagnose
from fp16sim.xray.finding import Finding
from fp16sim.xray.memory import MemoryPolicy, memory_report
from fp16sim.xray.record import Birth, Key, Step
from fp16sim.xray.watch import XRay, watch

__all__ = [
    "Birth",
    "Finding",
    "Key",
    "MemoryPolicy",
    "MemoryReport",
    "Step",
    "XRay",
    "diagnose",
    "memory_report",
    "memory_table",
    "watch",
]
