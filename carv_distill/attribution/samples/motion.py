"""Motion as the weight of a clip's loss: what taught a model how something moves, not how it looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from carv_distill.data.clips.motion import (
    difference_magnitude,
    flow_magnitude,
    latent_magnitude,
    normalised_weights,
)

MAGNITUDES = {"flow": flow_magnitude, "differences": difference_magnitude}


@dataclass(frozen=True)
class Motion:
    """How the errors of a clip's loss are weighed: w = (m + c) / mean(m + c), m the magnitude of its motion
    brought to the latents' resolution.

    Source: MOTIVE (arXiv 2601.08828), whose loss is weighed by the magnitude of optical flow.
    """

    kind: str
    """flow: pixels from a frame to the next; differences: mean absolute change of a pixel."""
    floor: float
    """c > 0, in the units of m: what a position counts where nothing moves."""

    def magnitude(self, clips: Tensor, shape: Sequence[int]) -> Tensor:
        """m, [n, f, h, w], of clips [n, F, 3, H, W]; shape: f, h, w."""
        frames, height, width = shape
        return latent_magnitude(MAGNITUDES[self.kind](clips), (frames, height, width))

    def weights(self, magnitude: Tensor) -> Tensor:
        """w of mean 1 over each clip, [n, f, h, w]."""
        return normalised_weights(magnitude, self.floor)
