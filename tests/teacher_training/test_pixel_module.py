"""A miniature DeepFloyd IF in training: reproducible, resumable in stages, and an IFPipeline at its end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import IFPipeline

from carv_distill.data.wild import WILD, WildSolids, wild_solids
from carv_distill.errors import UserError
from carv_distill.evaluation.clip import ClipScorer
from carv_distill.teacher_training.options import PixelTeacherOptions
from carv_distill.teacher_training.pixel_module import PROMPTS, PixelTeacherModule, preview
from carv_distill.teacher_training.pixel_networks import build_pixel_networks
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from tests.helpers.loops import fit
from tests.helpers.pages import run_page

OPTIONS = PixelTeacherOptions(
    size=8, unet_channels=[8, 16], attention_size=4, text_width=16, clip_width=16, clip_layers=1, batch=4
)


@pytest.fixture(scope="module")
def data() -> WildSolids:
    return wild_solids(OPTIONS.size, views=2)


def trained(data: WildSolids, steps: int = 5) -> PixelTeacherModule:
    torch.manual_seed(0)
    networks = build_pixel_networks(OPTIONS, OPTIONS.size, ["a", *WILD])
    return fit(PixelTeacherModule(networks, data, OPTIONS, steps, seed=0), steps)


def test_stages_learn_in_turn_and_the_folder_is_a_teacher(data: WildSolids, tmp_path: Path) -> None:
    module = trained(data)
    assert module.starts == (0, 4, 5)
    assert set(module.latest_losses) == {"clip"}
    module.save(tmp_path / "teacher", 5)
    assert run_page(tmp_path / "teacher")["picture"].shape == (1, 3, 8, 8)
    teacher = load_text_teacher(tmp_path / "teacher")
    assert teacher.shape == (3, 8, 8)
    assert not teacher.prompts.unknown_words("a torus")
    pipeline = IFPipeline.from_pretrained(tmp_path / "teacher", safety_checker=None, watermarker=None)
    embeddings = pipeline.encode_prompt(PROMPTS[2], False)[0]
    own = module._conditions(module.ema_text_encoder.eval(), torch.tensor([2])).embeddings
    torch.testing.assert_close(embeddings, own, rtol=0, atol=1e-6)  # what it learned from is what it is told
    x, sigma = torch.randn(1, 3, 8, 8), torch.tensor([1.3])
    cond = teacher.prompts([PROMPTS[2]])
    torch.testing.assert_close(
        teacher.denoiser(x, sigma, cond), module.ema_denoiser.eval()(x, sigma, cond), rtol=0, atol=1e-5
    )
    scorer = ClipScorer(str(tmp_path / "teacher" / "clip"), "cpu")
    assert scorer.mean(torch.zeros(2, 3, 8, 8), "a cone").value == pytest.approx(0, abs=100)
    assert preview(module).shape == (8 * len(PROMPTS), 3, 8, 8)


def test_a_training_is_a_function_of_its_seed(data: WildSolids) -> None:
    first, second = (trained(data, 2).ema_denoiser.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_pictures_are_made_from_is_where_the_networks_are(data: WildSolids) -> None:
    """On another device than the one where it was rendered, of which there need be no more than shapes."""
    networks = build_pixel_networks(OPTIONS, OPTIONS.size, ["a", *WILD])
    module = PixelTeacherModule(networks, data, OPTIONS, 5, seed=0).to("meta")
    module.on_fit_start()
    used = [*vars(module.data).values(), *module.buffers(), *module.parameters()]
    assert {tensor.device for tensor in used} == {module.device} == {torch.device("meta")}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"unet_channels": [8, 12]},
            r"training\.unet_channels: \[8, 12\] must be one or more multiples of 8",
        ),
        ({"unet_channels": [8] * 5}, r"data\.size: 8 is no multiple of 16"),
        ({"clip_patch": 3}, r"training\.clip_patch: 3 does not divide"),
        ({"text_width": 12}, r"training\.text_width: 12 is no multiple of 8"),
    ],
)
def test_sizes_that_do_not_go_together_are_one_line(change: dict[str, object], said: str) -> None:
    options = PixelTeacherOptions(**{**OPTIONS.__dict__, **change})
    with pytest.raises(UserError, match=said):
        build_pixel_networks(options, options.size, ["a", *WILD])
