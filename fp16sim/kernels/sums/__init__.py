"""Sums and sums of products in a chosen order, rounded after every step.

``orders`` says what the orders are, on any arithmetic; ``cpu`` is an arithmetic in plain NumPy,
``compiled`` and ``gpu`` do the same in one loop. ``exact`` rounds once, at the end.
"""
