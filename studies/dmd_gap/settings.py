"""The data sets of the study, and how long and with what its students are trained on each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

FACTORS = (1.0, 0.5, 2.0)
"""Of the configuration's learning rate, that the pilot tries."""


@dataclass(frozen=True)
class Setting:
    """One data set; what `DESIGN.md` fixes for it."""

    name: str
    config: Path
    words: tuple[str, ...]
    """What every run of it overrides."""
    rate: float
    """The student's learning rate in the configuration."""
    lengths: tuple[int, ...]
    """Updates that the pilot tries, ascending."""
    pilot_seeds: tuple[int, ...]
    seeds: int
    ranges: int
    """Of seeds, over which the final FID is a mean."""
    own_factors: bool = True
    """Whether its pilot tries learning rates; otherwise each arm takes its factor on digits."""
    ema: float = 0.98
    """Of the student's average, per update, in the configuration."""
    decay: str = "student"
    """Whose learning rate falls to zero."""
    equal_variance: bool = True
    """Whether there is an arm of the total variance of (8,16), all of it within."""
    factors: tuple[float, ...] = FACTORS

    @property
    def quick(self) -> Setting:
        """To try it: minutes."""
        return replace(self, lengths=(40,), pilot_seeds=self.pilot_seeds[:1], ranges=1, factors=(1.0,))


DIGITS = Setting(
    name="digits",
    config=Path("configs/dmd_carv.yaml"),
    words=("fid.labels=turn",),  # steadier: arms are compared with each other
    rate=6.0e-4,
    lengths=(500, 1000, 2000),
    pilot_seeds=(100, 101),
    seeds=6,
    ranges=5,
)
FASHION = Setting(
    name="fashion",
    config=Path("configs/fashion/dmd_carv.yaml"),
    words=(),
    rate=3.0e-4,
    lengths=(500, 1000),
    pilot_seeds=(100,),
    seeds=4,
    ranges=1,
    own_factors=False,
    ema=0.99,
    equal_variance=False,
)
TEXT_TO_IMAGE = Setting(
    name="text_to_image",
    config=Path("configs/text_to_image/dmd_shapes.yaml"),
    words=(),
    rate=1.0e-4,
    lengths=(160,),
    pilot_seeds=(),
    seeds=3,
    ranges=1,
    own_factors=False,
    decay="both",
    equal_variance=False,
)
"""For the rule alone."""
SETTINGS = {setting.name: setting for setting in (DIGITS, FASHION)}
