"""What is refused as a text-to-image teacher, each in one line that names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from carv_distill.errors import UserError
from carv_distill.teachers.condition import Condition
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.pipelines import folder as loading
from carv_distill.teachers.pipelines.codecs import ImageLatents, Pixels
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.teachers.trial import try_denoiser
from tests.helpers.tiny_latent import save_tiny_pipeline
from tests.helpers.tiny_pixel import save_tiny_if_pipeline


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "sd": save_tiny_pipeline(tmp_path_factory.mktemp("sd")),
        "if": save_tiny_if_pipeline(tmp_path_factory.mktemp("if")),
    }


@pytest.fixture(params=["sd", "if"])
def folder(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to damage, of either kind."""
    return shutil.copytree(folders[request.param], tmp_path / request.param)


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        load_text_teacher(folder)
    said = str(error.value)
    assert "\n" not in said
    return said


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_index_says_which_kind_it_is(folders: dict[str, Path]) -> None:
    assert isinstance(load_text_teacher(folders["sd"]).codec, ImageLatents)
    assert isinstance(load_text_teacher(folders["if"]).codec, Pixels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_teacher_of_16_bits_is_tried_in_float32_and_has_the_weights_of_its_files(
    dtype: torch.dtype, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU, where it lies as it is tried, takes many times as long for convolutions in 16 bits."""
    tried: list[torch.dtype] = []

    def noted(denoiser: NetworkDenoiser, *rest: Any) -> None:
        tried.extend({p.dtype for p in denoiser.parameters()})
        try_denoiser(denoiser, *rest)

    monkeypatch.setattr("carv_distill.teachers.pipelines.teacher.try_denoiser", noted)
    network = load_text_teacher(folders["sd"], dtype=dtype).network
    assert tried == [torch.float32]
    assert network.dtype == dtype
    plain = UNet2DConditionModel.from_pretrained(folders["sd"] / "unet", torch_dtype=dtype)
    for name, weights in network.model.state_dict().items():
        last = name.startswith("conv_out.")  # computes in float32
        assert weights.dtype == (torch.float32 if last else dtype)
        assert torch.equal(weights.to(dtype), plain.state_dict()[name])


def test_of_a_hub_only_what_is_read_is_fetched(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index first, and nothing more of a pipeline that is refused; no pickles, no variants."""
    hub = shutil.copytree(folders["if"], tmp_path / "hub")
    (hub / "unet/diffusion_pytorch_model.fp16.safetensors").touch()
    (hub / "unet/diffusion_pytorch_model.bin").touch()
    fetched: list[str] = []

    def snapshot_download(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        files = [str(p.relative_to(hub)) for p in hub.rglob("*") if p.is_file()]
        wanted = filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        fetched.extend(sorted(wanted))
        return str(hub)

    monkeypatch.setattr("carv_distill.teachers.folder.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    load_text_teacher("somebody/some-teacher")
    assert fetched == [
        "model_index.json",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    fetched.clear()
    rewrite(hub / "model_index.json", _class_name="KandinskyPipeline")
    with pytest.raises(UserError, match="KandinskyPipeline"):
        load_text_teacher("somebody/some-teacher")
    assert fetched == ["model_index.json"]


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    assert "has no model_index.json; it must be the folder of a pipeline" in refusal(tmp_path)


@pytest.mark.parametrize("other", ["StableCascadeDecoderPipeline", "IFSuperResolutionPipeline", None])
def test_another_pipeline_is_refused_by_its_name(other: str | None, folder: Path) -> None:
    rewrite(folder / "model_index.json", _class_name=other)
    said = refusal(folder)
    assert f"has _class_name {other!r}, not one of StableDiffusionPipeline, " in said
    assert "model_index.json" in said


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        *(("sd", part) for part in ("vae", "unet", "tokenizer", "text_encoder")),
        *(("if", part) for part in ("unet", "tokenizer", "text_encoder")),
    ],
)
def test_a_missing_part_is_named(kind: str, part: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders[kind], tmp_path / kind)
    shutil.rmtree(folder / part)
    assert f"lacks its part {part}/" in refusal(folder)


@pytest.mark.parametrize("entry", [[], ["transformers"]])
def test_an_index_that_says_nothing_of_a_part_that_is_there(entry: list[str], folder: Path) -> None:
    rewrite(folder / "model_index.json", text_encoder=entry)
    assert isinstance(load_text_teacher(folder).prompts(["a red torus"]), Condition)


def test_a_missing_scheduler_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "scheduler")
    assert "scheduler/scheduler_config.json is missing" in refusal(folder)


def test_cut_weights_are_refused(folder: Path) -> None:
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "unet has no readable UNet2DConditionModel" in refusal(folder)


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model", "text_encoder/model"])
def test_a_network_that_lacks_weights_is_refused(name: str, folder: Path) -> None:
    """Rather than left at random values."""
    file = folder / f"{name}.safetensors"
    state = load_file(file)
    gone = min(state)
    del state[gone]
    save_file(state, file, metadata={"format": "pt"})
    assert f"lacks 1 of the network's weights, such as {gone}" in refusal(folder)


def test_pickled_weights_are_not_opened(folder: Path) -> None:
    weights = folder / "text_encoder/model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    assert "text_encoder has no readable" in refusal(folder)


def test_a_tokenizer_without_its_vocabulary_is_refused(folder: Path) -> None:
    """Rather than read as one to which every word is unknown."""
    (folder / "tokenizer/tokenizer.json").unlink()
    assert "tokenizer lacks its vocabulary: none of" in refusal(folder)


def test_the_package_that_a_sentencepiece_file_needs_is_named(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "is_sentencepiece_available", lambda: False)
    folder = shutil.copytree(folders["if"], tmp_path / "if")
    (folder / "tokenizer/spiece.model").write_bytes(b"")
    load_text_teacher(folder)  # tokenizer.json suffices
    (folder / "tokenizer/tokenizer.json").unlink()
    assert "spiece.model needs the package sentencepiece" in refusal(folder)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("in_channels", 9, "in_channels 9 makes it a network of 9 channels"),
        ("out_channels", 5, "out_channels 5 is not one of"),
    ],
)
def test_channels_that_do_not_fit_are_named(key: str, value: int, said: str, folder: Path) -> None:
    """With weights of that shape, so that nothing but the channels is wrong."""
    rewrite(folder / "unet/config.json", **{key: value})
    UNet2DConditionModel.from_config(folder / "unet").save_pretrained(folder / "unet")
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prediction_type": "flow_prediction"}, "prediction_type 'flow_prediction' is not one of epsilon"),
        ({"rescale_betas_zero_snr": True}, "zero signal at the end"),
        ({"beta_schedule": "spiral"}, "no readable scheduler: spiral"),
        (
            {"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"},
            "needs betas or a flow's levels",
        ),
    ],
)
def test_schedulers_that_are_not_known_are_refused(
    changes: dict[str, object], said: str, folder: Path
) -> None:
    rewrite(folder / "scheduler/scheduler_config.json", **changes)
    assert said in refusal(folder)
