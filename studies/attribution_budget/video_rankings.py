"""Rankings of clips by a text-to-video teacher's gradients: how many draws they need, and whether the first
clips move as the query does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

from carv_distill.carv import Draws, NoiseLevelSampler, Proposal, stream
from carv_distill.data.clips.rendered import ClipFacts, RenderedClips
from carv_distill.data.clips.trajectories import MOTIONS
from carv_distill.data.stored import spread
from carv_distill.variance import Estimate, mean_estimate
from studies.attribution_budget.draws import QUERIES, correlations
from studies.attribution_budget.video import feature_rows, model_of
from studies.cached import Compute
from studies.sentences import estimate, sentence
from studies.study import Row, columns

SIZE = (17, 48, 48)
"""Frames, height and width of the clips that are ranked; see DESIGN.md."""
FULL = SimpleNamespace(blocks=16, sets=5, reference=64)
QUICK = SimpleNamespace(blocks=2, sets=2, reference=16)
"""Blocks of seven clips, one of each motion; sets of draws; draws of the reference."""
DRAWS = 16
"""Of the largest budget."""
BUDGETS = (1, 2, 4, 8, 16)
TOP = 10
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


def correlation_rows(clips: Sequence[Ranked]) -> list[Row]:
    """Rank correlation with the reference by arm and K, 11 queries from all motions."""
    queries = spread(len(clips), QUERIES)
    others = [i for i in range(len(clips)) if i not in queries]
    order = [*queries, *others]

    def scores(features: Sequence[Tensor]) -> Tensor:
        return cosines([features[i] for i in order])[:QUERIES]

    truth = scores([c.reference for c in clips])
    rows = []
    for arm in SAMPLERS:
        sets = sorted({i for a, i, _ in clips[0].by_set if a == arm})
        budgets = sorted({k for a, _, k in clips[0].by_set if a == arm})
        replicates = [{k: scores([c.by_set[arm, i, k] for c in clips]) for k in budgets} for i in sets]
        for k, e in correlations(replicates, truth).items():
            rows.append({"arm": arm, "K": k, **columns("correlation", e)})
    return rows


def precisions(scores: Tensor, motion: Tensor) -> Tensor:
    """Share of the first ten that have the query's motion, each clip a query and no candidate of its own,
    [n]; scores [n, n]."""
    alone = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    top = alone.topk(min(TOP, len(scores) - 1), dim=1).indices
    return (motion[top] == motion[:, None]).double().mean(1)


def motion_rows(measured: Mapping[str, Sequence[Ranked]], facts: ClipFacts) -> list[Row]:
    """Precision of the first ten by motion: of all queries, and of those whose caption names it or does not;
    plain, weighed by motion, and the difference. Intervals over queries, which share their candidates."""
    found = {
        w: precisions(cosines([c.reference for c in clips]), facts.motion) for w, clips in measured.items()
    }
    found["difference"] = found["motion"] - found["plain"]
    groups = {"all": torch.ones_like(facts.named), "named": facts.named, "silent": ~facts.named}
    return [
        {"weights": w, "queries": name, "count": int(who.sum()), **columns("precision", _mean(values[who]))}
        for w, values in found.items()
        for name, who in groups.items()
        if who.sum() > 1
    ]


def _mean(values: Tensor) -> Estimate:
    return mean_estimate(values.tolist())


def facts_of(o: SimpleNamespace, count: int, size: tuple[int, int, int]) -> ClipFacts:
    """What the chosen clips show."""
    clips = RenderedClips(count, size[1], size[0])
    return clips.facts_of(torch.tensor(chosen_clips(o.blocks, count)))


def verdict(correlation: Sequence[Row], motion: Sequence[Row]) -> list[str]:
    """K from which rankings agree with the reference, and whether motion is found."""
    first = []
    for arm in SAMPLERS:
        enough = [r["K"] for r in correlation if r["arm"] == arm and r["correlation"] >= 0.95]
        first.append(f"{arm} {enough[0] if enough else f'none up to {DRAWS}'}")
    at_4 = {r["arm"]: estimate(r, "correlation") for r in correlation if r["K"] == 4}
    by_weights = {r["weights"]: estimate(r, "precision") for r in motion if r["queries"] == "all"}
    chance = 1 / len(MOTIONS)
    return [
        sentence("Rank correlation with the reference at K = 4", at_4),
        f"K from which it is 0.95: {'; '.join(first)}.",
        sentence(f"Share of the first {TOP} with the query's motion (chance {chance:.2f})", by_weights),
    ]
