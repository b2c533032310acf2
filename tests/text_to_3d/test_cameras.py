"""The cameras of a run's steps, drawn anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from carv_distill.geometry.camera import Cameras
from carv_distill.tasks import load_config
from carv_distill.text_to_3d.cameras import build_cameras, latest_cameras
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.text_to_3d.options import SDSConfig


def config(*words: str) -> SDSConfig:
    loaded = load_config("sds_carv", words)
    assert isinstance(loaded, SDSConfig)
    return loaded


def test_they_are_those_that_the_steps_rendered_from(
    make_module: Callable[..., SDSModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config("estimator.upstream=2", "camera.sampling=antipodal", "camera.up_noise=0.1")
    module = make_module(upstream=2)
    module.objective.camera_sampler = build_cameras(asked.camera)
    seen: list[Cameras] = []
    inner = module.objective.upstream

    def upstream(cameras: Cameras, *rest: Any) -> Any:
        seen.append(cameras)
        return inner(cameras, *rest)

    monkeypatch.setattr(module.objective, "upstream", upstream)
    for step in (0, 1, 2):
        list(module.share(step))
    latest = latest_cameras(asked, step=3, count=100, device="cpu")
    assert len(latest) == 3
    for drawn, rendered in zip(latest, reversed(seen), strict=True):
        for name in ("azimuth", "elevation", "distance", "fov", "tilt"):
            assert torch.equal(getattr(drawn, name), getattr(rendered, name))


@pytest.mark.parametrize(("upstream", "step", "steps"), [(1, 400, 16), (5, 400, 4), (32, 400, 1), (1, 3, 3)])
def test_as_many_steps_as_have_enough(upstream: int, step: int, steps: int) -> None:
    latest = latest_cameras(config(f"estimator.upstream={upstream}"), step, 16, "cpu")
    assert [len(cameras) for cameras in latest] == steps * [upstream]
