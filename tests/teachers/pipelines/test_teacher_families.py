"""What is refused as a teacher of any family, each in one line that names the file or the key."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from diffusers import SD3Transformer2DModel, UNet2DConditionModel, WanTransformer3DModel

from carv_distill.errors import UserError
from carv_distill.teachers.pipelines.families import FAMILIES
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from tests.helpers.tiny_pipelines import EVERY, SIZES, t5_text

FolderOf = Callable[[str], Path]
PARTS = {
    "sdxl": "tokenizer tokenizer_2 text_encoder text_encoder_2 unet vae scheduler",
    "sd3": "tokenizer tokenizer_2 tokenizer_3 text_encoder text_encoder_2 text_encoder_3 transformer vae "
    "scheduler",
    "flux": "tokenizer tokenizer_2 text_encoder text_encoder_2 transformer vae scheduler",
    "pixart_alpha": "tokenizer text_encoder transformer vae scheduler",
    "pixart_sigma": "tokenizer text_encoder transformer vae scheduler",
    "wan": "tokenizer text_encoder transformer vae scheduler",
    "deepfloyd": "tokenizer text_encoder unet scheduler",
}


def refusal(folder: Path, size: Sequence[int] = ()) -> str:
    with pytest.raises(UserError) as error:
        load_text_teacher(folder, size)
    said = str(error.value)
    assert "\n" not in said
    return said


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture
def copy_of(folder_of: FolderOf, tmp_path: Path) -> FolderOf:
    """A copy to damage."""
    return lambda name: shutil.copytree(folder_of(name), tmp_path / name)


@pytest.mark.parametrize(
    ("name", "part"), [(n, part) for n, parts in PARTS.items() for part in parts.split()]
)
def test_a_part_that_is_missing(name: str, part: str, copy_of: FolderOf) -> None:
    folder = copy_of(name)
    shutil.rmtree(folder / part)
    said = refusal(folder, SIZES.get(name, ()))
    if part == "scheduler":
        assert said == f"{folder}/scheduler/scheduler_config.json is missing; a diffusers folder has it"
    else:
        assert said.startswith(f"{folder} lacks its part {part}/; ")
        assert said.endswith(f" has {', '.join(PARTS[name].split())}")


def test_a_folder_of_text_models_alone(copy_of: FolderOf) -> None:
    folder = copy_of("sd3")
    for part in ("transformer", "vae", "scheduler"):
        shutil.rmtree(folder / part)
    assert f"{folder} lacks its part transformer/" in refusal(folder)


@pytest.mark.parametrize("name", ["WanImageToVideoPipeline", "SanaPipeline", "FluxFillPipeline"])
def test_another_pipeline_is_named_with_the_list(name: str, copy_of: FolderOf) -> None:
    folder = copy_of("sd3")
    rewrite(folder / "model_index.json", _class_name=name)
    said = refusal(folder)
    assert f"_class_name {name!r}, not one of {', '.join(FAMILIES)}" in said


def test_a_second_network_for_low_noise(copy_of: FolderOf) -> None:
    folder = copy_of("wan")
    rewrite(folder / "model_index.json", transformer_2=["diffusers", "WanTransformer3DModel"])
    assert "model_index.json: transformer_2, a second network for low noise, is not supported" in refusal(
        folder, SIZES["wan"]
    )
    rewrite(folder / "model_index.json", transformer_2=[None, None])
    load_text_teacher(folder, SIZES["wan"])


def test_text_models_that_the_index_leaves_out(copy_of: FolderOf) -> None:
    """SD3's T5 may be left out, its CLIP models may not; what lies there but is left out is not read."""
    folder = copy_of("sd3")
    rewrite(folder / "model_index.json", text_encoder_3=[None, None])
    assert list(load_text_teacher(folder).prompts.tokenizers) == ["tokenizer", "tokenizer_2"]
    rewrite(folder / "model_index.json", text_encoder_2=[None, None])
    said = refusal(folder)
    assert "model_index.json leaves out tokenizer_2" in said
    assert said.endswith("allowed to be null: tokenizer_3, text_encoder_3")


@pytest.mark.parametrize("name", ["sd3", "flux", "wan"])
def test_a_scheduler_of_another_kind(name: str, copy_of: FolderOf) -> None:
    folder = copy_of(name)
    changes = {"_class_name": "DDIMScheduler", "beta_schedule": "linear", "prediction_type": "epsilon"}
    rewrite(folder / "scheduler/scheduler_config.json", **changes, use_flow_sigmas=False)
    said = refusal(folder, SIZES.get(name, ()))
    assert f"{folder}/scheduler: 'DDIMScheduler' has betas, but " in said
    assert said.endswith("is of flow matching: FlowMatchEulerDiscreteScheduler, or one with use_flow_sigmas")
    edm = {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 80.0}
    rewrite(folder / "scheduler/scheduler_config.json", **edm)
    assert "a text-to-image teacher needs betas or a flow's levels" in refusal(folder, SIZES.get(name, ()))


@pytest.mark.parametrize(
    ("name", "kind", "channels"),
    [("sd", UNet2DConditionModel, 9), ("sd3", SD3Transformer2DModel, 8), ("wan", WanTransformer3DModel, 9)],
)
def test_a_network_of_other_channels(name: str, kind: type, channels: int, copy_of: FolderOf) -> None:
    """Of inpainting, or of a first frame."""
    folder = copy_of(name)
    part = "unet" if name == "sd" else "transformer"
    config = kind.load_config(folder / part)  # type: ignore[attr-defined]
    kind.from_config(config, in_channels=channels).save_pretrained(folder / part)  # type: ignore[attr-defined]
    assert refusal(folder, SIZES.get(name, ())) == (
        f"{folder / part}: in_channels {channels} makes it a network of {channels} channels, but its "
        "pipeline has 4"
    )


@pytest.mark.parametrize(
    ("name", "part", "key"),
    [
        ("sd3", "text_encoder_3", "joint_attention_dim 24"),
        ("flux", "text_encoder_2", "joint_attention_dim 12"),
        ("pixart_sigma", "text_encoder", "caption_channels 12"),
    ],
)
def test_a_text_model_of_another_width(name: str, part: str, key: str, copy_of: FolderOf) -> None:
    folder = copy_of(name)
    t5_text(width=32).save_pretrained(folder / part)
    said = refusal(folder, SIZES.get(name, ()))
    assert re.search(rf"/transformer \(.*{key}; prompts' embeddings have 32; pictures \d+×\d+\): ", said)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("sd", (9, 8), "9 is no multiple of 2 pixels, the side of a latent"),
        ("sdxl", (8,), "[8] is not [height, width], as this teacher needs"),
        ("sd", (5, 8, 8), "[5, 8, 8] is not [height, width]"),
        ("deepfloyd", (0, 8), "[0, 8] is not [height, width]"),
        ("sd3", (10, 8), "[10, 8] makes latents of 5×4, which patches of 2×2 do not fill; sides must be "
                         "multiples of 4 pixels"),
        ("flux", (18, 18), "[18, 18] makes latents of 9×9, which patches of 2×2 do not fill"),
        ("pixart_sigma", (72, 64), "makes latents of 9×8, which patches of 2×2 do not fill; sides must be "
                                   "multiples of 16 pixels"),
        ("wan", (5, 8, 12), "makes latents of 2×2×3, which patches of 1×2×2 do not fill; sides must be "
                            "multiples of 8 pixels"),
        ("wan", (4, 16, 16), "4 frames are not 4 m + 1; the autoencoder would drop some"),
        ("wan", (7, 16, 16), "7 frames are not 4 m + 1"),
        ("wan", (16, 16), "[16, 16] is not [frames, height, width], as this teacher needs"),
    ],
)  # fmt: skip
def test_a_size_that_does_not_fit(name: str, size: Sequence[int], message: str, folder_of: FolderOf) -> None:
    said = refusal(folder_of(name), size)
    assert said.startswith("teacher.size: ")
    assert message in said


def test_a_picture_beyond_the_network_names_its_size(folder_of: FolderOf) -> None:
    said = refusal(folder_of("sd3"), (64, 64))
    assert "pictures 64×64): its network" in said
    assert "pos_embed_max_size" in said


@pytest.mark.parametrize("name", [*EVERY])
def test_sizes_that_fit_but_are_not_square(name: str, folder_of: FolderOf) -> None:
    """Twice as wide as high, as all families take it."""
    size = {"wan": (9, 8, 16), "flux": (8, 16), "flux_schnell": (8, 16)}.get(name, (8, 16))
    if name.startswith("pixart"):
        size = (64, 128)
    teacher = load_text_teacher(folder_of(name), size)
    assert teacher.shape[-1] == 2 * teacher.shape[-2]
    with pytest.raises(UserError, match=r"square pictures are needed here"):
        _ = teacher.image_size
