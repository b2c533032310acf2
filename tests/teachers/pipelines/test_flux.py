"""Flux's tokens against diffusers' own packing."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxPipeline

from carv_distill.carv import stream
from carv_distill.teachers.pipelines.flux import image_ids, packed, unpacked


@pytest.mark.parametrize(("height", "width"), [(4, 4), (2, 6), (8, 4)])
def test_packing_is_the_pipelines(height: int, width: int) -> None:
    x = torch.randn(3, 5, 2 * height, 2 * width, generator=stream("x"))
    tokens = FluxPipeline._pack_latents(x, 3, 5, 2 * height, 2 * width)
    assert torch.equal(packed(x), tokens)
    assert torch.equal(unpacked(tokens, height, width), x)
    assert torch.equal(FluxPipeline._unpack_latents(tokens, 16 * height, 16 * width, 8), x)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (2, 6), (8, 4)])
def test_ids_are_the_pipelines(height: int, width: int) -> None:
    exact = FluxPipeline._prepare_latent_image_ids(1, height, width, "cpu", torch.float32)
    assert torch.equal(image_ids(height, width, exact), exact)
