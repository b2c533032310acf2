"""The pipelines whose gradient is a run's, what is measured of each, and what was found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from carv_distill.variance import Estimate
from studies.runs import TrainingRun, plain_name

OFF = ("preview.every=0", "checkpoint.keep_best=0")


@dataclass(frozen=True)
class Case:
    """A pipeline."""

    part: str
    """Of the study."""
    name: str
    config: Path
    words: tuple[str, ...]
    updates: int

    def run(self, updates: int | None = None) -> TrainingRun:
        """Its training."""
        words = (*self.words, *OFF, "seed=0", f"trainer.max_steps={updates or self.updates}")
        return TrainingRun(plain_name(self.name), words)


_DMD, _SDS = ("fid.every=0", "variance.every=0"), ("export.frames=8", "export.texture=0", "clip.every=0")
CASES = (
    Case("distillation", "distillation, pixels", Path("configs/dmd_carv.yaml"), _DMD, 300),
    Case("distillation", "distillation, latents", Path("configs/text_to_image/dmd_shapes.yaml"), _DMD, 80),
    Case("text_to_3d", "text-to-3D, voxels", Path("configs/sds_carv.yaml"), _SDS, 150),
    Case("text_to_3d", "text-to-3D, Gaussians", Path("configs/sds_gaussians.yaml"), _SDS, 150),
)


@dataclass(frozen=True)
class Sizes:
    """How much is measured; by default as `evaluate.py variance` does."""

    draws: tuple[int, ...] = (1, 2, 4, 8, 16)
    pairs: int | None = None
    upstreams: int = 32
    fresh: int = 96
    """Pairs of the fresh measurement."""
    rounds: int = 20
    """Of its seconds."""
    samples: int = 12
    """Training samples of attribution's pilot, and of its prediction; three times as many others measure it
    anew."""
    pool: int = 64
    """Training samples that the pilot picks from."""


QUICK = Sizes((1, 2, 4), 4, 4, 6, 3, 3, 6)


@dataclass(frozen=True)
class Prediction:
    """Of one pipeline: what is advised, what it is to give, and what it gave, as effective compute."""

    sampler: str
    setting: tuple[int, int]
    base: tuple[int, int]
    """(R, K) of uniform draws that it is against."""
    predicted: Estimate
    measured: Estimate
    variance: tuple[float, float]
    """The baseline's over the advised one's, predicted and measured."""
    seconds: tuple[float, float]
    """Of the advised one over the baseline's, predicted and measured."""

    @property
    def ratio(self) -> Estimate:
        """Measured over predicted, with the intervals of both (MOVER, on the logarithm)."""
        p, m = self.predicted, self.measured
        up = math.hypot(math.log(m.high / m.value), math.log(p.value / p.low))
        down = math.hypot(math.log(m.value / m.low), math.log(p.high / p.value))
        value = m.value / p.value
        return Estimate(value, value * (up + down) / 4, value * math.exp(-down), value * math.exp(up))

    @property
    def half_width(self) -> float:
        """Of the interval of :attr:`ratio`, as a factor: a hit says no more than that the two differ by less
        than about this."""
        return math.sqrt(self.ratio.high / self.ratio.low)

    @property
    def held(self) -> bool:
        """Whether the two agree within their intervals."""
        return self.ratio.low <= 1 <= self.ratio.high
