"""The study's pictures show the numbers of its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from studies.dmd_gap import table
from studies.dmd_gap.arms import BASE, LONGER, REUSE, STRATA, seeds_of
from studies.dmd_gap.figures import draw_gap, draw_states
from tests.helpers.gap_runs import MORE, SEEDS, make_runs


def test_curves_are_means_over_seeds_and_every_arm_has_its_end(tmp_path: Path) -> None:
    """Geometric means, here of the stratified arm; the longer baseline has no variance beside the others,
    and FID over updates leaves it out, over seconds the shorter one."""
    arms = make_runs(tmp_path)
    seeds = seeds_of(arms, SEEDS, MORE)
    metrics = table.read_runs(arms, seeds, tmp_path)
    finals = {arm.name: [arm.run(seed).fid(tmp_path) for seed in seeds[arm.name]] for arm in arms}
    traces, runs = table.trace_rows(metrics), table.run_rows(arms, metrics, finals, seeds)
    figure = draw_gap(traces, runs, table.band(finals), {"floor": 0.5})
    total, within, updates, seconds, ends = figure.axes
    assert [len(axes.lines) for axes in (total, within, updates, seconds)] == [len(arms) - 1] * 4
    names = [arm.name for arm in arms if arm.name != LONGER]
    curve = total.lines[names.index(STRATA)]
    for step, value in zip(curve.get_xdata(), curve.get_ydata(), strict=True):
        own = [
            row["total"] for row in traces if (row["arm"], row["step"]) == (STRATA, step) and "total" in row
        ]
        assert value == pytest.approx(np.exp(np.mean(np.log(own))))
    assert ends.get_xticklabels()[0].get_text() == f"{BASE}\n3 seeds"
    assert [text.get_text() for text in ends.get_legend().get_texts()] == ["band of the baseline", "floor"]


def test_states_show_ratios_bounds_and_errors() -> None:
    """Twice the variance is a curve at 2; a bound has a marker of its own; V/H stands beside the errors."""
    rows = [
        {"step": step, "estimator": name, "noise_left": 0.1, "noise_left_least": least, "horizon": 4.0}
        | dict.fromkeys(("total", "within", "difference", "teacher"), 2.0 if name == BASE else 1.0)
        | {"lag": 0.5, "lag_low": 0.4, "lag_high": 0.6}
        | {"exact_signal": 3.0, "exact_signal_low": 2.0, "exact_signal_high": 4.0}
        for name in (BASE, REUSE, STRATA)
        for step, least in ((8, False), (16, True))
    ]
    reuse, strata, left, error = draw_states(rows).axes
    for place in (reuse, strata):
        assert [line.get_ydata().tolist() for line in place.lines] == [[2.0, 2.0]] * 4
    assert [np.isnan(line.get_ydata()).tolist() for line in left.lines] == [[False, False], [True, False]] * 3
    assert [line.get_ydata().tolist() for line in error.lines] == [
        [0.5, 0.5],  # the baseline's V/H
        [0.25, 0.25],
        [0.25, 0.25],
        [0.5, 0.5],  # the fake score's error
        [3.0, 3.0],
    ]
