"""The scene of a run at one of its checkpoints, without the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from carv_distill.engine.checkpoints import read_checkpoint
from carv_distill.engine.devices import precision_of
from carv_distill.errors import UserError

from .options import SDSConfig
from .scenes import Scene, build_scene

SCENE = "objective.scene."
"""How the names of a scene's tensors begin in a checkpoint."""


@dataclass(frozen=True)
class State:
    """A scene after an update."""

    scene: Scene
    step: int


def state_at(run: Path, config: SDSConfig, device: str, step: int | None = None) -> State:
    """The scene at a run's checkpoint of an update (None: the newest), in the precision of the training.

    Raises:
        UserError: there is none, it is damaged, or none of this configuration.
    """
    content, step = read_checkpoint(run, config, step)
    values = {
        name.removeprefix(SCENE): value
        for name, value in content["state_dict"].items()
        if name.startswith(SCENE)
    }
    double = precision_of(config.trainer, device) == "64-true"
    scene = build_scene(config.scene).to(torch.float64 if double else torch.float32)
    if differing := values.keys() ^ scene.state_dict().keys():
        raise UserError(f"the checkpoint's scene differs from this run's, first at {min(differing)}")
    scene.load_state_dict(values)
    return State(scene.to(device).eval(), step)
