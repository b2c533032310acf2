"""Figures of the part on video, of made-up numbers."""

from __future__ import annotations

from itertools import product

from studies.attribution_budget import video_figures
from studies.attribution_budget.strata import BUDGETS
from studies.attribution_budget.video import DECIDING, NORMS, PARAMETERS, TRAINED, WEIGHTS
from studies.study import Row


def test_a_panel_for_each_setting() -> None:
    """Every arm with its rows alone, and the ratio of the panel's own setting in its title."""
    rows: list[Row] = [
        {"weights": w, "norms": n, "parameters": p, "law": law, "arm": arm, "K": k,
         "ecm": 1 + k / 20 + (law == TRAINED), "ecm_low": 1.0, "ecm_high": 2 + k / 10,
         "level_over_noise": 2.0 + i + 5 * (law == TRAINED)}
        for i, (w, n) in enumerate(product(WEIGHTS, NORMS))
        for p, law in product(PARAMETERS, (DECIDING, TRAINED))
        for arm in video_figures.ARMS
        for k in BUDGETS
        if arm not in video_figures.OWN_LAW or (k <= 16 and law == TRAINED)
    ]  # fmt: skip
    axes = video_figures.draw_gains(rows).axes
    assert [ax.get_title()[-3:] for ax in axes] == ["2.0", "3.0", "4.0", "5.0"]
    lengths = {line.get_label(): len(line.get_xdata()) for line in axes[3].lines}  # type: ignore[arg-type]
    assert lengths["Strat"] == len(BUDGETS)
    assert lengths["systematic, u uniform"] == 5
    assert max(axes[3].lines[0].get_ydata()) == 1 + 64 / 20  # type: ignore[arg-type]  # of the deciding law
    profile: list[Row] = [
        {"weights": w, "norms": n, "parameters": p, "u": (s + 0.5) / 8, "square": 1.0, "of_mean": 0.5}
        for w, n, p, s in product(WEIGHTS, NORMS, PARAMETERS, range(8))
    ]
    assert [len(ax.lines[0].get_xdata()) for ax in video_figures.draw_profile(profile).axes] == [8] * 4  # type: ignore[arg-type]


def test_rankings_over_draws_and_shares_of_motion() -> None:
    correlation: list[Row] = [
        {"arm": arm, "K": k, "correlation": 0.5, "correlation_low": 0.4, "correlation_high": 0.6}
        for arm in ("iid", "Strat", "pairs")
        for k in (2, 4)
    ]
    motion: list[Row] = [
        {"weights": w, "queries": q, "clips": 112, "by_blocks": 0.3,
         "by_blocks_low": 0.2, "by_blocks_high": 0.5}
        for w in ("plain", "motion", "difference")
        for q in ("all", "named", "silent")
    ]  # fmt: skip
    left, right = video_figures.draw_rankings(correlation, motion).axes
    assert {"iid", "Strat", "pairs"} <= set(left.get_legend_handles_labels()[1])
    assert {"plain loss", "weighed by motion", "chance"} == set(right.get_legend_handles_labels()[1])
    alone = [row for row in motion if row["weights"] == "motion"]
    _, right = video_figures.draw_rankings(correlation, alone).axes
    assert {"weighed by motion", "chance"} == set(right.get_legend_handles_labels()[1])
