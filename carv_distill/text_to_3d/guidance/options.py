"""Which objectives there are, and what belongs to one of them; known without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from carv_distill.carv.strategies import STRATEGIES
from carv_distill.options import at_least, more_than, one_of
from carv_distill.teachers.low_rank import LowRankOptions

OBJECTIVES = ("sds", "csd", "nfsd", "vsd", "ism")


@dataclass
class ViewPrompts:
    """A whole prompt for each view, in place of the one made of sds.prompt; empty: that one."""

    front: str = ""
    side: str = ""
    back: str = ""
    overhead: str = ""
    """Of elevations above 60 degrees."""


@dataclass
class ISMOptions:
    """Interval score matching: x is inverted by DDIM, without a prompt, up to the timestep before t."""

    interval: float = more_than(0, 0.05, high=1)
    """δ_T = t − s, as a share of the timesteps; published: 80 to 50 of 1,000. It ends at timestep 0, which a
    lower t has for its s."""
    stride: float = more_than(0, 0.2, high=1)
    """δ_S of the steps from timestep 0 to s, likewise; published: 200 of 1,000. A draw takes ⌈s/δ_S⌉ + 3
    predictions, one more with each stride below s."""


@dataclass
class VSDOptions:
    """Variational score distillation: the fake score of the renders, low-rank adapters over the teacher."""

    lr: float = more_than(0, 1e-4)
    """Of its Adam, with betas (0.9, 0.99); published: 1e-4."""
    draws: int = at_least(1, 4)
    """Re-noisings of each render that it is trained on in a step, at timesteps of their own; published: 1."""
    strategy: str = one_of(STRATEGIES, "stratified")
    """How their timesteps are spread; they are uniform."""
    chunk: int = at_least(1, 1)
    """Of these, as many go through a backward together: memory follows it."""
    gradient_checkpointing: bool = False
    """Blocks' activations are computed again in its backward instead of kept."""
    adapters: LowRankOptions = field(default_factory=LowRankOptions)
