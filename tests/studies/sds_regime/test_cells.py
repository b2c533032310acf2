"""The gate on made-up budgets: what passes, what does not, and what is not resolved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from carv_distill.tasks import load_config
from carv_distill.text_to_3d.options import SDSConfig
from carv_distill.variance import Estimate, VarianceBudget
from studies.sds_regime.cells import (
    CAMERAS,
    CONFIG,
    Cell,
    camera_cells,
    camera_rows,
    gate_cells,
    pooled,
    rows_of,
    training,
    verdict,
)
from studies.sds_regime.figures import draw_cameras, draw_gate


def budget(ratio: float, error: float = 0.02) -> VarianceBudget:
    def about(value: float) -> Estimate:
        return Estimate(value, error * value, value * (1 - 2 * error), value * (1 + 2 * error))

    halves = about(ratio / 2), about(ratio / 2)
    return VarianceBudget(about(1.0), *halves, about(ratio), about(1 + ratio), about(0.1), 100)


def measured(draw: float, error: float = 0.02) -> dict[Cell, VarianceBudget]:
    cells = gate_cells(["a torus"], [0], [50, 150])
    return {c: budget(draw if c.augment == "draw" else 1.5, error) for c in cells}


def test_the_gate() -> None:
    good, poor = measured(20.0), measured(9.0)
    assert len(good) == 6
    (said, kappa) = verdict(good, ["a torus"], [0], {"a torus": 4.2})
    assert said.endswith("2 of 2 states surely above 10; passes.")
    assert "per render 1.50" in said
    assert kappa == "κ: a torus 4.2."
    assert verdict(poor, ["a torus"], [0], {})[0].endswith("0 of 2 states surely above 10; does not pass.")


def unseen(within: float) -> dict[Cell, VarianceBudget]:
    """B in [0, 0.2], W ± 4 %."""
    return {c: replace(b, between=Estimate(0.05, 0.1, -0.1, 0.2)) for c, b in measured(within).items()}


@pytest.mark.parametrize(("within", "ends"), [(4.0, "passes"), (2.0, "does not pass")])
def test_where_b_is_not_told_from_zero_its_upper_end_counts(within: float, ends: str) -> None:
    least = within * 0.96 / 0.2
    assert pooled(unseen(within), "a torus", 0, "draw", False) == (None, pytest.approx(least))
    said = verdict(unseen(within), ["a torus"], [0], {})[0]
    assert f"per draw at least {least:.1f}" in said
    assert said.endswith(f"surely above 10; {ends}.")


def test_pooled_is_over_the_states_of_one_setting() -> None:
    found = measured(20.0)
    found[Cell("a torus", 0, 50)] = budget(5.0)
    value, low = pooled(found, "a torus", 0, "draw", False)
    assert value is not None
    assert value.value == pytest.approx(10.0)
    assert low == value.low


def test_the_configuration_takes_what_a_training_says() -> None:
    config = load_config(CONFIG, training("a mug", 1, 1000).words)
    assert isinstance(config, SDSConfig)
    assert (config.sds.prompt, config.seed, config.sds.augment) == ("a mug", 1, "draw")
    distance, fov, elevation = CAMERAS["near"]
    assert tuple(config.camera.distance) == distance
    assert tuple(config.camera.fov) == fov
    assert tuple(config.camera.elevation) == elevation


def test_rows_and_pictures() -> None:
    near = {Cell("a torus", 0, 150): budget(20.0)}
    wide = {c: budget(3.0) for c in camera_cells(["a torus"], 0, 150)}
    assert len(wide) == len(CAMERAS) - 1
    assert all("W/B 3.00" in line for line in camera_rows(wide))
    (unseen_line,) = camera_rows(dict([next(iter(unseen(4.0).items()))]))
    assert unseen_line == "a torus, near: W/B at least 19.2."
    assert [row["cameras"] for row in rows_of(near | wide)] == ["near", *(c.cameras for c in wide)]
    (axes,) = draw_cameras(near | wide).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CAMERAS)
    (gate,) = draw_gate(measured(20.0)).axes
    assert len(gate.lines) >= 3
