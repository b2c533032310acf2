"""Options whose value changes with the step: a number, or a piecewise-linear list.

A list is [s_0, v_0, v_1, s_1, v_2, s_2, …]: v_0 at step s_0, v_1 at s_1, and so on, in straight lines between
them, as [0, 0.98, 0.5, 5001]. The lists of four and of six that threestudio reads mean the same here.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from carv_distill.errors import UserError
from carv_distill.options import Schedule

Knots = list[tuple[int, float]]


def knots(schedule: Schedule) -> Knots:
    """(step, value) in the order of the steps; of a number, its value at step 0."""
    if not isinstance(schedule, list):
        return [(0, float(schedule))]
    first, *rest = schedule
    return [(int(first), rest[0]), *((int(s), v) for v, s in zip(rest[1::2], rest[2::2], strict=True))]


def value_at(schedule: Schedule, step: int) -> float:
    """The value of a step; before the first and after the last knot, theirs."""
    at = knots(schedule)
    if step <= at[0][0]:
        return at[0][1]
    for (before, low), (after, high) in pairwise(at):
        if step < after:
            return low + (step - before) / (after - before) * (high - low)
    return at[-1][1]


def check_schedule(key: str, schedule: Schedule, limits: Mapping[str, Any], max_steps: int) -> None:
    """Whether a list makes sense and says a value for every step of a run; a number does.

    Args:
        limits: of the values: low, above and high of the option's field.

    Raises:
        UserError: naming the key and what is wrong.
    """
    if not isinstance(schedule, list):
        return
    given = f"[{', '.join(f'{number:g}' for number in schedule)}]"
    if len(schedule) < 4 or len(schedule) % 2:
        raise UserError(f"{key}: {given} is neither a number nor [step, value, value, step, value, step, …]")
    steps, values = [schedule[0], *schedule[3::2]], [*schedule[1:3], *schedule[4::2]]
    if odd := [step for step in steps if step != int(step)]:
        raise UserError(f"{key}: {odd[0]:g} of {given} is to be a step, and is not a whole number")
    if falls := [(a, b) for a, b in pairwise(steps) if b <= a]:
        a, b = falls[0]
        raise UserError(f"{key}: the steps of {given} must rise, and after {a:g} comes {b:g}")
    for value in values:
        if value < limits.get("low", value):
            raise UserError(f"{key}: {value:g} of {given} is below the least allowed value, {limits['low']}")
        if "above" in limits and value <= limits["above"]:
            raise UserError(f"{key}: {value:g} of {given} is not above {limits['above']}")
        if value > limits.get("high", value):
            raise UserError(
                f"{key}: {value:g} of {given} is above the greatest allowed value, {limits['high']}"
            )
    last = max_steps - 1
    if steps[0] != 0:
        begin = f"[0, {values[0]:g}, {values[0]:g}, {steps[0]:g}, …]"
        raise UserError(f"{key}: {given} begins at step {steps[0]:g}, the run at 0; let it begin as {begin}")
    if steps[-1] < last:
        end = f"…, {values[-1]:g}, {max_steps}]"
        raise UserError(
            f"{key}: {given} ends at step {steps[-1]:g}, and the last of trainer.max_steps={max_steps} is "
            f"{last}; let it end as {end}, where it keeps its value"
        )


def first_crossing(low: Schedule, high: Schedule) -> int | None:
    """The first knot of either at which the one is not below the other; None if there is none, and so no
    step between knots either."""
    steps = sorted({step for schedule in (low, high) for step, _ in knots(schedule)})
    return next((s for s in steps if value_at(low, s) >= value_at(high, s)), None)
