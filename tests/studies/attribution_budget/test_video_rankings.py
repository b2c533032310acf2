"""Rankings of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from carv_distill.data.clips.rendered import RenderedClips
from carv_distill.data.clips.trajectories import MOTIONS
from studies.attribution_budget import video, video_rankings
from studies.attribution_budget.draws import QUERIES
from studies.attribution_budget.video_rankings import (
    SAMPLERS,
    Plan,
    Ranked,
    Rankings,
    chosen_clips,
    cosines,
    kept,
)
from tests.helpers.tiny_pipelines import save_wan

DRAWS = 16
PLAN = Plan((5, 16, 16), 2, 2, dict.fromkeys(SAMPLERS, DRAWS), 16)


def test_chosen_clips_have_every_motion_alike() -> None:
    numbers = chosen_clips(4, 70)
    assert len(set(numbers)) == 28
    motions = RenderedClips(70, 16, 5).facts_of(torch.tensor(numbers)).motion
    assert motions.bincount().tolist() == [4] * len(MOTIONS)


@pytest.mark.parametrize("k", [2, 4, 16])
def test_kept_draws_are_a_set_of_the_arm(k: int) -> None:
    """Strata: one in each of K cells, every place as often as another (800 sets, 4 SE); pairs stay together;
    iid: the first ones."""
    assert kept("iid", DRAWS, k, 0, 3) == list(range(k))
    counts = torch.zeros(DRAWS)
    for number in range(800):
        own = kept("Strat", DRAWS, k, 0, number)
        assert [i * k // DRAWS for i in own] == list(range(k))
        counts[own] += 1
        pairs = kept("pairs", DRAWS, k, 0, number)
        assert [b - a for a, b in zip(pairs[::2], pairs[1::2], strict=True)] == [1] * (k // 2)
        assert [i * k // (2 * DRAWS) for i in pairs[::2]] == list(range(k // 2))
    share = k / DRAWS
    assert ((counts / 800 - share).abs() <= 4 * (share * (1 - share) / 800) ** 0.5).all()


def test_pairs_of_the_sampler_are_neighbours() -> None:
    """As `kept` takes them: one level, opposite noises."""
    draws = SAMPLERS["pairs"].draw(1, DRAWS, (3,), torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.u[0, ::2], draws.u[0, 1::2])
    torch.testing.assert_close(draws.eps[0, ::2], -draws.eps[0, 1::2])
    assert (draws.u[0, ::2] * DRAWS // 2).long().tolist() == list(range(DRAWS // 2))


def test_a_larger_reference_has_all_draws_but_the_set_s_own() -> None:
    """Of features that are a set's number: 64 draws of the reference, 16 each of three arms of two sets."""
    budgets = [(arm, i, DRAWS) for arm in SAMPLERS for i in range(3)]

    def clip(scale: float) -> Ranked:
        sets = {key: torch.tensor([scale, key[1] + 1.0]) for key in budgets}
        return Ranked(torch.tensor([scale, 0.0]), sets)

    for own in (64, 0):
        plan = PLAN._replace(sets=3, reference=own)
        ranks = Rankings([clip(1.0 + n) for n in range(12)], plan)
        for without, others in ((0, 2 + 3), (2, 1 + 2)):
            mean = others * 3 * DRAWS / (own + 6 * DRAWS)
            expected = cosines([torch.tensor([c.reference[0], mean]) for c in ranks.clips])[:QUERIES]
            torch.testing.assert_close(ranks.larger_reference(without), expected)
            assert torch.equal(ranks.references[without], expected) == (not own)


@pytest.mark.slow
def test_rankings_and_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of random weights: every arm and budget, correlations in −1 … 1; cosines of a clip with itself 1."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = video.ClipOptions
    monkeypatch.setattr(video, "ClipOptions", lambda size: plain(size=size, count=14))
    monkeypatch.setattr(video, "PROJECTED", 256)
    video.model_of.cache_clear()
    teacher = str(save_wan(tmp_path / "wan"))

    def here(calls: Any) -> Any:
        return {name: [call() for call in row] for name, row in calls.items()}

    plan = PLAN._replace(draws=dict.fromkeys(SAMPLERS, 8), reference=4)
    measured = video_rankings.measure(here, plan, teacher, 0)
    assert [len(clips) for clips in measured.values()] == [14, 14]
    assert not measured["plain"][0].by_set
    torch.testing.assert_close(
        cosines([c.reference for c in measured["motion"]]).diagonal(), torch.ones(14).double()
    )
    rows = video_rankings.correlation_rows(measured["motion"], plan)
    assert {(r["arm"], r["K"]) for r in rows} >= {("iid", 1), ("Strat", 8), ("pairs", 2)}
    assert all(-1 <= r["correlation"] <= 1 for r in rows)
    assert all(-1 <= r["correlation_larger"] <= 1 for r in rows)
    twice = {(r["arm"], r["K"]): r for r in rows}
    difference = twice["Strat", 4]["correlation"] - twice["iid", 8]["correlation"]
    assert twice["Strat", 4]["over_twice_iid"] == pytest.approx(difference)
    assert "over_twice_iid" not in twice["Strat", 8]
    levels = video_rankings.level_over_noise(lambda calls: [c() for c in calls], plan, teacher, 2, 4, 0)
    said = video_rankings.verdict(rows, levels, plan)
    assert len(said) == 10
    assert said[0].startswith("V_level/V_noise at 16 pixels, u uniform: ")

    few = PLAN._replace(draws={"iid": 4, "Strat": 2}, reference=0, plain=False)
    measured = video_rankings.measure(here, few, teacher, 0)
    assert list(measured) == ["motion"]
    rows = video_rankings.correlation_rows(measured["motion"], few)
    budgets = [("iid", 1), ("iid", 2), ("iid", 4), ("Strat", 1), ("Strat", 2)]
    assert [(r["arm"], r["K"]) for r in rows] == budgets == few.budgets
    assert not any("correlation_larger" in r for r in rows)
    assert all(-1 <= r["correlation"] <= 1 for r in rows)
    said = video_rankings.verdict(rows, None, few)
    assert said[0] == "V_level/V_noise at 16 pixels, u uniform: as the part `video` has it."
    assert "the draws of all other sets" in said[1]
