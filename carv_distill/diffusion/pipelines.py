"""From a pipeline's folder or hub id to the text-to-image teacher in it."""

from __future__ import annotations

from pathlib import Path

from carv_distill.errors import UserError

from . import latent
from .folder import local_folder, read_json
from .text import TextTeacher, part_patterns


def load_text_teacher(path: str | Path) -> TextTeacher:
    """A frozen teacher from a StableDiffusionPipeline; weights are read from safetensors only.

    Raises:
        UserError: nothing to load there, another pipeline, a part missing or damaged, or a parametrisation
            not known here.
    """
    index = local_folder(str(path), ["model_index.json"]) / "model_index.json"
    teacher: TextTeacher
    match kind := read_json(index).get("_class_name"):
        case "StableDiffusionPipeline":
            teacher = latent.read_latent_teacher(local_folder(str(path), part_patterns(latent.PARTS)))
        case _:
            raise UserError(f"{index}: _class_name {kind!r} is not StableDiffusionPipeline")
    return teacher.requires_grad_(False).eval()
