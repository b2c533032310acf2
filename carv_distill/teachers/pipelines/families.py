"""The kinds of pipelines that teach; a file and a row here make another one."""

from __future__ import annotations

from .deepfloyd import DEEPFLOYD
from .family import Family
from .flux import FLUX
from .pixart import PIXART_ALPHA, PIXART_SIGMA
from .sd3 import SD3
from .stable_diffusion import SDXL, STABLE_DIFFUSION
from .wan import WAN

FAMILIES: dict[str, Family] = {
    family.pipeline.__name__: family
    for family in (STABLE_DIFFUSION, SDXL, SD3, FLUX, PIXART_ALPHA, PIXART_SIGMA, WAN, DEEPFLOYD)
}
"""By the pipeline's class, as `model_index.json` names it."""
