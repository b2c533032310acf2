"""Options that change with the step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.engine.yaml_files import yaml_text
from carv_distill.errors import UserError
from carv_distill.tasks import load_config
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.text_to_3d.options import SDSConfig, SDSOptions, greatest_level
from carv_distill.text_to_3d.schedules import (
    check_schedule,
    first_crossing,
    knots,
    last_stage,
    stage_at,
    value_at,
)
from tests.helpers.loops import fit
from tests.helpers.sds_modules import VIEW

Make = Callable[..., SDSModule]


def threestudio(value: list[float], step: int) -> float:
    """Lists of four and six, by the formula of threestudio's `C`."""
    if len(value) == 6:
        value = value[:4] if step < value[3] else [value[3], value[2], *value[4:]]
    start, low, high, end = value
    return low + (high - low) * max(min(1.0, (step - start) / (end - start)), 0.0)


@pytest.mark.parametrize(
    "schedule", [[0, 0.98, 0.5, 5001], [0, 7.5, 20, 300, 5, 400], [100, 1.0, 0.0, 200], [0, 0.0, 0.0, 1]]
)
def test_lists_mean_what_threestudio_takes_them_for(schedule: list[float]) -> None:
    for step in (0, 1, 99, 150, 299, 300, 301, 350, 400, 2500, 5000, 5001, 9000):
        assert value_at(schedule, step) == pytest.approx(threestudio(schedule, step), rel=1e-12)


def test_longer_lists_go_on_from_knot_to_knot() -> None:
    schedule = [0, 1.0, 2.0, 10, 2.0, 20, 0.0, 40]
    assert knots(schedule) == [(0, 1), (10, 2), (20, 2), (40, 0)]
    assert [value_at(schedule, s) for s in (0, 5, 10, 15, 20, 30, 40, 41)] == [1, 1.5, 2, 2, 2, 1, 0, 0]
    assert value_at(7.5, 3) == 7.5


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ([0.98], r"\[0\.98\] is neither a number nor \[step, value, value, step"),
        ([], r"\[\] is neither a number"),
        ([0, 0.98, 0.5], "neither a number"),
        ([0, 0.98, 0.5, 100, 0.3], "neither a number"),
        (
            [0, 0.98, 0.5, 99.5],
            r"99\.5 of \[0, 0\.98, 0\.5, 99\.5\] is to be a step, and is not a whole number",
        ),
        ([0, 0.98, 0.5, 60, 0.4, 60], "the steps .* must rise, and after 60 comes 60"),
        ([0, 0.98, 0.5, 60, 0.4, 50], "after 60 comes 50"),
        ([0, 1.5, 0.5, 100], r"1\.5 of .* is above the greatest allowed value, 1"),
        ([0, 0.9, -0.5, 100], r"-0\.5 of .* is below the least allowed value, 0"),
        ([0, 0.9, 0.5, 50, 1.01, 100], r"1\.01 of .* is above"),
        ([20, 0.9, 0.5, 100], r"begins at step 20, the run at 0; let it begin as \[0, 0\.9, 0\.9, 20, …\]"),
        ([0, 0.9, 0.5, 98], r"ends at step 98, .*max_steps=100 is 99; let it end as …, 0\.5, 100\]"),
    ],
)
def test_lists_that_make_no_sense_are_refused_in_one_line(schedule: list[float], said: str) -> None:
    with pytest.raises(UserError, match=f"^sds.t_max: {'.*' if said[0] != '.' else ''}{said}") as caught:
        check_schedule("sds.t_max", schedule, {"low": 0, "high": 1}, 100)
    assert "\n" not in str(caught.value)


def test_lists_that_cover_the_run_pass() -> None:
    for schedule in (0.5, [0, 0.98, 0.5, 99], [0, 0.98, 0.5, 5001], [0, 0.9, 0.9, 20, 0.5, 100]):
        check_schedule("sds.t_max", schedule, {"low": 0, "high": 1}, 100)
    with pytest.raises(UserError, match=r"0 of .* is not above 0"):
        check_schedule("sds.rate", [0, 1, 0, 100], {"above": 0}, 100)


def test_where_one_meets_another() -> None:
    """0.9 → 0.1 over 100 steps meets 0.3 at step 75, which the next knot of either shows."""
    assert first_crossing([0, 0.0, 0.3, 50], [0, 0.9, 0.1, 100]) == 100
    assert first_crossing([0, 0.0, 0.3, 50, 0.3, 80], [0, 0.9, 0.1, 100]) == 80
    assert first_crossing([0, 0.0, 0.3, 50, 0.3, 70, 0.3, 90], [0, 0.9, 0.1, 85]) == 70
    assert first_crossing(0.02, [0, 0.98, 0.5, 100]) is None
    assert first_crossing(0.5, 0.5) == 0


def loaded(*words: str, config: str | Path = "configs/sds_carv.yaml") -> SDSConfig:
    result = load_config(config, words)
    assert isinstance(result, SDSConfig)
    return result


def test_a_configuration_takes_numbers_and_lists(tmp_path: Path) -> None:
    config = loaded("sds.t_max=[0, 0.98, 0.5, 399]", "sds.guidance=0,4,7.5,400", "sds.t_min=0.05")
    assert config.sds.t_max == [0, 0.98, 0.5, 399]
    assert config.sds.guidance == [0, 4, 7.5, 400]
    assert config.sds.t_min == 0.05
    written = {"task": "sds", "name": "x", "teacher": {"path": "p"}}
    written["sds"] = {"prompt": "a cube", "sparsity": [0, 10.0, 1, 600], "opaque": 2}
    (tmp_path / "c.yaml").write_text(yaml_text(written))
    again = loaded(config=tmp_path / "c.yaml")
    assert (again.sds.sparsity, again.sds.opaque) == ([0, 10, 1, 600], 2.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sds.t_max=high"], "sds.t_max: 'high' is not a number, nor a list as"),
        (["sds.guidance=[0, a, 1, 400]"], r"sds.guidance\[1\]: 'a' is not a number"),
        (["sds.guidance=-1"], "sds.guidance: -1.0 is below the least allowed value, 0"),
        (["sds.guidance=nan"], "sds.guidance: nan is not finite"),
        (["sds.opaque=[0, 1, inf, 400]"], "sds.opaque: .* is not finite"),
        (["sds.lr_multiple=[0, 1, 0.1, 300]"], "sds.lr_multiple: .* ends at step 300"),
        (["sds.sparsity=[5, 1, 2, 400]"], "sds.sparsity: .* begins at step 5"),
        (["sds.smoothness="], "sds.smoothness: it is empty"),
        (
            ["sds.t_max=[0, 0.98, 0.1, 399]", "sds.t_min=[0, 0.02, 0.1, 399]"],
            "0.1 is not below .* at step 399",
        ),
        (["sds.t_max=[0, 0.98, 0.5, 399]", "sds.t_max_end=0.5"], "sds.t_max_end: sds.t_max is a list"),
    ],
)
def test_a_configuration_is_checked(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        loaded(*words)


def test_the_older_key_reads_as_its_list() -> None:
    old = SDSOptions("a", t_max=0.98, t_max_end=0.5)
    assert greatest_level(old, 400) == [0, 0.98, 0.5, 399]
    assert greatest_level(SDSOptions("a", t_max=0.98, t_max_end=0.98), 400) == 0.98
    for step in range(400):
        straight = 0.98 + step / 399 * (0.5 - 0.98)
        assert value_at(greatest_level(old, 400), step) == pytest.approx(straight, rel=1e-14)
    assert value_at(greatest_level(old, 1), 0) == 0.98


def test_levels_follow_both_ends(make_module: Make) -> None:
    module = make_module(t_min=[0, 0.02, 0.22, 10], t_max=[0, 0.98, 0.5, 5, 0.5, 10])
    found = [(r.first, r.last) for r in map(module.objective.levels.range_at, (0, 5, 10))]
    assert found == [(1, 49), (6, 25), (11, 25)]


def test_guidance_follows_the_step(make_module: Make) -> None:
    """ε̂_∅ + s (ε̂_y − ε̂_∅) is linear in s: at step 5 of 1 → 11, the residual at s = 6; s = 1 in between is
    the conditional prediction."""
    module = make_module(guidance=[0, 1.0, 11.0, 10])
    objective, g = module.objective, stream("guidance")
    x, eps = (torch.randn(3, 4, 4, 4, generator=g) for _ in range(2))
    u, index, cond = torch.rand(3, generator=g), torch.arange(3), objective.prompts.value[:3]  # type: ignore[index]

    def residual(step: int, other: SDSModule = module) -> torch.Tensor:
        with torch.no_grad():
            return other.objective.residual(cond, step)(x, u, eps, index)

    first, middle, last = (residual(step) for step in (0, 5, 10))
    torch.testing.assert_close(middle, (first + last) / 2, rtol=1e-4, atol=1e-5)
    assert (last - first).norm() > 0.01 * first.norm()
    for step, scale in ((0, 1.0), (5, 6.0)):
        torch.testing.assert_close(
            residual(step), residual(0, make_module(guidance=scale)), rtol=1e-4, atol=1e-5
        )


def test_weights_of_regularisers_follow_the_step(make_module: Make) -> None:
    module = make_module(sparsity=[0, 0.0, 4.0, 8], opaque=[0, 1.0, 0.0, 8], smoothness=[0, 2.0, 2.0, 8])
    seen = module.objective.rendered(module.objective.camera_sampler.sample(1, stream("c")), stream("r"))
    found = module.objective.regulariser(seen, 4)
    assert torch.allclose(
        found, make_module(sparsity=2.0, opaque=0.5, smoothness=2.0).objective.regulariser(seen, 0)
    )


def test_rates_follow_the_step(make_module: Make) -> None:
    """A multiple of 0 at the third step leaves the field as it is; rates come back after that."""
    module: Any = make_module(lr_multiple=[0, 1.0, 0.5, 1, 0.0, 2, 1.0, 4])
    before, rates, original = [], [], module.training_step

    def training_step(batch: object, batch_idx: int) -> None:
        before.append([p.detach().clone() for p in module.scene.parameters()])
        original(batch, batch_idx)
        rates.append([group["lr"] for group in module.optimizers().param_groups])

    module.training_step = training_step
    fit(module, 4)
    o = module.objective.options
    assert rates == [[m * o.density_lr, m * o.colour_lr] for m in (1, 0.5, 0, 0.5)]
    changed = [not all(map(torch.equal, a, b)) for a, b in pairwise(before)]
    assert changed == [True, True, False]


def test_stages_hold_from_their_step_on() -> None:
    stages = [0, 16, 3, 24, 5, 32]
    assert [stage_at(stages, step) for step in (-1, 0, 2, 3, 4, 5, 900)] == [16, 16, 16, 24, 24, 32, 32]
    assert (stage_at(8, 0), stage_at(8, 7), last_stage(8), last_stage(stages)) == (8, 8, 8, 32)


def test_renders_have_the_size_of_their_step_and_the_teacher_its_own(make_module: Make) -> None:
    """And a gradient at a step, as `evaluate.py variance` takes it, is by renders of the size of then."""
    view = replace(VIEW, size=[0, 4, 3, 6, 5, 8], upsample=True)
    objective = make_module(view=view).objective
    for step, side in ((0, 4), (2, 4), (3, 6), (5, 8), (9, 8)):
        upstream, seen = objective.upstream(objective.cameras(1, stream("c")), stream("r"), step)
        assert seen.image.shape == (1, 3, side, side)
        assert upstream.x.shape[1:] == objective.teacher.shape
        assert torch.equal(
            objective.pipeline(step)(1, stream("p")).x, objective.pipeline(step)(1, stream("p")).x
        )
