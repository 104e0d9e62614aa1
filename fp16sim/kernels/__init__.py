"""Rounding loops: one meaning (``reference``), several executors with identical bits (``cpu``)."""
