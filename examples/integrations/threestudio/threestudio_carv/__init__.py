"""Score distillation with several re-noisings of each render, as threestudio's `custom/` folder takes it."""

from .guidance import CARVStableDiffusionGuidance as CARVStableDiffusionGuidance
