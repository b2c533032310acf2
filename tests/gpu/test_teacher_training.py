"""Teachers that are trained on a CUDA device."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from carv_distill.data.wild import WILD, wild_solids
from carv_distill.teacher_training.options import PixelTeacherOptions
from carv_distill.teacher_training.pixel_module import PixelTeacherModule, preview
from carv_distill.teacher_training.pixel_networks import build_pixel_networks
from tests.helpers.loops import fit
from tests.helpers.small import ON_GPU

pytestmark = ON_GPU
OPTIONS = PixelTeacherOptions(
    size=8, unet_channels=[8, 16], attention_size=4, text_width=16, clip_width=16, clip_layers=1, batch=4
)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_pixel_teacher_learns_in_both_stages(precision: Literal["32-true", "bf16-mixed"]) -> None:
    networks = build_pixel_networks(OPTIONS, OPTIONS.size, ["a", *WILD])
    module = PixelTeacherModule(networks, wild_solids(OPTIONS.size, views=2), OPTIONS, 5, seed=0)
    losses = list[torch.Tensor]()
    step = module.training_step

    def noted(batch: int, batch_idx: int) -> torch.Tensor:
        losses.append(step(batch, batch_idx))
        return losses[-1]

    module.training_step = noted  # type: ignore[method-assign]
    fit(module, 5, precision=precision, accelerator="gpu")
    assert set(module.latest_losses) == {"clip"}
    assert len(losses) == 5
    assert all(loss.is_cuda and loss.isfinite() for loss in losses)
    assert preview(module.cuda()).isfinite().all()
