"""The teacher's own pictures of the prompts, under the guidance that the objects are made with."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from carv_distill.data.solids import view_prompt
from carv_distill.evaluation.generate import image_latents
from carv_distill.tasks import load_config
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.teachers.sampler import ddim_sample
from carv_distill.text_to_3d.options import SDSConfig

SHOWN = ("side", "overhead")
PICTURES = 6
"""Of a prompt from each of these views."""
STEPS = 30
TITLE = "the teacher's own pictures: six of the prompt with “side view”, six with “overhead view”"


@torch.no_grad()
def pictures(config: Path, prompt: str) -> Tensor:
    """PICTURES of a prompt from each view, side by side, [s, 2 · PICTURES · s, 3] in [0, 1]."""
    loaded = load_config(config)
    assert isinstance(loaded, SDSConfig)
    scale = loaded.sds.guidance
    assert isinstance(scale, float)
    teacher = load_text_teacher(loaded.teacher.path)
    z, _ = image_latents(range(PICTURES), teacher.shape, 0)
    made = []
    for view in SHOWN:
        cond = teacher.prompts([view_prompt(prompt, view)] * PICTURES)
        made += [*teacher.decode(ddim_sample(teacher.guided(scale), teacher.schedule, z, cond, STEPS))]
    return ((torch.cat(made, 2).clamp(-1, 1) + 1) / 2).permute(1, 2, 0)
