"""How matrix units add: one hardware step, repeated along k.

``steps`` says what a step is, ``cpu`` does it in NumPy, ``compiled`` and ``gpu`` in one loop.
"""
