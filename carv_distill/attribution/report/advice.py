"""The end of `evaluate.py influence`: how far a ranking agrees with itself, and the command for more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from carv_distill.attribution.measure import InfluenceResult
from carv_distill.attribution.ranking.reliability import Reliability, check_fit
from carv_distill.screen import duration, typed

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
    draws = draws_for(last, about["draws"], about["groups"], last.draws / about["draws"])
    seconds = None if draws is None or result.seconds is None else result.seconds * draws / about["draws"]
    return Agreement(last.between, last.draws, draws, seconds)


def draws_for(
    part: Reliability, draws: int, groups: int, share: float, between: float = AGREED
) -> int | None:
    """Draws K' such that rankings by parts of them, K'·`share` each, correlate to `between`: with ρ of parts
    of k draws now, by Spearman and Brown,

        K' = k ρ' (1 − ρ) / (ρ (1 − ρ')) / `share`,    ρ' = `between`,

    up to the next multiple of the groups, with an even number of draws in each where it is even now, as pairs
    of draws need it. None if ρ ≤ 0.

    Args:
        draws, groups: K and G.
    """
    needed = part.needed(math.sqrt(between)) / share
    if not math.isfinite(needed):
        return None
    step = groups if draws // groups % 2 else 2 * groups
    return max(1, math.ceil(needed / step - 1e-9)) * step


def words_for(measured: float) -> str:
    """How far rankings agree that correlate so, in words."""
    levels = ((AGREED, "agrees"), (0.8, "nearly agrees"), (0.5, "agrees in part"))
    return next((words for least, words in levels if measured >= least), "does not agree")


def parts_word(part: float, draws: int) -> str:
    """What rankings by so many of the draws are called."""
    return "halves" if 2 * part == draws else "parts"


def measured_words(result: InfluenceResult) -> str:
    """What was measured of two rankings by parts of the draws; empty with too few groups for any."""
    found = agreement(result)
    if found is None:
        return ""
    parts = parts_word(found.part, result.ranking.about["draws"])
    return f"{parts} of {found.part:g} draws each correlate to {found.measured:.3f}"


def verdict(result: InfluenceResult, command: Sequence[str]) -> str:
    """In one line; where more draws are wanted, the command for them follows on a second one, to be copied.

    Args:
        command: the words of this one, sys.argv.
    """
    found = agreement(result)
    if found is None:
        return "Whether the ranking agrees with another by other draws is not known: --groups 8 tells."
    said = f"The ranking {words_for(found.measured)} with itself: {measured_words(result)}"
    if found.agrees:
        return f"{said}, {AGREED} or more."
    if found.draws is None:
        return (
            f"{said}: nothing can be read from it. More --draws, or another --score or --normalise, may help."
        )
    fit = check_fit(result.ranking.reliability)
    doubt = ", a guess, as the formula misses (see WARNING)" if fit is not None and fit.misses else ""
    time = "" if found.seconds is None else f", about {duration(found.seconds)} here after the pilot"
    place = f"{result.store}".removesuffix(f"-{result.ranking.about['draws']}") + f"-{found.draws}"
    again = repeated(command, {"--draws": str(found.draws), "--store": place})
    return f"{said}; {AGREED} takes about {found.draws} draws{time}{doubt}:\n{again}"


def repeated(command: Sequence[str], options: Mapping[str, str]) -> str:
    """A command as it is typed, with these options in the place of those that it has of their names."""
    kept: list[str] = []
    words = iter(command)
    for word in words:
        if word in options:
            next(words, None)
        elif word.split("=")[0] not in options:
            kept.append(word)
    return typed([*kept, *(word for option in options.items() for word in option)])
