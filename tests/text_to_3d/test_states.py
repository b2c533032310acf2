"""A scene comes out of a checkpoint without the network that taught it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from carv_distill.engine.checkpoints import AtomicCheckpointIO
from carv_distill.errors import UserError
from carv_distill.tasks import load_config
from carv_distill.text_to_3d.options import SDSConfig
from carv_distill.text_to_3d.scenes import build_scene
from carv_distill.text_to_3d.states import SCENE, state_at
from tests.helpers.runs import as_run


def configured(folder: Path, *more: str) -> SDSConfig:
    config = load_config("sds_carv", [f"folder={folder}", "scene.resolution=4", *more])
    assert isinstance(config, SDSConfig)
    return config


def save(run: Path, values: dict[str, torch.Tensor]) -> None:
    """A checkpoint of update 5."""
    parts: dict[str, Any] = {"optimizer_states": [{}], "lr_schedulers": [], "loops": {}, "callbacks": {}}
    state = {f"{SCENE}{name}": value for name, value in values.items()}
    content = {**parts, "global_step": 5, "state_dict": {**state, "objective.background.w": torch.ones(2)}}
    AtomicCheckpointIO().save_checkpoint(content, run / "checkpoints/newest-step=5.ckpt")


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64)])
def test_it_has_the_precision_that_it_learned_in(tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
    config = configured(tmp_path, f"trainer.precision={precision}")
    run = as_run(config, checkpoint=False)
    values = {
        name: torch.rand(value.shape, dtype=dtype)
        for name, value in build_scene(config.scene).state_dict().items()
    }
    save(run, values)
    state = state_at(run, config, "cpu")
    assert state.step == state_at(run, config, "cpu", 5).step == 5
    kept = state.scene.state_dict()
    assert kept.keys() == values.keys()
    assert all(torch.equal(kept[name], value) for name, value in values.items())
    assert {value.dtype for value in kept.values()} == {dtype}


def test_another_scene_is_one_line(tmp_path: Path) -> None:
    config = configured(tmp_path)
    run = as_run(config, checkpoint=False)
    save(run, {"other": torch.ones(2)})
    with pytest.raises(UserError, match=r"the checkpoint's scene differs from this run's, first at "):
        state_at(run, config, "cpu")
    with pytest.raises(UserError, match=r"no checkpoint of step 3; there are \[5\]"):
        state_at(run, config, "cpu", 3)
