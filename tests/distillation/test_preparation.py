"""What a student's page says of its run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from carv_distill.distillation.options import DMDConfig
from carv_distill.distillation.preparation import measured_gradient, student_figures
from carv_distill.tasks import train


def test_quality_is_that_of_the_last_measurement_by_the_student_s_update(
    tmp_path: Path, small_config: Callable[..., DMDConfig]
) -> None:
    """A later measurement is of another student; one without images has no shares."""
    rows = ["step,fid/fid,fid/precision,fid/recall,fid/copied", "2,9.5,0.1,0.2,0.3"]
    rows += ["4,1.234,0.91234,0.8,0.06", "5,,,,", "6,0.5,0.9,0.9,0.9"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    config = small_config("fid.images=1000")
    found = student_figures(config, tmp_path / "metrics.csv", 5)
    assert found["FID"] == "1.23 (1,000 images, digits features, at update 4)"
    shares = {name: found[name] for name in ("precision", "recall", "copied, 0.05 by chance")}
    assert shares == {"precision": 0.912, "recall": 0.8, "copied, 0.05 by chance": 0.06}
    (tmp_path / "metrics.csv").write_text("step,fid/fid\n2,9.5\n")
    assert "recall" not in student_figures(config, tmp_path / "metrics.csv", 5)
    assert "FID" not in student_figures(config, tmp_path / "metrics.csv", 1)


def test_a_learned_proposal_is_that_of_the_measured_gradient(small_config: Callable[..., DMDConfig]) -> None:
    """The one that the next update would draw from; a trace on the way takes its own sampler."""
    config = small_config(
        *("trainer.max_steps=2", "variance.every=2", "variance.pairs=3"),
        *("estimator.proposal=adaptive", "estimator.bins=4", "estimator.refresh=1"),
    )
    gradient = measured_gradient(config, train(config), "cpu", None)
    assert gradient.step == 2
    mass = gradient.sampler.proposal.mass
    assert len(mass) == 4
    assert mass.max() > 1.01 * mass.min()
    assert gradient.arm(0.1) == "own"
