"""Measures: seconds, joules, bytes and losses, on the machine that it runs on.

*events tells, counts counts, xray explains, bench measures.* What is measured ends in a ``Record``,
a JSON file that says on what, with what and how; figures are drawn from it alone.
"""

from fp16sim.bench.clock import Timing, time_call
from fp16sim.bench.energy import Energy, energy_of
from fp16sim.bench.plan import Plan
from fp16sim.bench.record import Record, RecordError

__all__ = ["Energy", "Plan", "Record", "RecordError", "Timing", "energy_of", "time_call"]
