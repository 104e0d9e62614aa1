"""The fused kernels on the GPU: what the primitives give; the checks are those of the host."""

import pytest
from fused_checks import CHECKS, DTYPES, Lab, run


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CHECKS)
def test_what_the_primitives_give(name, dtype):
    import cupy

    from fp16sim.kernels.fused import attention, gpu, normalise, updates

    lab = Lab(gpu, normalise, attention, updates, cupy.asarray, cupy.asnumpy, dtype)
    run(name, lab)
