"""Teachers that are trained on a CUDA device."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Trainer

from carv_distill.data.wild import WILD, wild_solids
from carv_distill.teacher_training.options import PixelTeacherOptions
from carv_distill.teacher_training.pixel_module import PixelTeacherModule, preview
from carv_distill.teacher_training.pixel_networks import build_pixel_networks
from tests.helpers.small import ON_GPU

pytestmark = ON_GPU
OPTIONS = PixelTeacherOptions(
    size=8, unet_channels=[8, 16], attention_size=4, text_width=16, clip_width=16, clip_layers=1, batch=4
)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_pixel_teacher_learns_in_both_stages(precision: str) -> None:
    networks = build_pixel_networks(OPTIONS, OPTIONS.size, ["a", *WILD])
    module = PixelTeacherModule(networks, wild_solids(OPTIONS.size, views=2), OPTIONS, 5, seed=0)
    losses = list[torch.Tensor]()
    step = module.training_step

    def noted(batch: int, batch_idx: int) -> torch.Tensor:
        losses.append(step(batch, batch_idx))
        return losses[-1]

    module.training_step = noted  # type: ignore[method-assign]
    Trainer(
        max_steps=5,
        max_epochs=-1,
        accelerator="gpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module)
    assert set(module.latest_losses) == {"clip"}
    assert len(losses) == 5
    assert all(loss.is_cuda and loss.isfinite() for loss in losses)
    assert preview(module.cuda()).isfinite().all()
