"""Rankings of clips by a text-to-video teacher's gradients: how many draws they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from carv_distill.carv import Draws, NoiseLevelSampler, Proposal, stream
from carv_distill.data.clips.rendered import ClipFacts, RenderedClips
from carv_distill.data.stored import spread
from carv_distill.variance import Estimate
from studies.attribution_budget import video
from studies.attribution_budget.draws import QUERIES, agreement, two_way
from studies.attribution_budget.video import feature_rows, model_of
from studies.cached import Compute
from studies.sentences import estimate, sentence, show
from studies.study import Row, columns


class Plan(NamedTuple):
    """Which clips are ranked, and by which draws; see DESIGN.md."""

    size: tuple[int, int, int]
    """Frames, height and width."""
    blocks: int
    """Of seven clips, one of each motion."""
    sets: int
    """Of draws."""
    draws: Mapping[str, int]
    """Of a set, by arm; its budgets are the powers of two up to there."""
    reference: int
    """Draws of a reference of its own; 0: a set's reference is the draws of all others."""
    plain: bool = True
    """Whether the reference is drawn for the plain loss, too."""

    @property
    def budgets(self) -> list[tuple[str, int]]:
        """Arms and K."""
        return [
            (arm, 2**i)
            for arm, most in self.draws.items()
            for i in range(most.bit_length())
            if i or arm != "pairs"
        ]


SMALL, REGIME = "video_rankings", "video_rankings_regime"
FULL = {
    SMALL: Plan((17, 48, 48), 16, 5, {"iid": 16, "Strat": 16, "pairs": 16}, 64),
    REGIME: Plan((17, 128, 128), 15, 4, {"iid": 8, "Strat": 4}, 0, plain=False),
}
QUICK = {
    SMALL: Plan((17, 48, 48), 2, 2, {"iid": 16, "Strat": 16, "pairs": 16}, 16),
    REGIME: Plan((17, 128, 128), 2, 2, {"iid": 4, "Strat": 2}, 0, plain=False),
}
"""By the name of the results."""
LEVELS = {SMALL: (8, 64)}
"""Clips and strata of V_level/V_noise where this part measures it; in the regime the part `video` does."""
QUICK_LEVELS = {SMALL: (2, 4)}
SAMPLERS = {
    "iid": NoiseLevelSampler(Proposal.uniform(), "iid"),
    "Strat": NoiseLevelSampler(Proposal.uniform(), "stratified"),
    "pairs": NoiseLevelSampler(Proposal.uniform(), "paired", "antithetic"),
}


class Ranked(NamedTuple):
    """Mean normalised gradients of one clip, sketched, [m] each."""

    reference: Tensor
    by_set: dict[tuple[str, int, int], Tensor]
    """By arm, set of draws and K."""


def chosen_clips(blocks: int, count: int) -> list[int]:
    """Numbers of so many blocks of seven clips, from all parts of the training set."""
    return [7 * block + i for block in spread(count // 7, blocks) for i in range(7)]


def kept(arm: str, most: int, k: int, seed: int, number: int) -> list[int]:
    """Which of an arm's draws are one set of K: the first ones of iid draws; of strata one in each of K
    cells, at random, which is a draw uniform in the cell; of pairs one pair in each of K/2."""
    if arm == "iid":
        return list(range(k))
    size = 2 if arm == "pairs" else 1
    cells, per_cell = k // size, most // k
    picked = torch.randint(per_cell, (cells,), generator=stream(seed, "video", "kept", arm, k, number))
    first = (torch.arange(cells) * per_cell + picked) * size
    return [int(i) + j for i in first for j in range(size)]


def ranked(teacher: str, plan: Plan, weights: str, number: int, seed: int) -> Ranked:
    """Of one training clip, by draws that all clips share; of the plain loss the reference alone. Without
    draws of its own the reference is the mean of all."""
    model = model_of(teacher, plan.size, weights)
    clip = model.training.batch(torch.tensor([number]))

    def rows(draws: Draws) -> Tensor:
        return feature_rows(model, clip, draws.u[0], draws.eps[0])

    def drawn(arm: str, count: int, *key: int | str) -> Draws:
        return SAMPLERS[arm].draw(1, count, model.training.shape, stream(seed, "video", "ranking", *key))

    by_set: dict[tuple[str, int, int], Tensor] = {}
    every: list[Tensor] = []
    for i in range(plan.sets if weights == "motion" else 0):
        of_arm = {arm: rows(drawn(arm, most, arm, i)) for arm, most in plan.draws.items()}
        every += of_arm.values()
        for arm, k in plan.budgets:
            by_set[arm, i, k] = of_arm[arm][kept(arm, plan.draws[arm], k, seed, i)].mean(0)
    own = rows(drawn("Strat", plan.reference, "reference")) if plan.reference else torch.cat(every)
    return Ranked(own.mean(0), by_set)


def measure(compute: Compute, plan: Plan, teacher: str, seed: int) -> dict[str, list[Ranked]]:
    """Of every chosen clip, weighed by motion, and with the reference's draws alone plain."""
    numbers = chosen_clips(plan.blocks, len(model_of(teacher, plan.size, "motion").training))
    calls = {
        w: [partial(ranked, teacher, plan, w, n, seed) for n in numbers]
        for w in ("motion", *(["plain"] if plan.plain else []))
    }
    results: dict[str, list[Ranked]] = compute(calls)
    return results


def cosines(features: Sequence[Tensor]) -> Tensor:
    """Of the clips with one another, [n, n]."""
    unit = torch.nn.functional.normalize(torch.stack([*features]).double(), dim=1)
    return unit @ unit.T


def level_over_noise(
    compute: Compute, plan: Plan, teacher: str, clips: int, strata: int, seed: int
) -> Estimate:
    """V_level/V_noise at this size in MOTIVE's setting, u uniform, as rankings draw levels."""
    numbers = spread(len(video.model_of(teacher, plan.size, "motion").training), clips)
    calls = [partial(video.moments, teacher, plan.size, "motion", n, seed, strata) for n in numbers]
    return video.level_over_noise([found[video.MOTIVE[1:]] for found in compute(calls)])


class Rankings:
    """Scores of all clips for QUERIES of them, which stand first."""

    def __init__(self, clips: Sequence[Ranked], plan: Plan) -> None:
        self.plan = plan
        queries = spread(len(clips), QUERIES)
        self.clips = [clips[i] for i in (*queries, *(i for i in range(len(clips)) if i not in queries))]

    def scores(self, features: Sequence[Tensor]) -> Tensor:
        """[QUERIES, n]."""
        return cosines(features)[:QUERIES]

    def by_set(self, arm: str, k: int) -> list[Tensor]:
        """Of every set of draws of an arm."""
        return [self.scores([c.by_set[arm, i, k] for c in self.clips]) for i in range(self.plan.sets)]

    @property
    def references(self) -> list[Tensor]:
        """For each set: of the reference's own draws, or of those of all other sets."""
        if not self.plan.reference:
            return [self.larger_reference(i) for i in range(self.plan.sets)]
        return [self.scores([c.reference for c in self.clips])] * self.plan.sets

    def larger_reference(self, without: int) -> Tensor:
        """Of the reference's draws and those of all sets but one, whichever arm they are of."""
        own, others = self.plan.reference, [i for i in range(self.plan.sets) if i != without]

        def mean(c: Ranked) -> Tensor:
            more = [(most, c.by_set[arm, i, most]) for arm, most in self.plan.draws.items() for i in others]
            total = own * c.reference + sum(most * feature for most, feature in more)
            return total / (own + sum(most for most, _ in more))

        return self.scores([mean(c) for c in self.clips])


def correlation_rows(clips: Sequence[Ranked], plan: Plan) -> list[Row]:
    """Rank correlation with the reference by arm and K, 11 queries; the same with a larger reference, where
    it has draws of its own; less that of as many iid draws, and of twice as many."""
    ranks = Rankings(clips, plan)
    larger = [ranks.larger_reference(i) for i in range(plan.sets)] if plan.reference else None

    def agreements(arm: str, k: int, truths: Sequence[Tensor]) -> Tensor:
        pairs = zip(ranks.by_set(arm, k), truths, strict=True)
        return torch.cat([agreement([scores], truth) for scores, truth in pairs])

    found = {(arm, k): agreements(arm, k, ranks.references) for arm, k in plan.budgets}
    rows = []
    for (arm, k), own in found.items():
        row: Row = {"arm": arm, "K": k, **columns("correlation", two_way(own))}
        if larger is not None:
            row |= columns("correlation_larger", two_way(agreements(arm, k, larger)))
        for name, times in (("over_iid", 1), ("over_twice_iid", 2)):
            if ("iid", times * k) in found and (arm, times) != ("iid", 1):
                row |= columns(name, two_way(own - found["iid", times * k]))
        rows.append(row)
    return rows


def facts_of(plan: Plan, count: int) -> ClipFacts:
    """What the chosen clips show."""
    clips = RenderedClips(count, plan.size[1], plan.size[0])
    return clips.facts_of(torch.tensor(chosen_clips(plan.blocks, count)))


def verdict(correlation: Sequence[Row], levels: Estimate | None, plan: Plan) -> list[str]:
    """K from which rankings agree with the reference, and whether half the draws of iid are enough."""
    known = "as the part `video` has it" if levels is None else show(levels)
    said = [f"V_level/V_noise at {plan.size[1]} pixels, u uniform: {known}."]
    references = {"correlation": "the reference" if plan.reference else "the draws of all other sets"}
    if plan.reference:
        references["correlation_larger"] = "a reference of more draws, none of the set's own"
    for name, what in references.items():
        at_4 = {r["arm"]: estimate(r, name) for r in correlation if r["K"] == 4}
        if at_4:
            said.append(sentence(f"Rank correlation with {what} at K = 4", at_4))
        first = []
        for arm, most in plan.draws.items():
            enough = [r["K"] for r in correlation if r["arm"] == arm and r[name] >= 0.95]
            first.append(f"{arm} {enough[0] if enough else f'none up to {most}'}")
        said.append(f"K from which it is 0.95: {'; '.join(first)}.")
    for name, times in (("over_iid", 1), ("over_twice_iid", 2)):
        for k in (2, 4, 8):
            rows = [r for r in correlation if r["K"] == k and r["arm"] != "iid" and name in r]
            found = {r["arm"]: estimate(r, name) for r in rows}
            if found:
                what = f"Rank correlation at K = {k} less that of {times * k} iid draws"
                said.append(sentence(what, found, 0))
    return said
