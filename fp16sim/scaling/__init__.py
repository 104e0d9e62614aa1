"""Loss scaling: multiply the loss so that small gradients survive fp16, divide before the update.

``GradScaler`` has PyTorch's methods; ``LossScale`` is the rule inside it, a value without any
effects, and ``trace`` follows a rule over a run. Source of the idea: Micikevicius et al., "Mixed
Precision Training", ICLR 2018, section 3.2; of the dynamic rule and its constants:
torch.amp.GradScaler.

Differences from PyTorch
------------------------

Everything else is as in torch.amp.GradScaler of PyTorch 2.13.

================================== ============================= ==================================
situation                          PyTorch                       here
================================== ============================= ==================================
1/scale is infinite in fp32: the   the step is taken, weights    RuntimeError from scale(),
scale is 2^-128 or less, maybe 0   become infinite or NaN        unscale_() and step()
init_scale or new_scale is 0,      is taken, and every step is   ValueError
negative, infinite or NaN          wrong or skipped
first argument of GradScaler       device                        init_scale
methods in the wrong order         mostly AssertionError         RuntimeError
settings out of range              AssertionError, or accepted:  ValueError; also by setters, by
                                   backoff_factor <= 0,          load_state_dict(), and with
                                   growth_interval < 1           enabled=False
scale() of other things            ValueError                    TypeError
unscale_() without any gradient    this optimizer and update()   as if it had not been called
                                   raise ever after
update(new_scale)                  a float, or a tensor without  any real number, or a tensor of
                                   axes                          one value
result of step()                   optimizer.step()'s, or None   StepStatus: whether it stepped, and
                                                                 if not, what was not finite
arguments of optimizer.step()      are handed on, but closure    there are none
the scale falls below 1            silently                      one UserWarning says why
min_scale, max_scale, hysteresis,  unknown                       off by default; in state_dict() if
dynamic                                                          they are not
load_state_dict()                  KeyError for missing entries, ValueError; what PyTorch does not
                                   others are ignored            have may be missing
================================== ============================= ==================================
"""

from fp16sim.scaling.rules import SCALERS, LossScale, next_scale, trace
from fp16sim.scaling.scaler import GradScaler, NoScaler, StaticScaler, StepStatus

__all__ = [
    "SCALERS",
    "GradScaler",
    "LossScale",
    "NoScaler",
    "StaticScaler",
    "StepStatus",
    "next_scale",
    "trace",
]
