"""States of a run, looked into."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.commands.train import main as train
from carv_distill.errors import UserError
from carv_distill.variance import mean_estimate
from studies.dmd_gap import states
from studies.dmd_gap.settings import SETTINGS, STATES, Effort
from tests.helpers.small import ROOT, SMALL


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two updates of digits."""
    folder = tmp_path_factory.mktemp("runs")
    words = [*SMALL, "trainer.max_steps=2", "checkpoint.every=1", "preview.every=0", f"folder={folder}"]
    assert train(["--config", str(ROOT / "configs/dmd_carv.yaml"), *words]) == 0
    return folder / "dmd_carv"


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two in an update, and four batches to compare in: an eighth of the work."""
    monkeypatch.setattr(states, "UPSTREAM", 2)
    monkeypatch.setattr(states, "COMPARED", 4)


@pytest.mark.slow
def test_scores_of_sixteen_draws_vary_less(run: Path) -> None:
    """With the samples fixed a mean of 16 iid draws has a sixteenth of the variance of one, here within 4
    standard errors of both, and the teacher's score varies more than the difference of scores."""
    one, many = (states.measure_scores(run, 2, e, 12) for e in ("(8,1) iid", "(8,16) iid"))
    for name in ("teacher", "difference"):
        a, b = getattr(one, name), getattr(many, name)
        assert abs(a.value - 16 * b.value) < 4 * (a.se + 16 * b.se)
    assert many.teacher.low > many.difference.high


@pytest.mark.slow
def test_a_copy_that_learned_has_the_lower_loss(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the run's own fake score stays as it is. After two updates it is far behind."""
    module = states.open_state(run, 2)
    before = [p.clone() for p in module.objective.fake.parameters()]
    monkeypatch.setattr(states, "open_state", lambda *_: module)
    lag = states.measure_lag(run, 2, Effort(2, 12, 2))
    assert lag.refined < lag.loss
    assert lag.error.value != 0
    first, second = (states.refined(module, name, Effort(2, 12, 2)) for name in ("first", "second"))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, module.objective.fake.parameters(), strict=True))


@pytest.mark.slow
def test_without_a_lag_there_is_no_error(run: Path) -> None:
    """A copy that learned nothing changes nothing, to the last bit."""
    lag = states.measure_lag(run, 2, Effort(2, 0, 2))
    assert lag.error.value == 0
    assert lag.loss == lag.refined


def test_a_state_that_was_not_kept_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint of update 5 to look into; remove it"):
        states.measure_states(run, (2, 5), Effort(4), tmp_path, 1)


def test_the_signal_is_that_of_the_objective(run: Path) -> None:
    """The residual that is put together here is the objective's own."""
    objective = states.open_state(run, 2).objective
    z, labels = objective.upstream_noise(4, stream("z"))
    x = objective.generate(objective.student, z, labels).detach()
    u, index = torch.rand(4, generator=stream("u")), torch.arange(4)
    eps = torch.randn(x.shape, generator=stream("e"))

    def call(x: torch.Tensor, sigma: torch.Tensor, eps: torch.Tensor, cond: object) -> torch.Tensor:
        return states.dmd_residual(objective.fake, objective.teacher, x, sigma, eps, cond)  # type: ignore[arg-type]

    made = states.pipeline_of(objective, call, fixed=True)(4, stream("z"))
    assert torch.equal(made.x, x)
    wanted = objective.residual(labels)(x, u, eps, index)
    torch.testing.assert_close(made.residual(x, u, eps, index), wanted)


def test_a_row_says_what_is_left_after_averaging(run: Path) -> None:
    """V/(H |E g|²) with H = 1/(1 − ema)."""
    v = states.measure_gradient(run, 2, "(8,1) iid", 4)
    one = mean_estimate([1.0, 2.0, 3.0])
    row = states.row_of(2, "(8,1) iid", v, states.Scores(one, one), states.Lag(one, one, 2.0, 1.0), 50)
    told = row["signal_low"] > 0
    signal = row["signal"] if told else max(row["signal_high"], row["signal_se"])
    assert row["noise_left"] == pytest.approx(row["total"] / (50 * signal))
    assert row["noise_left_least"] == (not told)
    assert (row["lag"], row["exact_signal"], row["fake_loss"], row["refined_loss"]) == (2.0, 2.0, 2.0, 1.0)
    assert states.config_of(run).dmd.ema == 0.98


def test_what_is_looked_into_is_kept() -> None:
    """A run keeps its states at multiples of an eighth."""
    assert all(STATES % part == 0 for setting in SETTINGS.values() for part in setting.looked_into)
