"""``watch``: what became of every number that a model stored, by layer, operation and role."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fp16sim import events
from fp16sim.arguments import one_of, real
from fp16sim.counts import Counts, UpdateCounts
from fp16sim.formats import FP16, FormatLike, format_of
from fp16sim.nn import Module
from fp16sim.xray import report, what_if
from fp16sim.xray.record import TALLIED, Birth, Key, Step
from fp16sim.xray.what_if import Suggestion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: what a stored value can be; "gradient" stands for all kinds of gradients
ROLES = (
    "activation",
    "weight",
    "input",
    "value",
    "moment",
    "buffer",
    "gradient",
    "activation gradient",
    "weight gradient",
    "input gradient",
)

# Operations whose second operand is a weight (out, in, ...).
PRODUCTS = ("linear",)

# Births that are written down in one step, on the way forward and on the way back: the first
# ones matter.
BIRTHS_PER_STEP = 20


class XRay:
    """What ``watch`` saw, while it sees it and afterwards."""

    def __init__(self, model: Module | None = None) -> None:
        if not isinstance(model, Module | None):
            raise TypeError(f"model must be a Module or None, got {model!r}")
        #: what became of updates, by parameter path; of a second model, as "GPT 2: head.weight"
        self.updates: dict[str, UpdateCounts] = {}
        #: all steps; the last one may not be finished
        self.steps: list[Step] = [Step(0)]
        #: the line of the program that first stored values under a key
        self.lines: dict[Key, str] = {}
        #: rows and columns of the weights that low products multiply by
        self.products: dict[Key, tuple[int, int]] = {}
        # By key and loss scale; what is asked for is summed when it is asked for.
        self._seen: dict[tuple[Key, float], Counts] = {}
        self._counts: dict[Key, Counts] | None = None
        self._names: dict[int, str] = {}
        self._known: list[Module] = []  # kept, so that their ids stay theirs
        self._stepped: list[object] = []  # the optimisers that have ended the step before
        self._scale = 1.0  # of gradients at this moment
        if model is not None:
            self._learn(model)

    def _learn(self, model: Module) -> None:
        self._known.append(model)
        nth = len(self._known)
        # Paths of a second model may be those of the first.
        prefix = f"{type(model).__name__} {nth}: " if nth > 1 else ""
        for name, parameter in model.named_parameters():
            self._names.setdefault(id(parameter), prefix + name)

    # --- seeing --------------------------------------------------------------------------------

    def __call__(self, event: events.Event) -> None:
        """See one event; ``watch`` makes this the observer."""
        match event:
            case events.Rounded():
                self._round(event)
            case events.Updated():
                name = self._names.get(id(event.parameter), "")
                self.updates.setdefault(name, UpdateCounts()).add(event)
            case events.Scaled():
                self._scale = self._step.scale = event.scale
                self._step.log.append(("scale", event.scale))
            case events.Unscaled():
                self._step.log.append(("unscale", event.scale))
                self._scale = 1.0
            case events.Stepped():
                self._end_step(event)
            case events.Rescaled():
                self._rescaled(event)
            case events.Scheduled():
                if not self._stepped or event.optimizer is self._stepped[0]:
                    self._finished.log.append(("schedule", math.nan))
            case events.Entered(module):
                if isinstance(module, Module) and all(module is not one for one in self._known):
                    self._learn(module)

    @property
    def _step(self) -> Step:
        return self.steps[-1]

    def _round(self, event: events.Rounded) -> None:
        scope, op, role, line = event.origin
        key = Key(scope, op, role, event.fmt)
        scale = self._scale if role.endswith("gradient") else 1.0
        if key not in self.lines:
            self.lines[key] = line
            if op in PRODUCTS and role == "activation" and event.fmt.bits <= 16:
                weight = event.sources[1].shape
                self.products[key] = weight[0], math.prod(weight[1:])
        counts = Counts.of(event)
        seen = self._seen.get((key, scale))
        if seen is None:
            self._seen[key, scale] = counts
        else:
            seen.merge(counts)
        self._counts = None
        tally = self._step.counts.setdefault(key, [0] * len(TALLIED))
        for place, name in enumerate(TALLIED):
            tally[place] += getattr(counts, name)
        if counts.overflowed or counts.created:
            self._born(key, counts, event)
        if op.startswith("clip_grad"):
            self._step.log.append(("clip", scale))

    def _born(self, key: Key, counts: Counts, event: events.Rounded) -> None:
        back = key.role.endswith("gradient")
        if sum(birth.in_gradient == back for birth in self._step.births) >= BIRTHS_PER_STEP:
            return
        kind, count = "overflow", counts.overflowed
        if counts.created:
            before = event.before
            kind, count = "NaN" if bool((before != before).any()) else "infinity", counts.created
        birth = Birth(
            self._step.index,
            key,
            kind,
            count,
            counts.total,
            counts.largest,
            event.origin.line,
            self._step.scale,
        )
        self._step.births.append(birth)

    def _end_step(self, event: events.Stepped) -> None:
        self._scale = 1.0
        others = all(event.optimizer is not one for one in self._stepped)
        if self._stepped and others and not self._step.went_back:
            # It moves by the same backward pass as the one before.
            self._finished.absorb(self._step)
            self._finished.taken = self._finished.taken and event.taken
            self._stepped.append(event.optimizer)
            self.steps[-1] = Step(self._step.index)
            return
        self._step.taken, self._step.optimizer = event.taken, event.optimizer
        self._stepped = [event.optimizer]
        self.steps.append(Step(self._step.index + 1))

    def _rescaled(self, event: events.Rescaled) -> None:
        step = self._step if self._step.went_back else self._finished  # an update before the step
        step.next_scale = event.after
        step.log.append(("rescale", event.after))

    @property
    def _finished(self) -> Step:
        """The last step that an optimiser has ended, or the first one."""
        return self.steps[-2] if len(self.steps) > 1 else self._step

    # --- telling -------------------------------------------------------------------------------

    @property
    def counts(self) -> dict[Key, Counts]:
        """What became of stored values."""
        if self._counts is None:
            self._counts = {}
            for (key, _), counts in self._seen.items():
                self._counts.setdefault(key, Counts()).merge(counts)
        return self._counts

    @property
    def births(self) -> list[Birth]:
        """Infinities and NaNs in the order of their birth, the first ones of every step."""
        return [birth for step in self.steps for birth in step.births]

    @property
    def first_failure(self) -> Birth | None:
        """Where the first infinity or NaN was born that no scaler has asked for; None if nowhere.

        Gradients that overflow in a step which the scaler then leaves out are its way to find the
        scale. Whatever is born on the way forward is a failure: no loss scale can mend it.
        """
        return next(filter(None, (step.failure for step in self.steps)), None)

    def select(
        self, *, scope: str = "", role: str | None = None, fmt: FormatLike | None = None
    ) -> Counts:
        """The sum of all counts under a module path, in a role (or all), in a format (or all).

        role: one of ``ROLES``; "gradient" is every kind of gradient. Raises ValueError for others.
        A gradient is counted under the module whose value it is the gradient of.
        """
        total = Counts()
        for key in self._keys(scope, role, fmt):
            total.merge(self.counts[key])
        return total

    def _keys(self, scope: str, role: str | None, fmt: FormatLike | None) -> Iterator[Key]:
        if role is not None:
            one_of("role", role, ROLES)
        fmt = None if fmt is None else format_of(fmt)
        for key in self.counts:
            inside = not scope or key.scope == scope or key.scope.startswith(scope + ".")
            wanted = role in (None, key.role) or (
                role == "gradient" and key.role.endswith(" gradient")
            )
            if inside and wanted and fmt in (None, key.fmt):
                yield key

    def all_updates(self) -> UpdateCounts:
        """The sum over all parameters."""
        total = UpdateCounts()
        for counts in self.updates.values():
            total.merge(counts)
        return total

    def magnitudes(
        self, *, scope: str = "", role: str | None = "gradient", fmt: FormatLike | None = None
    ) -> Counts:
        """Sizes of the values that ``select`` would sum, gradients without their loss scale."""
        return self._magnitudes(self._keys(scope, role, fmt))

    def _magnitudes(self, keys: Iterable[Key]) -> Counts:
        total, wanted = Counts(), set(keys)
        for (key, scale), counts in self._seen.items():
            if key in wanted:
                total.merge(what_if.without_scale(counts, scale))
        return total

    def what_if(
        self,
        fmt: FormatLike,
        scale: float = 1.0,
        *,
        scope: str = "",
        role: str | None = "gradient",
        of: FormatLike | None = None,
    ) -> Counts:
        """What would become of the same values in another format, under another loss scale.

        fmt: the format to round to. scale: the loss scale, which moves gradients only. Those of the
            run are taken out before.
        scope, role: which values, as for ``select``. of: those stored in this format only.
        Nothing is computed again: see ``fp16sim.xray.what_if`` for what is exact. That other
        rounding would also have led to other values is left out.
        """
        real("scale", scale, above=0, below=2.0**128)
        fmt, keys = format_of(fmt), list(self._keys(scope, role, of))
        gradients = [key for key in keys if key.role.endswith("gradient")]
        others = [key for key in keys if not key.role.endswith("gradient")]
        result = what_if.recount(self._magnitudes(gradients), fmt, scale)
        result.merge(what_if.recount(self._magnitudes(others), fmt))
        return result

    def suggest_scale(
        self, fmt: FormatLike = FP16, headroom: int = 1, *, of: FormatLike | None = None
    ) -> Suggestion:
        """The largest loss scale that leaves ``headroom`` binades above the largest gradient.

        of: count those stored in this format only; under autocast, those that it narrows. Without
            it, gradients count that stay in fp32, as the 1 of each loss in a sum of losses.
        Raises ValueError if no gradient other than zero was seen.
        """
        values = self.magnitudes(role="gradient", fmt=of)
        return what_if.suggest(values, format_of(fmt), headroom)

    def report(self, limit: int = 20) -> str:
        """The places where most is lost, as a table, and what was born where."""
        return report.text(self, limit)

    def plot(self) -> Figure:
        """Exponents with the format's limits, losses by layer and step, the scale over time."""
        from fp16sim import plots  # matplotlib takes its time to load

        return plots.xray_figure(self)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "counts": [
                {
                    "scope": key.scope,
                    "op": key.op,
                    "role": key.role,
                    "format": str(key.fmt),
                    "line": self.lines[key],
                    **counts.to_dict(),
                }
                for key, counts in self.counts.items()
            ],
            "updates": {
                name: {"total": c.total, "zero": c.zero, "swamped": c.swamped}
                for name, c in self.updates.items()
            },
            "steps": [step.to_dict() for step in self.finished_steps],
        }

    def to_json(self, **options: Any) -> str:
        """``to_dict`` as JSON; options go to ``json.dumps``."""
        return json.dumps(self.to_dict(), **options)

    @property
    def finished_steps(self) -> list[Step]:
        """The steps without the one that nothing has happened in yet."""
        last = self._step
        return self.steps if last.counts or last.log else self.steps[:-1]


@contextmanager
def watch(model: Module | None = None) -> Iterator[XRay]:
    """Count what becomes of every value that is stored in the block, and of every update.

    Everything counts that this thread computes there, in the model or beside it; modules are told
    apart by their paths, and updates by the names of the model's parameters. model: None to take
    names from the modules that are called. Paths begin at the model that is called, so that what
    two models store under one path is counted together.

    ::

        with fs.watch(model) as xray:
            loss_of(model, batch).backward()
        xray.select(scope="encoder", role="activation gradient").share("flushed")
        print(xray.report())

    A step ends when an optimiser moves the weights, or when a scaler keeps it from that; several
    optimisers that move by the same backward pass end it together.
    """
    xray = XRay(model)
    with events.observe(xray):
        yield xray
