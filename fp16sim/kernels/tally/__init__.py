"""What became of values that were rounded, counted by two executors with the same numbers.

``cpu`` is array code for NumPy and CuPy, ``compiled`` the same in one pass through Numba.
"""
