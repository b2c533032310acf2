"""Conditions of prompts against what diffusers' pipelines give their networks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from carv_distill.errors import UserError
from carv_distill.teachers.condition import Condition, tensors
from carv_distill.teachers.pipelines.encoder import stacked
from carv_distill.teachers.pipelines.teacher import TextTeacher, load_text_teacher
from tests.helpers.tiny_pipelines import EVERY, FEW, SIZES, save_sdxl

PROMPT, NEGATIVE = "a red torus, front view", "blue cube"
TeacherOf, PipelineOf = Callable[..., TextTeacher], Callable[..., Any]


def encoded(pipeline: Any, prompt: str, negative: str | None) -> tuple[Condition, Condition | None]:
    """By the pipeline's own encode_prompt: of the prompt, and of the negative one."""
    name = type(pipeline).__name__
    if name == "FluxPipeline":
        embeddings, pooled, _ = pipeline.encode_prompt(prompt, None)
        return Condition(embeddings, pooled=pooled), None
    said: dict[str, Any] = {"negative_prompt": negative, "do_classifier_free_guidance": True}
    if name.startswith("PixArt"):
        tokens = 300 if "Sigma" in name else 120
        a, mask, b, other = pipeline.encode_prompt(prompt, max_sequence_length=tokens, **said)
        return Condition(a, mask), Condition(b, other)
    if name == "StableDiffusion3Pipeline":
        a, b, c, d = pipeline.encode_prompt(prompt, None, None, **said)
        return Condition(a, pooled=c), Condition(b, pooled=d)
    if name == "StableDiffusionXLPipeline":
        a, b, c, d = pipeline.encode_prompt(prompt, **said)
        return Condition(a, pooled=c), Condition(b, pooled=d)
    if name == "StableDiffusionPipeline":
        said |= {"device": "cpu", "num_images_per_prompt": 1}
    if name == "WanPipeline":
        said |= {"max_sequence_length": 512}
    a, b = pipeline.encode_prompt(prompt, **said)
    return Condition(a), Condition(b)


def equal(found: Condition, exact: Condition) -> None:
    """Embeddings, mask and pooled; what is told beside the prompt is compared elsewhere."""
    for a, b in (
        (found.embeddings, exact.embeddings),
        (found.mask, exact.mask),
        (found.pooled, exact.pooled),
    ):
        assert (a is None) == (b is None)
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [*EVERY])
def test_conditions_are_the_pipelines(name: str, teacher_of: TeacherOf, pipeline_of: PipelineOf) -> None:
    """Of a prompt, of none and of a negative one; several prompts at once as one by one."""
    prompts, pipeline = teacher_of(name, torch.float64).prompts, pipeline_of(name, torch.float64)
    exact, null = encoded(pipeline, PROMPT, None if name.startswith("sd") else "")
    equal(prompts([PROMPT]), exact)
    equal(prompts(["a cube", PROMPT])[1:], exact)
    if null is not None:
        equal(prompts.null(), null)
        negative = encoded(pipeline, PROMPT, NEGATIVE)[1]
        assert negative is not None
        equal(prompts.null(NEGATIVE), negative)
        assert not torch.equal(prompts.null(NEGATIVE).embeddings, prompts.null().embeddings)


@pytest.mark.parametrize("name", ["pixart_alpha", "pixart_sigma", "deepfloyd"])
def test_capitals_are_as_the_pipeline_has_them(
    name: str, teacher_of: TeacherOf, pipeline_of: PipelineOf
) -> None:
    """These put prompts in lower case first: two that differ in it alone are one prompt to the network."""
    prompts = teacher_of(name).prompts
    equal(prompts([" A Red TORUS "]), encoded(pipeline_of(name), " A Red TORUS ", "")[0])
    assert prompts.alike(["A red torus", "a RED torus", "a cube"]) == [[0, 1], [2]]


def test_no_prompt_is_zeros_where_sdxl_says_so(tmp_path: Path, teacher_of: TeacherOf) -> None:
    null = teacher_of("sdxl").prompts.null()
    assert null.pooled is not None
    assert not null.embeddings.any()
    assert not null.pooled.any()
    assert null.time_ids is not None
    assert null.time_ids.any()  # sizes are told all the same
    folder = save_sdxl(tmp_path / "sdxl", force_zeros_for_empty_prompt=False)
    other = load_text_teacher(folder).prompts
    exact = encoded(DiffusionPipeline.from_pretrained(folder), PROMPT, None)[1]
    assert exact is not None
    equal(other.null(), exact)
    assert other.null().embeddings.any()


@pytest.mark.parametrize("size", [(), (8, 8), (8, 16)])
def test_time_ids_are_sdxls(
    size: tuple[int, ...], folder_of: Callable[[str], Path], pipeline_of: PipelineOf
) -> None:
    teacher = load_text_teacher(folder_of("sdxl"), size)
    pipeline = pipeline_of("sdxl")
    sides = size or (8, 8)
    exact = pipeline._get_add_time_ids(sides, (0, 0), sides, torch.float32, 8)
    found = teacher.prompts([PROMPT, "a cube"]).time_ids
    assert found is not None
    assert torch.equal(found, exact.expand(2, 6))
    null = teacher.prompts.null().time_ids
    assert null is not None
    assert torch.equal(null, exact)


def test_the_guidance_that_flux_is_told(folder_of: Callable[[str], Path], teacher_of: TeacherOf) -> None:
    """Its pipeline's own by default; a network without a place for it is told none."""
    guidance = teacher_of("flux").prompts(["a cube", "a torus"]).guidance
    assert guidance is not None
    assert guidance.tolist() == [3.5, 3.5]
    told = load_text_teacher(folder_of("flux"), SIZES["flux"], guidance=1.0)
    guidance = told.prompts(["a cube"]).guidance
    assert guidance is not None
    assert guidance.tolist() == [1.0]
    assert told.guided(7.0) is told.denoiser
    schnell = load_text_teacher(folder_of("flux_schnell"), SIZES["flux"], guidance=2.0)
    assert schnell.prompts(["a cube"]).guidance is None
    assert schnell.guided(7.0) is not schnell.denoiser


@pytest.mark.parametrize("name", FEW)
def test_prompts_are_encoded_once_and_outlive_their_models(
    name: str, folder_of: Callable[[str], Path]
) -> None:
    teacher = load_text_teacher(folder_of(name), SIZES.get(name, ()))
    kept = teacher.prompts(["a red torus", "a cube"])
    null = teacher.prompts.null()
    calls = []
    teacher.prompts.encode = lambda prompts: calls.append(prompts)  # type: ignore[assignment,method-assign]
    again = teacher.prompts(["a cube", "a red torus", "a cube"])
    assert not calls
    teacher.prompts.release()
    for part, other in zip(tensors(again), tensors(kept), strict=True):
        assert torch.equal(part, other[[1, 0, 1]])
    assert torch.equal(teacher.prompts.null().embeddings, null.embeddings)
    assert not list(teacher.prompts.parameters())


def test_conditions_of_many_prompts_leave_the_device_batch_by_batch(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the places where rows are when they are joined."""
    joined: list[torch.device] = []

    def noted(rows: Sequence[Condition]) -> Condition:
        joined.extend(part.device for row in rows for part in tensors(row))
        return stacked(rows)

    encoder = load_text_teacher(folder_of("sd3")).prompts
    monkeypatch.setattr("carv_distill.teachers.pipelines.encoder._BATCH", 2)
    monkeypatch.setattr("carv_distill.teachers.pipelines.encoder.stacked", noted)
    encoder.encode(["a cube", "a red torus", "a cone"], "meta")
    assert len(joined) == 2 * 2
    assert set(joined) == {torch.device("meta")}


def test_a_prompt_that_was_not_encoded_is_named(folder_of: Callable[[str], Path]) -> None:
    teacher = load_text_teacher(folder_of("sd3"))
    teacher.prompts.release()
    with pytest.raises(UserError, match=r"^prompt 'a torus' was not encoded before"):
        teacher.prompts(["a torus"])


def test_what_is_cut_off(folder_of: Callable[[str], Path], tmp_path: Path, teacher_of: TeacherOf) -> None:
    """Where a T5 reads on, nothing is lost; without it the CLIP models' end is the end."""
    long = ", ".join(["a red torus"] * 4)
    assert teacher_of("sd3").prompts.cut_text(long) == ""
    assert teacher_of("sd3").prompts.length == 256
    bare = teacher_of("sd3_without_t5").prompts
    assert bare.length == 10
    assert bare.cut_text(long) == "a red torus, a red torus"
    folder = shutil.copytree(folder_of("sd3_without_t5"), tmp_path / "beside")
    shutil.copytree(folder_of("sd3") / "tokenizer_3", folder / "tokenizer_3", dirs_exist_ok=True)
    assert load_text_teacher(folder).prompts.length == 10  # a tokenizer alone reads nothing
    assert teacher_of("pixart_sigma").prompts.length == 300
    assert teacher_of("wan").prompts.length == 512


def test_conditions_move_with_the_teacher(folder_of: Callable[[str], Path]) -> None:
    teacher = load_text_teacher(folder_of("pixart_sigma"))
    teacher.prompts(["a cube"])
    moved = teacher.double().prompts(["a cube"])
    assert moved.embeddings.dtype == torch.float64
    assert moved.mask is not None
    assert not moved.mask.is_floating_point()


def test_prompts_that_differ_beyond_the_length_are_one(teacher_of: TeacherOf) -> None:
    """To the token: what stands in the place of the end's own is cut too, and the embeddings are equal."""
    prompts = teacher_of("sd").prompts
    assert prompts.length == 10
    words = ["a red torus a red torus a red"]  # eight, and both ends
    words += [f"{words[0]} torus", f"{words[0]} cube side", "a red torus a red torus a", "a red"]
    assert prompts.alike(words) == [[0, 1, 2], [3], [4]]
    rows = prompts(words).embeddings
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])
    assert not torch.equal(rows[0], rows[3])
