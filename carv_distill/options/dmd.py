"""How a student and its fake score are optimised."""

from __future__ import annotations

from dataclasses import dataclass

from carv_distill.carv import STRATEGIES

from .limits import at_least, between, more_than, one_of


@dataclass
class DMDOptions:
    """Optimisation of the student and of the fake score."""

    fake_updates_per_student: int = at_least(1, 3)
    """Fake-score updates before each student update."""
    fake_batch: int = at_least(1, 48)
    """Student samples per fake-score update and process."""
    fake_reuse: bool = True
    """One set of student samples for all fake-score updates of a student update, re-noised for each."""
    fake_strategy: str = one_of(STRATEGIES, "global")
    """How the noise levels of a fake-score batch, one per sample, are spread."""
    student_lr: float = more_than(0, 3e-4)
    fake_lr: float = more_than(0, 6e-4)
    lr_decay: str = one_of(("none", "student", "both"), "none")
    """Whose learning rate falls by a half cosine to zero at trainer.max_steps."""
    beta1: float = between(0, 1, 0.0)
    beta2: float = between(0, 1, 0.99)
    weight_decay: float = at_least(0, 0.0)
    ema: float = between(0, 1, 0.98)
    """Decay of the student's average, per student update."""
    clip_norm: float | None = more_than(0, None)
    """Largest norm of the student's gradient; the number of clipped updates is logged."""
