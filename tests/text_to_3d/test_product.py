"""What is made of a scene."""

from __future__ import annotations

from pathlib import Path

import pytest

from carv_distill.errors import UserError
from carv_distill.tasks import load_config
from carv_distill.text_to_3d.options import SDSConfig
from carv_distill.text_to_3d.product import finish
from carv_distill.text_to_3d.scenes import GaussianScene, build_scene


def test_memory_is_looked_at_with_as_many_gaussians_as_there_are(tmp_path: Path) -> None:
    """Whatever the configuration says, as where a file has more; nothing is made. All are one in memory."""
    config = load_config("sds_gaussians", [f"folder={tmp_path}", "scene.gaussians.count=10"])
    assert isinstance(config, SDSConfig)
    scene = build_scene(config.scene)
    assert isinstance(scene, GaussianScene)
    scene.replace({name: v[:1].expand(10**9, *v.shape[1:]) for name, v in scene.values.items()})
    with pytest.raises(UserError, match=r"^export\.size: .* takes .* GiB, above export\.memory, 1; give"):
        finish(config, scene, tmp_path / "run")
    assert not list(tmp_path.iterdir())
