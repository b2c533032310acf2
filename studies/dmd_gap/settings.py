"""The data sets of the study, and how long and with what its students are trained on each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from carv_distill.distillation.options import DMDConfig, DMDOptions
from carv_distill.errors import UserError
from carv_distill.tasks import load_config

FACTORS = (1.0, 0.5, 2.0)
"""Of the configuration's learning rate, that the pilot tries."""
STATES = 8
"""Of a run, at which it is kept, and by default variance and FID are traced."""
START = Path("results/dmd_gap/fashion_start.pt")
"""Student and fake score that all students of fashion begin from (:mod:`~studies.dmd_gap.start`)."""


class Effort(NamedTuple):
    """What looking into a state takes."""

    pairs: int
    """Of gradients, and of scores."""
    updates: int = 400
    """Of a copy of the fake score that catches up, at a rate that falls to zero."""
    batch: int = 8
    """Of such an update, in the run's own."""


THOROUGH, TRIAL = Effort(64), Effort(4, 20)
"""The second one says nothing."""


class Timing(NamedTuple):
    """What choosing the arms takes, once the length is known."""

    repeats: int = 20
    """Of a gradient, by which it is priced."""
    parity: int = 48
    """Upstreams, whose noise is tested for parity."""
    upstreams: int = 256
    """By which R″ is set."""
    updates: int = 96
    """Of the training by which an arm's update is timed."""


PATIENT, BRIEF = Timing(), Timing(repeats=4, parity=16, upstreams=64, updates=32)


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
    """Updates that the pilot tries, ascending; multiples of 32, so that a quarter has eight states, too."""
    pilot_seeds: tuple[int, ...]
    seeds: int
    deciding: int
    """Seeds of the two arms that are compared to decide."""
    ranges: int
    """Of seeds, over which the final FID is a mean."""
    own_factors: bool = True
    """Whether its pilot tries learning rates; otherwise each arm takes its factor on digits."""
    decay: str = "student"
    """Whose learning rate falls to zero."""
    equal_variance: bool = True
    """Whether there is an arm of the total variance of (8,16), all of it within."""
    factors: tuple[float, ...] = FACTORS
    traced_states: int = STATES
    """Of a run, at which variance and FID are traced."""
    timing: Timing = PATIENT
    looked_into: tuple[int, ...] = (8, 4, 2, 1)
    """States: U over the updates of each."""
    effort: Effort = THOROUGH
    exact_noise: bool = True
    """Whether N* is measured, by copies of the fake score that catch up."""
    levels: Path | None = None
    """What evaluate.py says of its teacher and of real pictures; None: the pilot measures them."""

    @property
    def quick(self) -> Setting:
        """To try it: minutes."""
        one = self.pilot_seeds[:1]
        short = replace(self, lengths=(32,), pilot_seeds=one, seeds=2, deciding=2, ranges=1, factors=(1.0,))
        short = replace(short, effort=TRIAL, timing=BRIEF, looked_into=self.looked_into[-2:])
        words = (*self.words, "trainer.log_every=2")  # seconds between two measurements
        return replace(short, traced_states=4, words=words)


DIGITS = Setting(
    name="digits",
    config=Path("configs/dmd_carv.yaml"),
    words=("fid.labels=turn",),  # steadier: arms are compared with each other
    rate=6.0e-4,
    lengths=(256, 512, 1024),
    pilot_seeds=(100, 101),
    seeds=6,
    deciding=12,
    ranges=5,
)
FASHION = Setting(
    name="fashion",
    config=Path("configs/fashion/dmd_carv.yaml"),
    words=(
        f"dmd.start={START}",  # from the teacher FID falls for thousands of updates
        "trainer.log_every=4",  # seconds between two measurements
    ),
    rate=3.0e-4,
    lengths=(128, 256),
    pilot_seeds=(100,),
    seeds=4,
    deciding=8,
    ranges=1,
    own_factors=False,
    equal_variance=False,
    traced_states=4,  # variance takes as long as 12 updates each time, FID of 10,000 images as 22
    looked_into=(4, 1),
    effort=Effort(32, batch=2),  # as for digits a state would take two hours and more
    exact_noise=False,
    levels=Path("results/fashion/levels.json"),
)
TEXT_TO_IMAGE = Setting(
    name="text_to_image",
    config=Path("configs/text_to_image/dmd_shapes.yaml"),
    words=(),
    rate=1.0e-4,
    lengths=(160,),
    pilot_seeds=(),
    seeds=6,
    deciding=6,
    ranges=1,
    own_factors=False,
    decay="both",
    equal_variance=False,
    exact_noise=False,  # two hours, for a rule that digits leave without a border; on fashion, too
)
"""For the rule alone."""
SETTINGS = {setting.name: setting for setting in (DIGITS, FASHION, TEXT_TO_IMAGE)}


def config_of(setting: Setting) -> DMDConfig:
    """Its configuration as every run of it begins."""
    config = load_config(setting.config, setting.words)
    assert isinstance(config, DMDConfig)
    return config


def options_of(setting: Setting) -> DMDOptions:
    """Of its distillation."""
    return config_of(setting).dmd


def require_teacher(setting: Setting) -> None:
    """That what its students learn from, and are judged by, is there, before hours of another set.

    Raises:
        UserError: with the file that is not.
    """
    config = config_of(setting)
    fid = config.fid
    needed = (config.teacher.path, fid.weights, fid.reference, config.dmd.start, setting.levels)
    for path in needed:
        if path and not Path(path).exists():
            how = "python -m studies.dmd_gap.start" if Path(path) == START else "docs/data.md"
            raise UserError(f"--data: {setting.name} needs {path}, which is not there ({how} makes it)")
