"""Options of rendering that do not go together."""

from __future__ import annotations

import pytest

from carv_distill.tasks import load_config
from carv_distill.text_to_3d.options import SDSConfig
from carv_distill.text_to_3d.rendering_checks import idle_weights

DENSITY, COLOUR = "sds.smoothness", "sds.colour_smoothness"


@pytest.mark.parametrize(
    ("words", "idle"),
    [
        (["sds.smoothness=3"], []),
        (["scene.kind=hash", "sds.smoothness=3"], [DENSITY, COLOUR]),
        (["scene.kind=gaussians"], [COLOUR]),
        (["scene.kind=hash", "sds.smoothness=[0,0,1,600]", "sds.colour_smoothness=0"], [DENSITY]),
        (["scene.kind=hash", "sds.smoothness=[0,0,0,600]", "sds.colour_smoothness=0"], []),
    ],
)
def test_weights_of_neighbouring_voxels_need_voxels(words: list[str], idle: list[str]) -> None:
    """The shipped configuration of voxels has one for its colours."""
    config = load_config("sds_carv", words)
    assert isinstance(config, SDSConfig)
    assert idle_weights(config) == idle
