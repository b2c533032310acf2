"""Weights that are not read, or not these: what is said, and that nothing of a library stands above it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from carv_distill.errors import UserError
from carv_distill.files import DIGESTS
from carv_distill.teachers.schedule import EDMSchedule
from carv_distill.teachers.teacher import edm_scheduler_config, load_teacher, save_teacher
from tests.helpers.tiny_unet import tiny_unet

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A teacher of our own, with digests."""
    config = edm_scheduler_config(EDMSchedule(0.01, 50.0, 5.0), sigma_data=0.7)
    save_teacher(tmp_path / "teacher", tiny_unet(), config, "# card\n")
    return tmp_path / "teacher"


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_teacher(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", ["fp16.safetensors", "non_ema.safetensors"])
def test_weights_of_a_variant_are_named_with_the_remedy(
    folder: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / WEIGHTS).rename(folder / f"diffusion_pytorch_model.{name}")
    message = refusal(folder)
    assert message.endswith(
        f"there is diffusion_pytorch_model.{name}: to use it, rename or copy it to {WEIGHTS}"
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt", "pytorch_model.pt"])
def test_pickles_are_named_with_the_remedy(folder: Path, name: str) -> None:
    (folder / WEIGHTS).rename(folder / name)
    message = refusal(folder)
    assert f"there is {name}, a kind of file that is never opened here" in message
    assert "UNet2DModel.from_pretrained(FOLDER, use_safetensors=False)" in message


def test_no_weights_at_all(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    assert f"{WEIGHTS} is missing; of a hub's model only that file is fetched" in refusal(folder)


@pytest.mark.parametrize(
    ("value", "name"), [(float("nan"), "conv_in.weight"), (float("inf"), "conv_out.bias")]
)
def test_weights_that_are_not_finite_are_named(folder: Path, value: float, name: str) -> None:
    """Found when they are read, and not blamed on a learning rate."""
    weights = load_file(folder / WEIGHTS)
    weights[name].flatten()[0] = value
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / DIGESTS).unlink()
    assert refusal(folder).endswith(f"NaN or infinity among the weights {name}; they are damaged")


def test_one_flipped_bit_is_found(folder: Path) -> None:
    """In the middle of the weights, where every byte is some number's."""
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-500] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    assert f"{WEIGHTS} is damaged: its SHA-256 is not that of SHA256SUMS" in refusal(folder)
    (folder / DIGESTS).unlink()
    load_teacher(folder)  # somebody's folder, without digests


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_size": [8, 16]}, r"sample_size is [8, 16]; pictures must be square"),
        ({"sample_size": "8"}, "sample_size is '8', not a whole number of pixels along one side"),
        ({"sample_size": None}, "sample_size is null, not a whole number"),
        ({"sample_size": True}, "sample_size is True, not a whole number"),
        ({"sample_size": [8, 8, 8]}, "sample_size is [8, 8, 8], not a whole number"),
        ({"sample_size": 0}, "sample_size is 0; allowed are 1 to 4096"),
        ({"sample_size": 10**9}, "sample_size is 1000000000; allowed are 1 to 4096"),
        ({"sample_size": 7}, "its network at σ = 0.01 cannot be computed"),
    ],
)
def test_a_side_that_is_none(folder: Path, changes: dict[str, Any], message: str) -> None:
    configure(folder, **changes)
    assert message in refusal(folder)


def test_two_equal_sides_are_one(folder: Path, tmp_path: Path) -> None:
    """And the student's pipeline finds one number too."""
    configure(folder, sample_size=[8, 8])
    teacher = load_teacher(folder)
    assert teacher.size == 8
    save_teacher(tmp_path / "again", teacher.network, teacher.scheduler_config, "")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["sample_size"] == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"block_out_channels": []},
        {"block_out_channels": "8"},
        {"block_out_channels": [8.5, 8]},
        {"norm_num_groups": 0},
        {"norm_num_groups": "4"},
        {"down_block_types": ["NoBlock", "DownBlock2D"]},
        {"down_block_types": None},
        {"layers_per_block": 0},
        {"layers_per_block": "1"},
        {"layers_per_block": 1_000_000},
        {"block_out_channels": [400_000, 400_000]},
        {"block_out_channels": [8, 10**30]},
        {"attention_head_dim": 0, "add_attention": True},
        {"act_fn": 3},
        {"in_channels": "1"},
        {"in_channels": 0, "out_channels": 0},
        {"out_channels": None},
        {"num_class_embeds": -1},
        {"num_class_embeds": "ten"},
        {"dropout": "x"},
        {"_class_name": ["UNet2DModel"]},
        {"_class_name": 3},
        {"time_embedding_type": 7},
    ],
)
def test_a_configuration_that_makes_no_network(folder: Path, changes: dict[str, Any]) -> None:
    """Whatever a value is, it is one line that names the folder, soon."""
    configure(folder, **changes)
    assert len(refusal(folder)) < 600
