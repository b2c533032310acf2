"""Options whose value changes with the step: a number, or a piecewise-linear list.

A list is [s_0, v_0, v_1, s_1, v_2, s_2, …]: v_0 at step s_0, v_1 at s_1, and so on, in straight lines between
them, as [0, 0.98, 0.5, 5001]. The lists of four and of six that threestudio reads mean the same here.

What has no values between two is said in stages, [0, n_0, s_1, n_1, …]: n_0 from step 0 on, n_1 from s_1.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from carv_distill.errors import UserError
from carv_distill.options import Schedule, Stages

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


def stage_at(stages: Stages, step: int) -> int:
    """The number that holds at a step."""
    if not isinstance(stages, list):
        return int(stages)
    begun = sum(start <= step for start in stages[::2])
    return int(stages[2 * max(begun, 1) - 1])


def last_stage(stages: Stages) -> int:
    """The number that holds in the end."""
    return int(stages[-1] if isinstance(stages, list) else stages)


def check_stages(key: str, stages: Stages, limits: Mapping[str, Any], max_steps: int) -> None:
    """Whether stages make sense and are all reached in a run.

    Args:
        limits: of the numbers: low of the option's field.

    Raises:
        UserError: naming the key and what is wrong.
    """
    if not isinstance(stages, list):
        return
    if len(stages) < 2 or len(stages) % 2:
        raise UserError(f"{key}: {stages} is neither a whole number nor [0, number, step, number, …]")
    steps, numbers = stages[::2], stages[1::2]
    if steps[0] != 0:
        raise UserError(f"{key}: {stages} begins at step {steps[0]}, the run at 0")
    if falls := [(a, b) for a, b in pairwise(steps) if b <= a]:
        a, b = falls[0]
        raise UserError(f"{key}: the steps of {stages} must rise, and after {a} comes {b}")
    if low := [number for number in numbers if number < limits["low"]]:
        raise UserError(f"{key}: {low[0]} of {stages} is below the least allowed value, {limits['low']}")
    if steps[-1] >= max_steps:
        raise UserError(
            f"{key}: step {steps[-1]} of {stages} is never reached: trainer.max_steps={max_steps}"
        )


def first_crossing(low: Schedule, high: Schedule) -> int | None:
    """The first knot of either at which the one is not below the other; None if there is none, and so no
    step between knots either."""
    steps = sorted({step for schedule in (low, high) for step, _ in knots(schedule)})
    return next((s for s in steps if value_at(low, s) >= value_at(high, s)), None)
