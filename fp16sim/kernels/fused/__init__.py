"""Kernels for networks that run natively on a GPU: what primitives mean, on stored fp16 and bf16.

Arithmetic is in float, and each result is rounded once, to nearest even, when it is stored. The
texts are CUDA C in plain Python strings, a file for each family (``elementwise``, ``rows``,
``norms``, ``sums``, ``windows``, ``steps``) on top of ``source``, and need no CuPy; ``gpu``,
``normalise``, ``attention`` and ``updates`` launch them.
"""
