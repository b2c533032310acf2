"""The state that all students of fashion begin from: where FID has nearly stopped falling.

    python -m studies.dmd_gap.start [--runs runs/studies] [--out results/dmd_gap/fashion_start.pt]

The configuration's own estimator, at a constant rate, on a seed that the study does not use. Student and fake
score are kept in half precision: rounded, but the same for all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from carv_distill.command_line import Parser, run_command
from carv_distill.errors import UserError

UPDATES, SEED = 2000, 200


def make_start(runs: Path, out: Path) -> None:
    """Trains, or goes on, measures the FID, and keeps the two networks.

    Raises:
        UserError: `out` is there already, as trainings that began from it would not be those of another.
    """
    import torch

    from carv_distill.engine.checkpoints import newest_checkpoint
    from carv_distill.files import atomic_file
    from studies.dmd_gap.settings import FASHION
    from studies.runs import TrainingRun, train_all

    if out.exists():
        raise UserError(f"{out} is there already; remove it to make it anew, or --out names another file")
    run = TrainingRun(
        f"{FASHION.name}-start-seed{SEED}",
        (
            f"trainer.max_steps={UPDATES}",
            "dmd.lr_decay=none",
            "variance.every=0",
            "fid.every=500",
            "preview.every=0",
            "checkpoint.keep_best=0",
            "checkpoint.keep_newest=1",
            f"seed={SEED}",
        ),
    )
    train_all([run], FASHION.config, runs, workers=1, ranges=1)
    newest = newest_checkpoint(runs / run.name / "checkpoints")
    assert newest is not None
    state = torch.load(newest[0], map_location="cpu", weights_only=True)["state_dict"]
    kept = {
        key: value.half() if value.is_floating_point() else value
        for key, value in state.items()
        if key.startswith(("objective.student.", "objective.fake."))
    }
    with atomic_file(out) as file:
        torch.save({"state_dict": kept}, file)
    print(f"FID {run.fid(runs):.1f} after {newest[1]} updates; {out}")


def main(words: Sequence[str] | None = None) -> int:
    """From the command line."""
    from carv_distill.files import destination
    from studies.dmd_gap.settings import START

    parser = Parser(__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="of the study")
    parser.add_argument("--out", type=Path, default=START)
    options = parser.parse_args(words)

    def work() -> None:
        with destination(options.out, "--out"):  # found before the hour of training
            make_start(options.runs / "dmd_gap", options.out)

    return run_command(work, "interrupted; the same command goes on from what is trained")


if __name__ == "__main__":
    sys.exit(main())
