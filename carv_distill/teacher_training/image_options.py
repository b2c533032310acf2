"""What a teacher of labelled images is and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from carv_distill.engine.options import ImageConfig
from carv_distill.options import at_least, between, more_than


@dataclass
class PretrainOptions:
    """What a teacher is and how it is trained."""

    channels: list[int] = field(default_factory=lambda: [32, 64])
    """Channels of each resolution; attention at the lowest one."""
    layers: int = at_least(1, 1)
    """Residual layers per resolution."""
    head_channels: int = at_least(1, 32)
    """Channels of one attention head."""
    label_dropout: float = between(0, 1, 0.1)
    """Share of labels replaced by the null label, for classifier-free guidance."""
    sigma_min: float = more_than(0, 0.002)
    sigma_max: float = more_than(0, 80.0)
    rho: float = more_than(0, 7.0)
    sigma_data: float = more_than(0, 0.5)
    """Standard deviation of the data, pixels in [−1, 1]."""
    p_mean: float = -1.2
    """Training noise levels: ln σ ~ N(p_mean, p_std²)."""
    p_std: float = more_than(0, 1.2)
    batch: int = at_least(1, 128)
    """Images per step and process."""
    learning_rate: float = more_than(0, 1e-3)
    warmup: int = at_least(0, 100)
    """Steps of linear warm-up; cosine decay to zero follows."""
    weight_decay: float = at_least(0, 0.0)
    ema: float = between(0, 1, 0.999)


@dataclass
class TeacherConfig(ImageConfig):
    """Training a teacher."""

    teacher: PretrainOptions = field(default_factory=PretrainOptions)
