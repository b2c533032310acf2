"""Pictures of the attribution study."""

from __future__ import annotations

from studies.attribution_budget import figures
from studies.attribution_budget.arms import BUDGETS


def test_pictures_show_what_there_can_be() -> None:
    """Correlations of either model from −1 on, whatever their intervals; the digits that were left out."""
    rows = [
        {"model": model, "arm": arm, "K": k, "correlation": value, "correlation_low": low,
         "correlation_high": 1.5}
        for model, value, low in (("digits", 0.9, 0.8), ("latents", -0.5, -4.0))
        for arm in ("iid", "best")
        for k in BUDGETS
    ]  # fmt: skip
    low, high = figures.draw_ranking(rows).axes[1].get_ylim()
    assert -1.1 < low <= -1
    assert high == 1.01
    mild = [{**r, "correlation_low": min(r["correlation"], 0.0) - 0.1} for r in rows]
    assert -0.8 < figures.draw_ranking(mild).axes[0].get_ylim()[0] < -0.6
    gains = [{"against": "class", "query": 0, "percent": 3.0}]
    assert "leaving 50 of these out" in figures.draw_top([list(range(50))], gains).get_suptitle()
