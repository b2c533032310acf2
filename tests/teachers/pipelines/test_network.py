"""Features, gradients and half precision of every family's network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.vmapped import VmapGradients
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import Draws, stream
from carv_distill.teachers.denoiser import denoised_difference, denoising_losses
from carv_distill.teachers.network import recorded
from carv_distill.teachers.pipelines.teacher import TextTeacher, load_text_teacher
from carv_distill.teachers.precision import Float32Conv2d, Float32Linear
from tests.helpers.tiny_pipelines import EVERY, FEW, SIZES

TeacherOf = Callable[..., TextTeacher]
PROMPTS = ["a red torus", "a cube"]
FEATURES = {
    "sd": [(8, 4, 4)],
    "sd_v": [(8, 4, 4)],
    "sdxl": [(8, 2, 2), (8, 4, 4)],
    "sd3": [(16, 2, 2)] * 4,
    "sd3_without_t5": [(16, 2, 2)] * 4,
    "flux": [(16, 4, 4)] * 2,
    "flux_schnell": [(16, 4, 4)] * 2,
    "pixart_sigma": [(24, 16, 16)] * 2,
    "pixart_alpha": [(24, 16, 16)] * 2,
    "wan": [(24, 2, 4)] * 2,  # two frames of 2×2 patches side by side
    "deepfloyd": [(8, 4, 4), (8, 8, 8)],
}


def inputs(teacher: TextTeacher, count: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, ε and two levels, the greater one the last."""
    x, eps = torch.randn(2, count, *teacher.shape, generator=stream("x"))
    last = min(teacher.schedule.sigma_max, 1e4)
    return x, eps, torch.tensor([1.0, last])[:count]


@pytest.mark.parametrize("name", [*EVERY])
def test_features_are_pictures_with_a_gradient(name: str, teacher_of: TeacherOf) -> None:
    teacher = teacher_of(name)
    x, _, level = inputs(teacher)
    x = x.requires_grad_()
    c = teacher.denoiser.coefficients(x, level)
    found = teacher.network.encoder(x, c.c_noise, teacher.prompts(PROMPTS))
    assert [tuple(f.shape[1:]) for f in found] == FEATURES[name]
    for f in found:
        (g,) = torch.autograd.grad(f.square().sum(), x, retain_graph=True)
        assert (g.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("name", FEW)
def test_all_but_the_last_layer_is_cast(name: str, teacher_of: TeacherOf) -> None:
    """And what the model's class keeps; layers of the last one's name inside of blocks are as others."""
    network = copy.deepcopy(teacher_of(name).network).cast(torch.bfloat16)
    kept = network.model._keep_in_fp32_modules or ()
    for parameter_name, parameter in network.model.named_parameters():
        whole = parameter_name.startswith(f"{network.last}.") or set(parameter_name.split(".")) & set(kept)
        assert parameter.dtype == (torch.float32 if whole else torch.bfloat16), parameter_name


def test_features_of_a_transformer_are_of_its_depths(teacher_of: TeacherOf) -> None:
    """After a half, three quarters, a quarter and all of four blocks, patches in their places."""
    network = teacher_of("sd3").network
    x, _, level = inputs(teacher_of("sd3"))
    c = teacher_of("sd3").denoiser.coefficients(x, level)
    cond = teacher_of("sd3").prompts(PROMPTS)
    blocks: nn.Module = network.model.transformer_blocks
    with torch.no_grad():
        call = lambda: network(x, c.c_noise, cond)  # noqa: E731
        outputs = recorded(list(blocks), lambda _, output: output[1], call)  # type: ignore[call-overload]
        found = network.encoder(x, c.c_noise, cond)
    for feature, depth in zip(found, (2, 3, 1, 4), strict=True):
        tokens = outputs[depth - 1]
        assert torch.equal(feature[:, :, 1, 0], tokens[:, 2])
        assert torch.equal(feature[:, :, 0, 1], tokens[:, 1])


def test_frames_lie_side_by_side(teacher_of: TeacherOf) -> None:
    """Token (frame, row, column) of 2 × 2 × 2 is at row `row`, column 2 frame + column."""
    teacher = teacher_of("wan")
    x, _, level = inputs(teacher)
    c, cond = teacher.denoiser.coefficients(x, level), teacher.prompts(PROMPTS)
    blocks = list(teacher.network.model.blocks)
    with torch.no_grad():
        call = lambda: teacher.network(x, c.c_noise, cond)  # noqa: E731
        first, last = recorded(blocks, lambda _, output: output, call)
        found = teacher.network.encoder(x, c.c_noise, cond)
    for feature, tokens in zip(found, (first, last), strict=True):
        for frame, row, column in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1)):
            place = 4 * frame + 2 * row + column
            assert torch.equal(feature[:, :, row, 2 * frame + column], tokens[:, place])


@pytest.mark.parametrize("name", FEW)
def test_the_last_layer_stays_in_float32(name: str, folder_of: Callable[[str], Path]) -> None:
    """Half the memory, and an error of rounding. (Flux's own network rounds 1000 times the guidance and the
    level: 3.5 is 3504 in bfloat16, and 30 % of F; 1.024 and t = ½ stay what they are.)"""
    exact = load_text_teacher(folder_of(name), SIZES.get(name, ()), guidance=1.024)
    x, eps, level = inputs(exact)
    for dtype, bound in ((torch.bfloat16, 0.06), (torch.float16, 0.01)):
        teacher = load_text_teacher(folder_of(name), SIZES.get(name, ()), 1.024, dtype)
        last = teacher.network.model.get_submodule(teacher.network.last)
        assert isinstance(last, Float32Conv2d | Float32Linear)
        assert {p.dtype for p in last.parameters()} == {torch.float32}
        assert teacher.network.model.dtype == dtype
        c = exact.denoiser.coefficients(x, level)
        y = c.noised(x, eps)
        with torch.no_grad():
            raw, own = (t.denoiser.raw(y, c, t.prompts(PROMPTS)) for t in (exact, teacher))
        assert own.dtype == torch.float32
        error = float((own - raw).norm() / raw.norm())
        assert 0 < error < bound, error


@pytest.mark.parametrize("name", FEW)
def test_the_difference_of_two_networks_is_finite_and_exact(name: str, teacher_of: TeacherOf) -> None:
    """q (F_a − F_b) on the same y, at pure noise too: of flows q = −1 there."""
    a, b = teacher_of(name, torch.float64), copy.deepcopy(teacher_of(name, torch.float64))
    with torch.no_grad():
        for p in b.network.parameters():
            p.mul_(1.01)
    x, eps = torch.randn(2, 2, *a.shape, generator=stream("x"), dtype=torch.float64)
    level = torch.tensor([0.7, a.schedule.sigma_max], dtype=torch.float64)
    cond = a.prompts(PROMPTS)
    with torch.no_grad():
        difference, denoised = denoised_difference(a.denoiser, b.denoiser, x, level, eps, cond)
        c = a.denoiser.coefficients(x, level)
        y = c.noised(x, eps)
        own, other = (t.denoiser.of_input(y, c, cond) for t in (a, b))
    assert difference.isfinite().all()
    torch.testing.assert_close(difference, own - other, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(denoised, other)
    assert difference[1].abs().max() > 1e-6


@pytest.mark.parametrize("name", ["sd3", "wan", "pixart_sigma", "sdxl", "flux"])
def test_gradients_by_sample_are_those_of_a_loop(name: str, folder_of: Callable[[str], Path]) -> None:
    """vmap over the rows of a condition, masks and pooled embeddings with it."""
    size = (32, 32) if name == "pixart_sigma" else SIZES.get(name, ())
    teacher = load_text_teacher(folder_of(name), size)
    x = torch.randn(2, *teacher.shape, generator=stream("x"))
    eps = torch.randn(1, 3, *teacher.shape, generator=stream("e"))
    draws = Draws(torch.tensor([[0.1, 0.5, 0.995]]), torch.tensor([[1.0, 0.5, 2.0]]), eps)
    cond = teacher.prompts(PROMPTS)
    patterns = ["*to_k*", "*proj_out*", "*conv_out*"] if name == "sdxl" else ["*to_k*", "*proj_out*"]
    gradients = VmapGradients(SampleLoss(teacher.denoiser, teacher.schedule, patterns))
    found = gradients(SampleBatch(x, cond), draws.row(0))
    parameters = dict(teacher.network.named_parameters())
    wanted = [parameters[n].requires_grad_() for n in gradients.loss.chosen]
    for i in range(2):
        rows = cond[torch.tensor([i] * 3)]
        level = teacher.schedule.sigma(draws.u[0])
        losses = denoising_losses(teacher.denoiser, x[[i] * 3], level, draws.eps[0], rows)
        exact = torch.autograd.grad((draws.weight[0] * losses).mean(), wanted)
        flat = torch.cat([g.flatten() for g in exact])
        torch.testing.assert_close(found[i], flat, rtol=2e-4, atol=2e-4 * float(flat.abs().max()))
