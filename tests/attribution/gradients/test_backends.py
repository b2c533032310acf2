"""Which back end makes the gradients, and in which precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from carv_distill.attribution.gradients.backends import build_gradients, precision_on, suits_vmap
from carv_distill.attribution.gradients.backward import BackwardGradients
from carv_distill.attribution.gradients.vmapped import VmapGradients
from carv_distill.attribution.options import InfluenceOptions
from carv_distill.errors import UserError
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.network import UNetNetwork
from carv_distill.teachers.parametrisation import EDMPreconditioning
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.teachers.schedule import EDMSchedule
from tests.helpers.linear import SCHEDULE, linear_gradients
from tests.helpers.tiny_pipelines import EVERY, SIZES
from tests.helpers.tiny_unet import tiny_unet


def build(shape: tuple[int, ...] = (1, 8, 8), **options: Any) -> object:
    denoiser = NetworkDenoiser(UNetNetwork(tiny_unet()), EDMPreconditioning())
    return build_gradients(InfluenceOptions(**options), denoiser, EDMSchedule(), shape, "cpu")


def test_auto_is_by_size() -> None:
    """Of the network, and of a sample: frames count as rows and columns do, channels do not."""
    for shape, kind in (
        ((1, 8, 8), VmapGradients),
        ((4, 16, 32), VmapGradients),
        ((512, 4, 4), VmapGradients),
        ((4, 16, 33), BackwardGradients),
        ((16, 5, 8, 8), VmapGradients),
        ((16, 5, 16, 16), BackwardGradients),
        ((3,), VmapGradients),
    ):
        assert isinstance(build(shape), kind), shape
    small = linear_gradients(3).loss.denoiser
    assert suits_vmap(small, (3,))
    with torch.device("meta"):
        large = NetworkDenoiser(torch.nn.Linear(2048, 2049), EDMPreconditioning())
    assert not suits_vmap(large, (3,))


def test_a_named_back_end_is_taken_and_checkpointing_means_backward() -> None:
    assert isinstance(build(backend="backward"), BackwardGradients)
    assert isinstance(build((1, 64, 64), backend="vmap"), VmapGradients)
    assert isinstance(build(gradient_checkpointing=True), BackwardGradients)
    thrifty, linear = InfluenceOptions(gradient_checkpointing=True), linear_gradients().loss.denoiser
    with pytest.raises(UserError, match=r"^--gradient-checkpointing: Linear has no blocks for it"):
        build_gradients(thrifty, linear, SCHEDULE, (3,), "cpu")
    with pytest.raises(UserError, match=r"^--parameters: lora stands for"):
        build(parameters=("lora",))


def test_precision(tmp_path: Path) -> None:
    """Of the weights themselves by backward on any GPU, where the network can be cast."""
    prompted = load_text_teacher(EVERY["wan"](tmp_path), SIZES["wan"]).denoiser
    plain = linear_gradients().loss.denoiser
    for device, auto in (("cpu", "fp32"), ("cuda", "bf16"), ("cuda:1", "bf16")):
        assert precision_on(device, "auto", True, prompted) == auto
        assert precision_on(device, "auto", False, plain) == auto
        assert precision_on(device, "fp32", False, prompted) == "fp32"
        true = "fp32" if device == "cpu" else "bf16-true"
        assert precision_on(device, "auto", False, prompted) == true
    before = {p.dtype for p in prompted.parameters()}
    made = build_gradients(InfluenceOptions(precision="bf16-true"), prompted, SCHEDULE, (4, 2, 4, 4), "cpu")
    assert made.loss.precision == "bf16-true"
    assert made.loss.layout.dtype == torch.float32
    assert before == {torch.float32}
    assert prompted.network.dtype == torch.bfloat16  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"^--precision: bf16-true is for networks that prompts condition"):
        build(precision="bf16-true")
