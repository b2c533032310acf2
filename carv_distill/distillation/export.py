"""A student as a diffusers pipeline: network, scheduler, the pipeline's code, a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
from safetensors import SafetensorError

from carv_distill.errors import UserError
from carv_distill.files import updated_folder
from carv_distill.teachers.edm.network import EDMNetwork
from carv_distill.teachers.folder import one_line
from carv_distill.teachers.network import RawNetwork

_PIPELINE = Path(__file__).with_name("one_step_pipeline.py")
_EDM = "edm_network"
_EDM_SOURCE = '''\
"""The class of these weights; it is part of carv-distill."""

from carv_distill.diffusion.edm import DhariwalUNet, SongUNet

__all__ = ["DhariwalUNet", "SongUNet"]
'''


def save_student(folder: Path, network: RawNetwork, scheduler_config: dict[str, Any], card: str) -> None:
    """Writes `model_index.json`, `unet/`, `scheduler/`, `pipeline.py` and README.md, each file atomically.

    A UNet2DModel student needs diffusers alone. The class of EDM's networks is this package's: diffusers
    finds it through a small file in `unet/`, where carv-distill is installed.

    Raises:
        UserError: a file could not be written; those that were there before are kept.
    """
    kind = type(network.unet).__name__
    of_edm = isinstance(network, EDMNetwork)
    index = {
        "_class_name": ["pipeline", "OneStepPipeline"],
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", scheduler_config.get("_class_name", "DDPMScheduler")],
        "unet": [_EDM if of_edm else "diffusers", kind],
    }
    try:
        with updated_folder(folder) as scratch:
            network.save(scratch / "unet")
            if of_edm:
                (scratch / "unet" / f"{_EDM}.py").write_text(_EDM_SOURCE)
            (scratch / "scheduler").mkdir()
            (scratch / "scheduler" / "scheduler_config.json").write_text(_json(scheduler_config))
            (scratch / "model_index.json").write_text(_json(index))
            (scratch / "pipeline.py").write_text(_PIPELINE.read_text())
            (scratch / "README.md").write_text(card)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: could not be written ({one_line(error)})") from error


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
