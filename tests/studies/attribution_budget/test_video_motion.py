"""Shares of a ranking's first clips that move as the query does."""

from __future__ import annotations

import math

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.data.clips.rendered import ClipFacts
from carv_distill.variance.estimate import t_quantile
from studies.attribution_budget.video_motion import (
    BLOCK,
    by_blocks,
    by_permutation,
    chance,
    motion_rows,
    precisions,
    verdict,
)
from studies.attribution_budget.video_rankings import Ranked


def motions(blocks: int) -> torch.Tensor:
    """Every motion once in each block, in random order."""
    g = stream("motions")
    return torch.cat([torch.randperm(BLOCK, generator=g) for _ in range(blocks)])


def test_precision_of_the_first_ten() -> None:
    """Two groups of 11 whose scores are high within: all right; with scores of the other group: none."""
    motion = torch.arange(2).repeat_interleave(11)
    same = (motion[:, None] == motion).double()
    assert precisions(same, motion).tolist() == [1.0] * 22
    assert precisions(-same, motion).tolist() == [0.0] * 22


def test_chance_is_what_random_scores_have() -> None:
    """400 symmetric rankings of 112 clips, within 4 SE; a query is no candidate of its own."""
    assert chance(112) == pytest.approx(15 / 111)
    motion, g = motions(16), stream("scores")
    found = []
    for _ in range(400):
        half = torch.randn(112, 112, generator=g)
        found.append(float(precisions(half + half.T, motion).mean()))
    mean, std = torch.tensor(found).mean(), torch.tensor(found).std()
    assert abs(mean - chance(112)) < 4 * std / 20


def test_an_interval_by_blocks_is_that_of_independent_blocks() -> None:
    """Of a mean over clips: Student's interval over the means of the blocks."""
    values = torch.randn(5 * BLOCK, generator=stream("values"), dtype=torch.float64)
    e = by_blocks(lambda numbers: float(values[numbers].mean()), len(values))
    means = values.view(5, BLOCK).mean(1)
    assert e.value == pytest.approx(float(values.mean()))
    assert e.se == pytest.approx(float(means.std()) / math.sqrt(5))
    assert e.high - e.value == pytest.approx(t_quantile(0.975, 4) * e.se)


def test_a_permutation_knows_a_ranking_by_motion() -> None:
    motion, g = motions(4), stream("permuted")
    same = (motion[:, None] == motion).double()
    noise = torch.randn(28, 28, generator=g, dtype=torch.float64)
    assert by_permutation(same + 0.1 * (noise + noise.T), motion, 0) == pytest.approx(1 / 2001)
    assert by_permutation(torch.zeros(28, 28), torch.zeros(28), 0) == 1


def test_rows_and_what_is_said() -> None:
    """Gradients weighed by motion that are about motion, plain ones that are about nothing."""
    motion, g = motions(4), stream("rows")
    facts = ClipFacts(motion, motion, motion, torch.arange(28) % 4 > 0, torch.zeros(28, 2))
    by_motion = torch.nn.functional.one_hot(motion).double()
    clips = {
        "motion": [Ranked(row, {}) for row in by_motion + 0.1 * torch.randn(28, 7, generator=g)],
        "plain": [Ranked(row, {}) for row in torch.randn(28, 7, generator=g)],
    }
    rows = motion_rows(clips, facts, 0)
    found = {(r["weights"], r["queries"]): r for r in rows}
    assert [found["motion", q]["count"] for q in ("all", "moving", "named", "silent")] == [28, 24, 21, 7]
    assert found["motion", "all"]["precision"] == pytest.approx(0.3)  # the three others of its motion
    assert found["motion", "all"]["p_of_chance"] == pytest.approx(1 / 2001)
    difference = found["motion", "all"]["precision"] - found["plain", "all"]["precision"]
    assert found["difference", "all"]["precision"] == pytest.approx(difference)
    said = verdict(rows)
    assert said[0].startswith("Share of the first 10 with the query's motion (chance 0.111), queries: all")
    assert said[-1].startswith("P of as many by chance: motion 0.0005; plain ")
    alone = motion_rows({"motion": clips["motion"]}, facts, 0)
    assert alone == [row for row in rows if row["weights"] == "motion"]
    assert not any("plain" in sentence for sentence in verdict(alone))
