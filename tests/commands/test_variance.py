"""evaluate.py variance: what cannot be measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from carv_distill.commands.evaluate import main
from carv_distill.distillation.options import DMDConfig
from carv_distill.tasks import train


def test_what_lies_above_the_runs_own_is_refused(
    small_config: Callable[..., DMDConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before hours of measurements, with what to add."""
    run = train(small_config("trainer.max_steps=1", "estimator.upstream=3", "estimator.draws=2"))
    assert main(["variance", "--run", str(run), "--draws", "4", "8", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "--draws: 4 8; all are above the run's own K, whose variance must be known" in error
    assert "add 2\n" in error
    assert main(["variance", "--run", str(run), "--upstream", "4", "--device", "cpu"]) == 2
    assert (
        "--upstream: 4 is above the run's own R, 3, whose variance must be known" in capsys.readouterr().err
    )
