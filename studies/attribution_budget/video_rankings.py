"""Rankings of clips by a text-to-video teacher's gradients: how many draws they need."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
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

SIZE = (17, 48, 48)
"""Frames, height and width of the clips that are ranked; see DESIGN.md."""
FULL = SimpleNamespace(blocks=16, sets=5, reference=64, clips=8, strata=64)
QUICK = SimpleNamespace(blocks=2, sets=2, reference=16, clips=2, strata=4)
"""Blocks of seven clips, one of each motion; sets of draws; draws of the reference; clips and strata of
V_level/V_noise."""
DRAWS = 16
"""Of the largest budget."""
BUDGETS = (1, 2, 4, 8, 16)
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


def kept(arm: str, k: int, seed: int, number: int) -> list[int]:
    """Which of an arm's DRAWS draws are one set of K: the first ones of iid draws; of strata one in each of K
    cells, at random, which is a draw uniform in the cell; of pairs one pair in each of K/2."""
    if arm == "iid":
        return list(range(k))
    size = 2 if arm == "pairs" else 1
    cells, per_cell = k // size, DRAWS // k
    picked = torch.randint(per_cell, (cells,), generator=stream(seed, "video", "kept", arm, k, number))
    first = (torch.arange(cells) * per_cell + picked) * size
    return [int(i) + j for i in first for j in range(size)]


def ranked(
    teacher: str, size: tuple[int, int, int], weights: str, number: int, seed: int, sets: int, reference: int
) -> Ranked:
    """Of one training clip, by draws that all clips share; without sets, the reference alone."""
    model = model_of(teacher, size, weights)
    clip = model.training.batch(torch.tensor([number]))

    def rows(draws: Draws) -> Tensor:
        return feature_rows(model, clip, draws.u[0], draws.eps[0])

    def drawn(arm: str, count: int, *key: int | str) -> Draws:
        return SAMPLERS[arm].draw(1, count, model.training.shape, stream(seed, "video", "ranking", *key))

    by_set = {}
    for i in range(sets):
        for arm in SAMPLERS:
            own = rows(drawn(arm, DRAWS, arm, i))
            for k in BUDGETS:
                if k > 1 or arm != "pairs":
                    by_set[arm, i, k] = own[kept(arm, k, seed, i)].mean(0)
    return Ranked(rows(drawn("Strat", reference, "reference")).mean(0), by_set)


def measure(
    compute: Compute, o: SimpleNamespace, teacher: str, size: tuple[int, int, int], seed: int
) -> dict[str, list[Ranked]]:
    """Of every chosen clip, weighed by motion, and with the reference's draws alone plain."""
    numbers = chosen_clips(o.blocks, len(model_of(teacher, size, "motion").training))
    sets = {"motion": o.sets, "plain": 0}
    calls = {
        w: [partial(ranked, teacher, size, w, n, seed, s, o.reference) for n in numbers]
        for w, s in sets.items()
    }
    results: dict[str, list[Ranked]] = compute(calls)
    return results


def cosines(features: Sequence[Tensor]) -> Tensor:
    """Of the clips with one another, [n, n]."""
    unit = torch.nn.functional.normalize(torch.stack([*features]).double(), dim=1)
    return unit @ unit.T


def level_over_noise(
    compute: Compute, o: SimpleNamespace, teacher: str, size: tuple[int, int, int], seed: int
) -> Estimate:
    """V_level/V_noise at this size in MOTIVE's setting, u uniform, as rankings draw levels."""
    numbers = spread(len(video.model_of(teacher, size, "motion").training), o.clips)
    calls = [partial(video.moments, teacher, size, "motion", n, seed, o.strata) for n in numbers]
    return video.level_over_noise([found[video.MOTIVE[1:]] for found in compute(calls)])


class Rankings:
    """Scores of all clips for QUERIES of them, which stand first."""

    def __init__(self, clips: Sequence[Ranked]) -> None:
        queries = spread(len(clips), QUERIES)
        self.clips = [clips[i] for i in (*queries, *(i for i in range(len(clips)) if i not in queries))]

    def scores(self, features: Sequence[Tensor]) -> Tensor:
        """[QUERIES, n]."""
        return cosines(features)[:QUERIES]

    def by_set(self, arm: str, k: int) -> list[Tensor]:
        """Of every set of draws of an arm."""
        return [self.scores([c.by_set[arm, i, k] for c in self.clips]) for i in self.sets]

    @property
    def sets(self) -> list[int]:
        """Numbers of the sets."""
        return sorted({i for _, i, _ in self.clips[0].by_set})

    @property
    def reference(self) -> Tensor:
        """Of the reference's draws."""
        return self.scores([c.reference for c in self.clips])

    def larger_reference(self, without: int, draws: int) -> Tensor:
        """Of the reference's draws and those of all sets but one, whichever arm they are of."""
        others = [i for i in self.sets if i != without]

        def mean(c: Ranked) -> Tensor:
            more = [c.by_set[arm, i, DRAWS] for arm in SAMPLERS for i in others]
            return (draws * c.reference + DRAWS * sum(more)) / (draws + DRAWS * len(more))

        return self.scores([mean(c) for c in self.clips])


def correlation_rows(clips: Sequence[Ranked], draws: int) -> list[Row]:
    """Rank correlation with the reference by arm and K, 11 queries; the same with a larger reference; and
    less that of twice as many iid draws.

    Args:
        draws: of the reference.
    """
    ranks = Rankings(clips)
    truth, larger = ranks.reference, [ranks.larger_reference(i, draws) for i in ranks.sets]
    iid = {k: agreement(ranks.by_set("iid", k), truth) for k in BUDGETS}
    rows = []
    for arm, k in ((arm, k) for arm in SAMPLERS for k in BUDGETS if k > 1 or arm != "pairs"):
        scores = ranks.by_set(arm, k)
        own = agreement(scores, truth)
        beyond = torch.cat([agreement([s], t) for s, t in zip(scores, larger, strict=True)])
        row: Row = {"arm": arm, "K": k, **columns("correlation", two_way(own))}
        row |= columns("correlation_larger", two_way(beyond))
        if 2 * k in iid:
            row |= columns("over_twice_iid", two_way(own - iid[2 * k]))
        rows.append(row)
    return rows


def facts_of(o: SimpleNamespace, count: int, size: tuple[int, int, int]) -> ClipFacts:
    """What the chosen clips show."""
    clips = RenderedClips(count, size[1], size[0])
    return clips.facts_of(torch.tensor(chosen_clips(o.blocks, count)))


def verdict(correlation: Sequence[Row], levels: Estimate) -> list[str]:
    """K from which rankings agree with the reference, and whether half the draws of iid are enough."""
    said = [f"V_level/V_noise at {SIZE[1]} pixels, u uniform: {show(levels)}."]
    for name, what in (
        ("correlation", "the reference"),
        ("correlation_larger", "a reference of more draws, none of the set's own"),
    ):
        at_4 = {r["arm"]: estimate(r, name) for r in correlation if r["K"] == 4}
        said.append(sentence(f"Rank correlation with {what} at K = 4", at_4))
        first = []
        for arm in SAMPLERS:
            enough = [r["K"] for r in correlation if r["arm"] == arm and r[name] >= 0.95]
            first.append(f"{arm} {enough[0] if enough else f'none up to {DRAWS}'}")
        said.append(f"K from which it is 0.95: {'; '.join(first)}.")
    for k in (4, 8):
        rows = {r["arm"]: r for r in correlation if r["K"] == k and r["arm"] != "iid"}
        found = {arm: estimate(r, "over_twice_iid") for arm, r in rows.items()}
        said.append(sentence(f"Rank correlation at K = {k} less that of {2 * k} iid draws", found, 0))
    return said
