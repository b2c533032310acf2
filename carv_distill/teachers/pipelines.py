"""From a pipeline's folder or hub id to the text-to-image teacher in it."""

from __future__ import annotations

from pathlib import Path

from carv_distill.errors import UserError

from . import latent, pixel
from .folder import local_folder, read_json
from .text import TextTeacher, part_patterns


def load_text_teacher(path: str | Path) -> TextTeacher:
    """A frozen teacher from a StableDiffusionPipeline or an IFPipeline (DeepFloyd-IF's first stage), as
    `model_index.json` says; weights are read from safetensors only.

    Raises:
        UserError: nothing to load there, another pipeline, a part missing or damaged, or a parametrisation
            not known here.
    """
    # The index comes first: of a hub's pipeline that is refused, nothing else is fetched.
    index = local_folder(str(path), ["model_index.json"]) / "model_index.json"
    if not index.is_file():
        raise UserError(
            f"teacher.path: {path} has no model_index.json; it must be the folder of a pipeline, "
            "StableDiffusionPipeline or IFPipeline"
        )
    teacher: TextTeacher
    match read_json(index).get("_class_name"):
        case "StableDiffusionPipeline":
            teacher = latent.read_latent_teacher(local_folder(str(path), part_patterns(latent.PARTS)))
        case "IFPipeline":
            teacher = pixel.read_pixel_teacher(local_folder(str(path), part_patterns(pixel.PARTS)))
        case other:
            raise UserError(
                f"teacher.path: {index} has _class_name {other!r}, not one of StableDiffusionPipeline, "
                "IFPipeline"
            )
    return teacher.requires_grad_(False).eval()
