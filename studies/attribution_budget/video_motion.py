"""Whether the first clips of a ranking move as the query does."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.data.clips.rendered import ClipFacts
from carv_distill.data.clips.trajectories import MOTIONS
from carv_distill.variance import Estimate, mean_estimate
from carv_distill.variance.estimate import student
from studies.attribution_budget.video_rankings import Ranked, cosines
from studies.sentences import estimate, sentence
from studies.study import Row, columns

TOP = 10
BLOCK = len(MOTIONS)
"""Clips of a block, one of each motion."""
STILL = [*MOTIONS].index("stands still")
PERMUTATIONS = 2000


def chance(clips: int) -> float:
    """Of one of the other clips to have the query's motion, all motions alike."""
    return (clips / BLOCK - 1) / (clips - 1)


def precisions(scores: Tensor, motion: Tensor) -> Tensor:
    """Share of the first ten that have the query's motion, each clip a query and no candidate of its own,
    [n]; scores [n, n]."""
    alone = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    top = alone.topk(min(TOP, len(scores) - 1), dim=1).indices
    return (motion[top] == motion[:, None]).double().mean(1)


def by_blocks(value: Callable[[Tensor], float], clips: int, level: float = 0.95) -> Estimate:
    """A value of clips whose blocks are drawn independently, with the interval of the jackknife that leaves
    out one block at a time, as queries and as candidates; clips are no independent queries, as their scores
    are symmetric and candidates are shared.

    Args:
        value: numbers of clips → the value.
    """
    numbers, blocks = torch.arange(clips), clips // BLOCK
    whole = value(numbers)
    without = [value(numbers[numbers // BLOCK != b]) for b in range(blocks)]
    middle = statistics.fmean(without)
    se = math.sqrt((blocks - 1) / blocks * math.fsum((v - middle) ** 2 for v in without))
    return student(whole, se, blocks - 1, (1 + level) / 2)


def by_permutation(scores: Tensor, motion: Tensor, seed: int) -> float:
    """P of a mean precision as high as this one, were motions dealt at random within each block."""
    seen = precisions(scores, motion).mean()
    g, blocks = stream(seed, "video", "permutations"), motion.view(-1, BLOCK)
    higher = 0
    for _ in range(PERMUTATIONS):
        order = torch.rand(blocks.shape, generator=g).argsort(1)
        higher += int(precisions(scores, blocks.gather(1, order).flatten()).mean() >= seen - 1e-12)
    return (1 + higher) / (1 + PERMUTATIONS)


def motion_rows(measured: Mapping[str, Sequence[Ranked]], facts: ClipFacts, seed: int) -> list[Row]:
    """Precision of the first ten by motion: of all queries, of those that move, and of those whose caption
    names the motion or does not; plain, weighed by motion, and the difference. Intervals over queries, and by
    blocks; of all queries the P of chance, too."""
    scores = {w: cosines([c.reference for c in clips]) for w, clips in measured.items()}
    everyone = torch.ones_like(facts.named)
    groups = {"all": everyone, "moving": facts.motion != STILL, "named": facts.named, "silent": ~facts.named}

    def values(weights: str, numbers: Tensor) -> Tensor:
        if weights == "difference":
            return values("motion", numbers) - values("plain", numbers)
        return precisions(scores[weights][numbers][:, numbers], facts.motion[numbers])

    rows = []
    for w in (*measured, *(["difference"] if "plain" in measured else [])):
        for name, who in ((name, who) for name, who in groups.items() if who.sum() > 1):

            def mean(numbers: Tensor, w: str = w, who: Tensor = who) -> float:
                return float(values(w, numbers)[who[numbers]].mean())

            over_queries = mean_estimate(values(w, torch.arange(len(who)))[who].tolist())
            row: Row = {"weights": w, "queries": name, "count": int(who.sum()), "clips": len(who)}
            row |= columns("precision", over_queries) | columns("by_blocks", by_blocks(mean, len(who)))
            if name == "all" and w in scores:
                row["p_of_chance"] = by_permutation(scores[w], facts.motion, seed)
            rows.append(row)
    return rows


def verdict(rows: Sequence[Row]) -> list[str]:
    """Whether motion is found, plain and weighed by it."""
    expected, said = chance(rows[0]["clips"]), []
    for name in ("all", "moving", "silent"):
        mine = {r["weights"]: r for r in rows if r["queries"] == name}
        what = f"Share of the first {TOP} with the query's motion (chance {expected:.3f}), queries: {name}"
        numbers = {w: estimate(r, "by_blocks") for w, r in mine.items() if w != "difference"}
        said.append(sentence(f"{what}, intervals by blocks", numbers, expected))
        if "difference" in mine:
            more = {"motion less plain": estimate(mine["difference"], "by_blocks")}
            said.append(sentence("Of these", more, 0, "lower", "higher"))
    found = {r["weights"]: r["p_of_chance"] for r in rows if "p_of_chance" in r}
    said.append(f"P of as many by chance: {'; '.join(f'{w} {p:.4f}' for w, p in found.items())}.")
    return said
