"""The page of a text student's folder."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from carv_distill.distillation.export.text_card import text_student_card
from carv_distill.teachers.pipelines.stable_diffusion import STABLE_DIFFUSION


@pytest.mark.parametrize("adapters", [False, True])
def test_how_a_file_of_adapters_is_used_stands_where_there_is_one(adapters: bool) -> None:
    scheduler = "LCMScheduler" if adapters else None
    card = text_student_card(
        STABLE_DIFFUSION, (32, 32), "a red torus", {"FID": "1.3"}, adapters_scheduler=scheduler
    )
    assert ("load_lora_weights" in card) == adapters
    assert ("guidance_scale=1.0" in card) == adapters
    assert "\n\n## Figures\n" in card
    assert "num_inference_steps=1" in card


def test_what_it_makes_is_said_for_the_hub() -> None:
    for size, tag in (((32, 32), "text-to-image"), ((5, 32, 32), "text-to-video")):
        assert ModelCard(text_student_card(STABLE_DIFFUSION, size, "a", {})).data.pipeline_tag == tag
