"""A run at its newest checkpoint, as measures of variance take it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carv_distill.carv import Proposal
from carv_distill.data.images import load_images
from carv_distill.distillation.cost import time_other
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.distillation.task import build_dmd_module
from carv_distill.engine.checkpoints import checkpoint_at
from carv_distill.engine.config import config_from_dict
from carv_distill.engine.folder import read_run_config
from carv_distill.engine.run import precision_of
from carv_distill.errors import UserError
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.text_to_3d.options import SDSConfig
from carv_distill.text_to_3d.task import build_sds_module
from carv_distill.variance import StageTimer


@dataclass(frozen=True)
class Target:
    """Whose gradient is measured."""

    module: DMDModule | SDSModule
    step: int
    """Of the checkpoint."""
    parameters: list[Tensor]
    time_other: Callable[[StageTimer], None]
    """Times what an iteration does besides its gradient."""
    importance: Callable[[float], Proposal] | None
    """A proposal that is known without a pilot, given its defensive share: q ∝ w(t) in score distillation."""
    mixed: bool
    """Whether the run is, or would here be, trained under bf16 autocast."""


def load_target(run: Path, device: str, step: int | None = None) -> Target:
    """The module of a distillation or text-to-3D run.

    Args:
        step: of the checkpoint; the newest by default.

    Raises:
        UserError: a run of another task, or one without a checkpoint, or without that one.
    """
    config = config_from_dict(read_run_config(run), str(run / "config.yaml"))
    module: DMDModule | SDSModule
    match config:
        case DMDConfig():
            module = build_dmd_module(config, load_images(config.data))
        case SDSConfig():
            module = build_sds_module(config)
        case _:
            raise UserError(f"{run}: variance is measured for tasks dmd and sds, this run's is {config.task}")
    path, step = checkpoint_at(run / "checkpoints", step)
    checkpoint: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    module.load_state_dict(checkpoint["state_dict"], strict=False)
    module.to(device)
    mixed = precision_of(config.trainer, device) == "bf16-mixed"
    if isinstance(module, SDSModule):
        module.step_measured = step
        if module.coefficient is not None:
            module.coefficient.load_state_dict(checkpoint["coefficient"], device)
        importance = partial(module.levels(step).proposal, module.options.weighting)
        return Target(module, step, module.measured_parameters, module.time_other, importance, mixed)
    parameters: list[Tensor] = list(module.student.parameters())
    return Target(module, step, parameters, partial(time_other, module), None, mixed)
