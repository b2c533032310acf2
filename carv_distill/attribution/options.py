"""What evaluate.py influence is told."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from carv_distill.errors import UserError

AUTO = "auto"
SCORES = ("cosine", "inner", "tracin", "trak")
NORMALISE = ("mean", "draw")
"""Of a cosine: the mean gradient (an angle between means), or each draw's before the mean is taken."""
INDEPENDENT = ("iid", "stratified", "paired", "systematic")
"""Strategies under which the groups of draws are independent of each other."""
PROPOSALS = ("uniform", "importance", "neyman")
NOISES = ("iid", "antithetic", "zero_sum")
"""As in :mod:`carv_distill.carv`, which needs torch."""
PROJECTIONS = ("none", "countsketch", "gaussian", "rademacher")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class InfluenceOptions:
    """What evaluate.py influence is told; see its --help."""

    teacher: str | None = None
    data: str | None = None
    queries: str = "samples:8"
    draws: int = 16
    groups: int = 4
    strategy: str = AUTO
    proposal: str = AUTO
    noise: str = AUTO
    seed: int = 0
    parameters: tuple[str, ...] | list[str] = ("*",)
    projection: str = "countsketch"
    size: int = 4096
    score: str = "trak"
    normalise: str = "mean"
    debias: bool | None = None
    damping: float = 1.0
    checkpoints: tuple[int, ...] | list[int] | None = None
    precision: str = AUTO
    chunk: int | None = None
    store: Path | None = None
    scores: Path | None = None

    def __post_init__(self) -> None:
        if (self.teacher is None) != (self.data is None):
            raise UserError("--teacher and --data go together, as --teacher FOLDER --data digits")
        if self.draws % self.groups:
            raise UserError(f"--draws: {self.draws} is no multiple of --groups, {self.groups}")
        each = self.draws // self.groups
        if self.strategy == "paired" and each % 2 and each > 1:
            raise UserError(f"--strategy: paired needs an even number of draws in a group, found {each}")
        if self.debias and self.score == "trak":
            raise UserError(
                "--debias: trak has no debiased scores; its matrix is made of the draws it weighs"
            )
        if self.debiased and self.groups < 2:
            raise UserError("--groups: products across groups need 2 or more, found 1 (or say --no-debias)")
        if self.normalise == "draw" and self.score != "cosine":
            raise UserError(f"--normalise: draw is for --score cosine, found {self.score}")
        if self.score == "tracin" and not self.checkpoints:
            raise UserError(
                "--score: tracin needs --checkpoints, steps of a teacher's training that its run kept"
            )
        if self.checkpoints and self.score != "tracin":
            raise UserError(f"--checkpoints: they are for --score tracin, found {self.score}")
        if self.projection == "none" and self.score == "trak":
            raise UserError(
                "--projection: trak inverts a matrix of --size numbers squared; none is no choice"
            )
        if self.checkpoints and self.teacher is not None:
            raise UserError("--checkpoints: they are those of a teacher's run; --teacher has none")
        if self.scores is not None and self.scores.suffix not in (".npz", ".parquet"):
            raise UserError(f"--scores: {self.scores} must end in .npz or .parquet")
        if self.scores is not None and self.scores.suffix == ".parquet" and find_spec("pyarrow") is None:
            raise UserError(
                f"--scores: {self.scores} needs the package pyarrow, which is not here (pip install "
                "'carv-distill[parquet]'); .npz does not"
            )

    @property
    def debiased(self) -> bool:
        """Whether scores are; by default all but those of trak."""
        return self.score != "trak" if self.debias is None else self.debias

    def precision_on(self, device: str) -> str:
        """fp32 or bf16; auto is bf16 on CUDA."""
        if self.precision != AUTO:
            return self.precision
        return "bf16" if device.startswith("cuda") else "fp32"
