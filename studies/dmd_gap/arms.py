"""The estimators that are compared, and their training runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from studies.dmd_gap.settings import STATES, Setting
from studies.runs import TrainingRun, plain_name

UPSTREAM, DRAWS = 8, 16
BASE, LONGER = "(8,1) iid", "(8,1) iid, equal seconds"
REUSE, STRATA, BEST = "(8,16) iid", "(8,16) stratified", "(8,16) best"
DECIDING = (STRATA, LONGER)


@dataclass(frozen=True)
class Plan:
    """What the pilot found. Seconds are of one update on one thread."""

    updates: int
    """U: of all arms but the longer baseline."""
    upstream: int
    """R′ of (R′,1) iid: its update takes the seconds of (8,16)."""
    equal: int
    """R″ of (R″,1) iid: its total variance is that of (8,16) iid."""
    noise: str
    """The noise coupling of the best arm."""
    base: float
    """Seconds of an update at (8,1)."""
    reuse: float
    """Seconds of an update at (8,16)."""
    more: float
    """Seconds of an update at (R′,1)."""
    less: float
    """Seconds of an update at (R″,1)."""
    best: float
    """Seconds of an update of the best arm."""
    base_factor: float = 1.0
    """Of the configuration's learning rate, for (8,1)."""
    reuse_factor: float = 1.0
    """For (8,16) and (R″,1)."""
    more_factor: float = 1.0
    """For (R′,1)."""

    @property
    def longer(self) -> int:
        """Updates at (8,1) in the seconds of U at (8,16), a multiple of the states that are kept."""
        return round(self.updates * self.reuse / self.base / STATES) * STATES

    @property
    def more_name(self) -> str:
        """Of the arm that spends the seconds of (8,16) on samples."""
        return f"({self.upstream},1) iid"

    @property
    def equal_name(self) -> str:
        """Of the arm that has the total variance of (8,16) iid."""
        return f"({self.equal},1) iid"


@dataclass(frozen=True)
class Arm:
    """An estimator, how long it is trained and at what rate."""

    name: str
    setting: Setting
    estimator: tuple[str, ...]
    """What it overrides of the configuration's estimator."""
    updates: int
    seconds: float
    """Of one update, as the pilot timed it."""
    factor: float
    """Of the configuration's learning rate."""
    decays: bool = True
    """Whether its learning rate falls to zero at its end."""
    traced: Collection[int] | None = None
    """Seeds whose FID is measured on the way; None: of all."""

    def run(self, seed: int, *more: str, kept: int = 1) -> TrainingRun:
        """Its training with one seed; `kept` checkpoints stay, spread over it."""
        every = max(self.updates // self.setting.traced_states, 1)
        traced = self.traced is None or seed in self.traced
        words = (
            *self.setting.words,
            *self.estimator,
            f"dmd.student_lr={self.setting.rate * self.factor:g}",
            f"trainer.max_steps={self.updates}",
            f"dmd.lr_decay={self.setting.decay if self.decays else 'none'}",
            f"variance.every={every}",
            f"fid.every={every if traced else 0}",
            "preview.every=0",
            "checkpoint.keep_best=0",
            f"checkpoint.every={max(self.updates // STATES, 1)}",
            f"checkpoint.keep_newest={kept}",
            f"seed={seed}",
        )
        return TrainingRun(f"{self.setting.name}-{plain_name(self.name)}-seed{seed}", (*words, *more))


def seeds_of(arms: Sequence[Arm], seeds: Sequence[int], deciding: Sequence[int]) -> dict[str, Sequence[int]]:
    """Arm → its seeds: more of them in the pair that decides."""
    return {arm.name: deciding if arm.name in DECIDING else seeds for arm in arms}


def runs_by_seed(
    arms: Sequence[Arm], seeds: Mapping[str, Sequence[int]], common: Sequence[int]
) -> list[TrainingRun]:
    """All arms of a seed, then those of the next.

    The first run of (8,16) iid keeps the states that are looked into, and as many more, as each interruption
    leaves a checkpoint of its own.

    Args:
        seeds: of each arm.
        common: those that all have, the first of all among them.
    """
    every = dict.fromkeys(seed for arm in arms for seed in seeds[arm.name])
    return [
        arm.run(seed, kept=2 * STATES if (arm.name, seed) == (REUSE, common[0]) else 1)
        for seed in every
        for arm in arms
        if seed in seeds[arm.name]
    ]


def estimator_words(r: int, k: int, strategy: str, *more: str) -> tuple[str, ...]:
    """What an estimator overrides of the configuration."""
    return (f"estimator.upstream={r}", f"estimator.draws={k}", f"estimator.strategy={strategy}", *more)


def make_arms(setting: Setting, plan: Plan, traced: Collection[int] | None = None) -> list[Arm]:
    """The baseline at both lengths first, then all others.

    Args:
        traced: seeds whose FID is measured on the way, those that all arms have: curves are means over the
            same. None: of all.
    """
    r, k, u = UPSTREAM, DRAWS, plan.updates
    best = (f"estimator.noise={plan.noise}", "estimator.proposal=adaptive", "estimator.statistic=neyman")
    single, reuse = estimator_words(r, 1, "iid"), (u, plan.reuse, plan.reuse_factor)
    arms = [
        Arm(BASE, setting, single, u, plan.base, plan.base_factor),
        Arm(LONGER, setting, single, plan.longer, plan.base, plan.base_factor),
        Arm(REUSE, setting, estimator_words(r, k, "iid"), *reuse),
        Arm(STRATA, setting, estimator_words(r, k, "stratified"), *reuse),
        Arm(BEST, setting, estimator_words(r, k, "nested", *best), u, plan.best, plan.reuse_factor),
        Arm(
            plan.more_name,
            setting,
            estimator_words(plan.upstream, 1, "iid"),
            u,
            plan.more,
            plan.more_factor,
        ),
    ]
    if setting.equal_variance and plan.equal != plan.upstream:
        words = estimator_words(plan.equal, 1, "iid")
        arms.append(Arm(plan.equal_name, setting, words, u, plan.less, plan.reuse_factor))
    return [replace(arm, traced=traced) for arm in arms]
