"""A text student's folder: plain diffusers makes the student's own sample of it in one step."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import T5EncoderModel

from carv_distill.carv import stream
from carv_distill.distillation.export.text_card import text_student_card
from carv_distill.distillation.export.text_pipeline import save_text_student
from carv_distill.errors import UserError
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.pipelines.network import PromptNetwork
from carv_distill.teachers.pipelines.teacher import TextTeacher, load_text_teacher
from tests.helpers.pages import run_page
from tests.helpers.tiny_latent import save_tiny_pipeline
from tests.helpers.tiny_pipelines import EVERY, FEW, SIZES, save_sd3, save_sdxl

PROMPTS = ["a red torus", "a blue cube"]
FLOWS = ["sd3", "sd3_without_t5", "flux", "flux_schnell", "wan"]
BETAS = [name for name in EVERY if name not in FLOWS]
Loaded = tuple[Path, TextTeacher]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    every: dict[str, Loaded] = {}

    def load(name: str) -> Loaded:
        if name not in every:
            folder = EVERY[name](tmp_path_factory.mktemp(name))
            every[name] = folder, load_text_teacher(folder, SIZES.get(name, ()))
        return every[name]

    return load


def student_of(teacher: TextTeacher) -> PromptNetwork:
    """A copy that has learned something."""
    network = teacher.network.trainable_copy()
    g = stream("student")
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(1 + 0.05 * torch.randn(p.shape, generator=g))
    return network


def save(folder: Path, loaded: Loaded, timestep: int | None = None, **more: Any) -> PromptNetwork:
    teacher_folder, teacher = loaded
    student = student_of(teacher)
    family = teacher.family
    left_out = family.left_out(json.loads((teacher_folder / "model_index.json").read_text()))
    figures: Any = {"FID": 1.5, "updates": 40}
    told = teacher.prompts.guidance
    card = text_student_card(family, teacher.size, "a red torus", figures, told, left_out)
    save_text_student(
        folder, student, teacher_folder, teacher.family, teacher.scheduler_config, timestep, card, **more
    )
    return student


def own_sample(
    student: PromptNetwork, teacher: TextTeacher, z: Tensor, timestep: int | None = None
) -> Tensor:
    tau = teacher.schedule.timesteps - 1 if timestep is None else timestep
    denoiser = NetworkDenoiser(student, teacher.denoiser.precondition)
    level = teacher.schedule.table[tau].float().expand(len(z))
    with torch.no_grad():
        return denoiser.of_noise(z, level, teacher.prompts(PROMPTS))


def pipeline_from(folder: Path, name: str) -> Any:
    absent: Any = {"tokenizer_3": None, "text_encoder_3": None} if name == "sd3_without_t5" else {}
    pipeline = DiffusionPipeline.from_pretrained(folder, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stock_sample(pipeline: Any, teacher: TextTeacher, z: Tensor, **call: Any) -> Tensor:
    """The plain call in one step."""
    *frames, height, width = teacher.size
    call = {"height": height, "width": width, **({"num_frames": frames[0]} if frames else {}), **call}
    kind = type(pipeline).__name__
    if kind == "IFPipeline":  # it draws z itself
        pipeline.prepare_intermediate_images = lambda *_: z
        call["output_type"] = "pt"
    else:
        call |= {"latents": z, "output_type": "latent"}
    if kind == "FluxPipeline":
        call["latents"] = pipeline._pack_latents(z, *z.shape)
    result = pipeline(PROMPTS, num_inference_steps=1, **call)
    x = result.frames if frames else result.images
    return (
        pipeline._unpack_latents(x, height, width, pipeline.vae_scale_factor) if kind == "FluxPipeline" else x
    )


def error(found: Tensor, exact: Tensor) -> float:
    """As a share of the sample's size, or of 1."""
    return float((found - exact).abs().max() / exact.abs().max().clamp(min=1))


def noise(teacher: TextTeacher) -> Tensor:
    return torch.randn(2, *teacher.shape, generator=stream("z"))


@pytest.mark.parametrize("name", [*EVERY])
def test_one_stock_step_is_the_students_sample(
    name: str, loaded: Callable[[str], Loaded], tmp_path: Path
) -> None:
    """As its page says to call it, and without guidance; at the pipeline's default guidance too where that is
    as well: SD and SDXL take no notice of it, Flux is told its own."""
    _, teacher = loaded(name)
    student = save(tmp_path / "student", loaded(name))
    z = noise(teacher)
    exact = own_sample(student, teacher, z)
    pipeline = pipeline_from(tmp_path / "student", name)
    assert type(pipeline) is teacher.family.pipeline
    assert error(stock_sample(pipeline, teacher, z, **teacher.family.call), exact) < 1e-5
    assert error(exact, own_sample(teacher.network, teacher, z)) > 1e-3
    if not name.startswith("flux"):
        call = {**teacher.family.call, "guidance_scale": 1.0}
        assert error(stock_sample(pipeline, teacher, z, **call), exact) < 1e-5
    default = error(stock_sample(pipeline, teacher, z), exact)
    if teacher.family.leaves_guidance or name.startswith("flux"):
        assert default < 1e-5
    else:  # there is no switch in these: the page says guidance_scale=1.0
        assert default > 1e-3


@pytest.mark.parametrize("timestep", [10, *(pytest.param(t, marks=pytest.mark.slow) for t in (24, 48)), 49])
@pytest.mark.parametrize("name", BETAS)
def test_a_student_of_another_level(
    name: str, timestep: int, loaded: Callable[[str], Loaded], tmp_path: Path
) -> None:
    """x̂ = (z − √(1 − ᾱ_τ) F(z, τ))/√ᾱ_τ, for v and x too: the same prediction, betas cut off after τ."""
    _, teacher = loaded(name)
    student = save(tmp_path / "student", loaded(name), timestep)
    z = noise(teacher)
    exact = own_sample(student, teacher, z, timestep)
    pipeline = pipeline_from(tmp_path / "student", name)
    assert error(stock_sample(pipeline, teacher, z, **teacher.family.call), exact) < 2e-5
    config = json.loads((tmp_path / "student/scheduler/scheduler_config.json").read_text())
    assert config["num_train_timesteps"] == len(config["trained_betas"]) == timestep + 1


@pytest.mark.parametrize("tau", [399, *(pytest.param(t, marks=pytest.mark.slow) for t in (499, 999))])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("save_teacher", [save_tiny_pipeline, save_sdxl])
def test_a_thousand_timesteps(save_teacher: Any, prediction: str, tau: int, tmp_path: Path) -> None:
    """Stable Diffusion's betas, whose product the stock scheduler has in float32: to 1e-4."""
    folder = save_teacher(tmp_path / "teacher", prediction, 1000)
    teacher = load_text_teacher(folder)
    student = save(tmp_path / "student", (folder, teacher), tau)
    z = noise(teacher)
    found = stock_sample(pipeline_from(tmp_path / "student", "sd"), teacher, z, guidance_scale=9.0)
    assert error(found, own_sample(student, teacher, z, tau)) < 1e-4


def test_zero_signal_at_the_end(tmp_path: Path) -> None:
    """x̂ = −F at the last timestep, where σ is infinite; cut off before it too."""
    folder = save_tiny_pipeline(tmp_path / "teacher", "v_prediction", 1000)
    file = folder / "scheduler/scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "rescale_betas_zero_snr": True}))
    teacher = load_text_teacher(folder)
    assert teacher.schedule.sigma_max == float("inf")
    z = noise(teacher)
    for tau in (None, 998, 600):
        student = save(tmp_path / f"student{tau}", (folder, teacher), tau)
        found = stock_sample(pipeline_from(tmp_path / f"student{tau}", "sd"), teacher, z)
        exact = own_sample(student, teacher, z, tau)
        assert exact.isfinite().all()
        assert error(found, exact) < 1e-4


@pytest.mark.parametrize("name", [*EVERY])
def test_the_page_says_how(
    name: str, loaded: Callable[[str], Loaded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its block of Python runs from anywhere."""
    save(tmp_path / "student", loaded(name))
    page = (tmp_path / "student/README.md").read_text()
    assert page.startswith("---\nlibrary_name: diffusers\n")
    assert "| FID | 1.5 |" in page
    assert ("has no\neffect" in page) == (name in ("sd", "sd_v", "sdxl", "flux_schnell"))
    assert ("told the guidance scale" in page) == (name == "flux")
    monkeypatch.chdir(loaded(name)[0])
    scope = run_page(tmp_path / "student")
    teacher = loaded(name)[1]
    *frames, height, width = teacher.size
    if frames:
        assert scope["frames"].shape == (1, *teacher.size, 3)
    else:
        assert scope["images"][0].size == (width, height)


@pytest.mark.parametrize("name", FEW)
def test_the_folder_is_a_teacher_again(name: str, loaded: Callable[[str], Loaded], tmp_path: Path) -> None:
    """Read as any pipeline, its one step is the student's; nothing of the teacher's folder is needed."""
    _, teacher = loaded(name)
    timestep = None if name in FLOWS else 30
    student = save(tmp_path / "student", loaded(name), timestep)
    again = load_text_teacher(tmp_path / "student", SIZES.get(name, ()))
    z = noise(teacher)
    level = torch.full((2,), again.schedule.sigma_max)
    with torch.no_grad():
        found = again.denoiser.of_noise(z, level, again.prompts(PROMPTS))
    assert error(found, own_sample(student, teacher, z, timestep)) < 1e-5
    if name in FLOWS:
        assert again.schedule == teacher.schedule


def test_only_what_is_read_is_there_and_the_teachers_files_stay(tmp_path: Path) -> None:
    """No pickles, no code, no variants; modes and contents of the teacher's files as before."""
    folder = save_sdxl(tmp_path / "teacher")
    others = ("text_encoder/pytorch_model.bin", "vae/diffusion_pytorch_model.fp16.safetensors", "README.md")
    for name in (*others, "tokenizer/code.py", "text_encoder/flax_model.msgpack", "unet/other.txt"):
        (folder / name).write_text("not read")
    secret = folder / "text_encoder/model.safetensors"
    secret.chmod(0o600)
    (folder / "text_encoder_2/model.safetensors").chmod(0o644)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    before = [(p, p.read_bytes(), stat.S_IMODE(p.stat().st_mode)) for p in files]
    save(tmp_path / "student", (folder, load_text_teacher(folder)))
    assert before == [(p, p.read_bytes(), stat.S_IMODE(p.stat().st_mode)) for p in files]
    found = {
        str(p.relative_to(tmp_path / "student")) for p in (tmp_path / "student").rglob("*") if p.is_file()
    }
    texts = {f"{part}/{file}" for part in ("text_encoder", "text_encoder_2")
             for file in ("config.json", "model.safetensors", "SHA256SUMS")}  # fmt: skip
    words = {f"{part}/{file}" for part in ("tokenizer", "tokenizer_2")
             for file in ("tokenizer.json", "tokenizer_config.json")}  # fmt: skip
    networks = {f"{part}/{file}" for part in ("unet", "vae")
                for file in ("config.json", "diffusion_pytorch_model.safetensors", "SHA256SUMS")}  # fmt: skip
    scheduler = "scheduler/scheduler_config.json"
    assert found == texts | words | networks | {"README.md", "model_index.json", scheduler}
    linked = tmp_path / "student/text_encoder_2/model.safetensors"
    assert linked.stat().st_nlink == 2  # not copied
    assert stat.S_IMODE((tmp_path / "student/text_encoder/model.safetensors").stat().st_mode) == 0o644


def test_a_folder_without_links_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_pipeline(tmp_path / "teacher")

    def refuse(*_: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    save(tmp_path / "student", (folder, load_text_teacher(folder)))
    copied = tmp_path / "student/vae/diffusion_pytorch_model.safetensors"
    assert copied.stat().st_nlink == 1
    assert copied.read_bytes() == (folder / "vae/diffusion_pytorch_model.safetensors").read_bytes()


def test_a_teacher_in_a_hubs_cache_whose_text_model_lies_in_parts(tmp_path: Path) -> None:
    """Links to blobs become files of their own; parts of weights come with their index."""
    folder = save_sd3(tmp_path / "teacher")
    place = folder / "text_encoder_3"
    T5EncoderModel.from_pretrained(place).save_pretrained(place, max_shard_size="4KB")
    (place / "model.safetensors").unlink(missing_ok=True)
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for i, file in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        file.rename(blobs / str(i))
        file.symlink_to(blobs / str(i))
    teacher = load_text_teacher(folder)
    student = save(tmp_path / "student", (folder, teacher))
    files = [p for p in (tmp_path / "student").rglob("*") if p.is_file()]
    assert not any(p.is_symlink() for p in files)
    assert len([p for p in files if p.match("text_encoder_3/model-*.safetensors")]) > 1
    z = noise(teacher)
    found = stock_sample(pipeline_from(tmp_path / "student", "sd3"), teacher, z, guidance_scale=1.0)
    assert error(found, own_sample(student, teacher, z)) < 1e-5


def test_averages_are_pipelines_of_their_own(loaded: Callable[[str], Loaded], tmp_path: Path) -> None:
    _, teacher = loaded("sd3")
    save(tmp_path / "student", loaded("sd3"), averages=[("0.9", teacher.network)])
    z = noise(teacher)
    pipeline = pipeline_from(tmp_path / "student/averages/0.9", "sd3")
    found = stock_sample(pipeline, teacher, z, guidance_scale=1.0)
    assert error(found, own_sample(teacher.network, teacher, z)) < 1e-5


def test_a_second_save_replaces_the_first(loaded: Callable[[str], Loaded], tmp_path: Path) -> None:
    _, teacher = loaded("sd")
    save(tmp_path / "student", loaded("sd"), 10)
    student = save(tmp_path / "student", loaded("sd"), 40)
    z = noise(teacher)
    found = stock_sample(pipeline_from(tmp_path / "student", "sd"), teacher, z)
    assert error(found, own_sample(student, teacher, z, 40)) < 1e-5


def test_a_teacher_that_has_a_place_for_guidance(tmp_path: Path) -> None:
    """A consistency model as the teacher: what its network makes of a scale is not the student's."""
    folder = save_tiny_pipeline(tmp_path / "teacher")
    config = UNet2DConditionModel.load_config(folder / "unet")
    UNet2DConditionModel.from_config(config, time_cond_proj_dim=16).save_pretrained(folder / "unet")
    teacher = load_text_teacher(folder)
    student = save(tmp_path / "student", (folder, teacher))
    z = noise(teacher)
    pipeline = pipeline_from(tmp_path / "student", "sd")
    for scale in (1.0, 7.5, 20.0):
        found = stock_sample(pipeline, teacher, z, guidance_scale=scale)
        assert error(found, own_sample(student, teacher, z)) < 1e-5


@pytest.mark.parametrize("name", ["sd3", "flux", "wan"])
def test_a_flows_student_begins_at_pure_noise(
    name: str, loaded: Callable[[str], Loaded], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"^the student's timestep is 20: a stock scheduler of flow "):
        save(tmp_path / "student", loaded(name), 20)
    save(tmp_path / "other", loaded(name), 49)
    with pytest.raises(UserError, match=r"^the student's timestep is 50; allowed are 0 to 49$"):
        save(tmp_path / "student", loaded(name), 50)
    assert not (tmp_path / "student").exists()


def test_more_steps_are_refused_by_diffusers(loaded: Callable[[str], Loaded], tmp_path: Path) -> None:
    """The default of 50 too, of those with betas."""
    save(tmp_path / "student", loaded("sd"))
    with pytest.raises(ValueError, match=r"cannot be larger than|is smaller than"):
        pipeline_from(tmp_path / "student", "sd")("a cube", height=8, width=8)


def test_a_place_that_cannot_be_written(loaded: Callable[[str], Loaded], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((UserError, OSError)):
        save(tmp_path / "file/student", loaded("sd"))
