"""An X-ray in words: a table of the places where most is lost, and what was born where."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fp16sim.counts import Counts
    from fp16sim.xray.watch import XRay

#: shares of all values, each a column if there are such values anywhere
FATES = ("flushed", "subnormal", "saturated", "overflowed", "created", "propagated", "zero")


def text(xray: XRay, limit: int) -> str:
    """The table, the updates, the births: 120 columns at most."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    ranked = sorted(xray.counts.items(), key=lambda item: (-item[1].lost, -_subnormal(item[1])))
    fates = [fate for fate in FATES if any(getattr(counts, fate) for _, counts in ranked)]
    table = Table(box=box.SIMPLE, title_justify="left", title="Where most is lost")
    table.add_column("module and operation", overflow="fold")
    table.add_column("what", no_wrap=True)
    for name in ("format", "lost*", *fates, "ulps"):
        table.add_column(name, justify="right", no_wrap=True)
    for key, counts in ranked[:limit]:
        shares = [_percent(counts.share(fate)) for fate in fates]
        cells = str(key.fmt), _percent(counts.lost), *shares, f"{counts.mean_ulps:.2f}"
        table.add_row(key.place or "(program)", key.role, *cells)
    lines = StringIO()
    console = Console(file=lines, width=120, highlight=False)
    console.print(table)
    if len(ranked) > limit:
        console.print(f"and {len(ranked) - limit} places where less is lost")
    console.print("* of the values other than zero; ulps: the mean rounding error\n")
    for line in _story(xray):
        console.print(line, markup=False, soft_wrap=True)
    return lines.getvalue().rstrip() + "\n"


def _subnormal(counts: Counts) -> float:
    return counts.subnormal / max(counts.total, 1)


def _percent(share: float) -> str:
    """Never 0 % for what is not nothing."""
    if share == 0:
        return "0"
    return f"{share:.1%}" if share >= 0.0005 else "<0.1%"


def _story(xray: XRay) -> list[str]:
    steps = xray.finished_steps
    skipped = [step for step in steps if step.taken is False]
    probing = [step for step in skipped if step.probing]
    story = [f"{len(steps)} steps, {len(skipped)} skipped"]
    if probing:
        story[0] += f", {len(probing)} of them while the scaler looked for its scale, as it should"
    updates = xray.all_updates()
    if updates.total:
        story.append(
            f"updates: {_percent(updates.swamped / updates.total)} swamped (not zero, and the "
            f"weight stayed what it was), {_percent(updates.zero / updates.total)} zero"
        )
    failure = xray.first_failure
    if failure is not None:
        story.append(f"first failure: {failure}")
    elif probing:
        story.append(f"first overflow: {xray.births[0]}")
    return story
