"""The levers of one-step distillation."""

from __future__ import annotations

import pytest

from studies.dmd_bottleneck.levers import LEVERS, Lever, draw_levers, summarise, verdict


def test_levers_spend_the_compute_of_the_default() -> None:
    """To half an update; the cost formula by hand for R = 2, K = 3, one fake update."""
    assert Lever("x", upstream=2, draws=3, fake_updates=1).cost == 6 + 12 + 48 + 144
    for lever in LEVERS:
        spent = lever.updates(300) * lever.cost
        assert spent == pytest.approx(300 * LEVERS[0].cost, abs=lever.cost / 2)


def test_every_lever_has_a_run_of_its_own() -> None:
    names = {lever.run(seed, 300).name for lever in LEVERS for seed in range(3)}
    assert len(names) == 3 * len(LEVERS)


def test_a_lever_is_compared_with_the_default() -> None:
    """Half the FID in every seed, and as much: seeds of unequal level do not matter."""
    fids = {lever.name: [2.0, 4.0, 8.0] for lever in LEVERS} | {"R = 8": [1.0, 2.0, 4.0]}
    rows = summarise(fids, 300)
    assert rows[1]["fid_ratio"] == pytest.approx(0.5)
    assert "R = 8 0.5" in verdict(rows)[0]
    assert draw_levers(rows).axes
