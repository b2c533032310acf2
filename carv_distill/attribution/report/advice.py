"""The last line of `evaluate.py influence`: whether the ranking agrees with itself, or what to change."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

from carv_distill.attribution.measure import InfluenceResult
from carv_distill.attribution.ranking.reliability import Reliability, check_fit
from carv_distill.screen import duration

AGREED = 0.9
"""Spearman's correlation of the rankings by two halves of the draws from which on they are said to agree."""


@dataclass(frozen=True)
class Agreement:
    """Of rankings by parts of the draws, and the draws for :data:`AGREED`."""

    measured: float
    part: float
    """Draws of each of the two rankings."""
    draws: int | None
    """--draws with which such parts should agree; None where no number follows, as none agree now."""
    seconds: float | None
    """That the features of the training set by these would take here; None if those that are there were not
    timed."""

    @property
    def agrees(self) -> bool:
        """Whether it is as wanted."""
        return self.measured >= AGREED


def agreement(result: InfluenceResult) -> Agreement | None:
    """By the largest parts that were compared, halves as a rule; None with too few groups for any."""
    about, known = result.ranking.about, result.ranking.reliability
    if not known:
        return None
    last = known[-1]
    draws = draws_for(last, about["draws"], about["groups"])
    seconds = None if draws is None or result.seconds is None else result.seconds * draws / about["draws"]
    return Agreement(last.between, last.draws, draws, seconds)


def draws_for(part: Reliability, draws: int, groups: int, between: float = AGREED) -> int | None:
    """Draws K' such that rankings by parts of them, the same share as was compared, correlate to `between`:
    with ρ now, by Spearman and Brown,

        K' = K ρ' (1 − ρ) / (ρ (1 − ρ')),    ρ' = `between`,

    up to the next multiple of the groups, with an even number of draws in each where it is even now, as pairs
    of draws need it. None if ρ ≤ 0.

    Args:
        part: of a share of the draws.
        draws, groups: K and G.
    """
    needed = part.needed(math.sqrt(between)) * draws / part.draws
    if not math.isfinite(needed):
        return None
    step = groups if draws // groups % 2 else 2 * groups
    return max(1, math.ceil(needed / step - 1e-9)) * step


def verdict(result: InfluenceResult) -> str:
    """In one line."""
    found = agreement(result)
    if found is None:
        return "NOT KNOWN whether the ranking agrees with another by other draws: --groups 8 tells."
    about = result.ranking.about
    parts = "halves" if 2 * found.part == about["draws"] else "parts"
    measured = f"{parts} of {found.part:g} draws each correlate to {found.measured:.3f}"
    if found.agrees:
        return f"The ranking agrees with itself: {measured}, {AGREED} or more."
    if found.draws is None:
        return (
            f"The ranking DOES NOT AGREE with itself: {measured}, from which no number of --draws follows; "
            "try another --score or --normalise."
        )
    fit = check_fit(result.ranking.reliability)
    place = f"{result.store}".removesuffix(f"-{about['draws']}") + f"-{found.draws}"
    doubt = ", a guess, as the formula misses (see WARNING)" if fit is not None and fit.misses else ""
    time = "" if found.seconds is None else f", about {duration(found.seconds)} here"
    return (
        f"The ranking DOES NOT AGREE with itself: {measured}; for {AGREED} say the same with "
        f"--draws {found.draws} --store {shlex.quote(place)}{time}{doubt}."
    )
