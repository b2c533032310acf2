"""Networks that load and cannot be called, or give something else: said before a run begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from carv_distill.errors import UserError
from carv_distill.files import DIGESTS
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.parametrisation import EDMPreconditioning
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.teachers.schedule import EDMSchedule
from carv_distill.teachers.teacher import edm_scheduler_config, load_teacher, save_teacher
from carv_distill.teachers.trial import try_call, try_denoiser
from tests.helpers.tiny_latent import save_tiny_pipeline
from tests.helpers.tiny_unet import tiny_unet

EDM = edm_scheduler_config(EDMSchedule(0.01, 50.0, 5.0), sigma_data=0.7)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"class_embed_type": "timestep"}, "class_embed_type 'timestep' is not supported"),
        ({"class_embed_type": "identity"}, "class_embed_type 'identity' is not supported"),
        (
            {"time_embedding_type": "learned", "num_train_timesteps": 10},
            "time_embedding_type 'learned' is not",
        ),
        ({"time_embedding_type": "fourier"}, "time_embedding_type 'fourier' is not supported"),
        ({"out_channels": 2}, "learned variances are not supported"),
    ],
)
def test_networks_of_another_kind(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    save_teacher(tmp_path / "t", tiny_unet(**config), EDM, "")
    with pytest.raises(UserError, match=message):
        load_teacher(tmp_path / "t")


class Broken(nn.Module):
    """A network that does something wrong from a level on."""

    def __init__(self, wrong: str, level: float = 0.0) -> None:
        super().__init__()
        self.wrong, self.level = wrong, level
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, y: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        assert not torch.is_grad_enabled()
        if (4 * c_noise).exp().item() < self.level:
            return y
        match self.wrong:
            case "shape":
                return y[..., :-1]
            case "finite":
                return y * float("nan")
            case "index":
                raise IndexError("list index\nout of range")
        return y


def broken(wrong: str, level: float = 0.0) -> NetworkDenoiser:
    return NetworkDenoiser(Broken(wrong, level), EDMPreconditioning())


@pytest.mark.parametrize("level", [0.0, 10.0])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("shape", r"gives the shape \[1, 1, 4, 3\], not \[1, 1, 4, 4\]"),
        ("finite", "gives NaN or infinity"),
        ("index", "cannot be computed: IndexError: list index out of range"),
    ],
)
def test_what_is_wrong_is_said_with_its_level(wrong: str, level: float, message: str) -> None:
    """At the least level, and at the greatest alone."""
    at = "0.002" if level == 0 else "80"
    with pytest.raises(UserError, match=rf"^x: its network at σ = {at} {message}$"):
        try_denoiser(broken(wrong, level), EDMSchedule(), (1, 4, 4), None, "x")


def test_a_sound_network_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    try_denoiser(broken(""), EDMSchedule(), (1, 4, 4), None, "x")
    assert torch.equal(torch.get_rng_state(), before)
    assert try_call(lambda: torch.ones(2), (2,), "x").tolist() == [1, 1]


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("unet", {"class_embed_type": "timestep"}, "unet"),
        ("unet", {"sample_size": None}, "unet/config.json: sample_size is null"),
        ("unet", {"sample_size": [4, 4]}, None),
        ("unet", {"cross_attention_dim": 7}, "unet"),
        ("unet", {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}, "unet"),
        ("vae", {"latent_channels": 5}, "vae"),
        ("vae", {"sample_size": "x"}, "vae"),
        ("text_encoder", {"hidden_size": 9}, "text_encoder"),
        ("text_encoder", {"max_position_embeddings": 0}, "text_encoder"),
    ],
)
def test_parts_of_a_pipeline(tmp_path: Path, part: str, changes: dict[str, Any], message: str | None) -> None:
    folder = save_tiny_pipeline(tmp_path / "sd")
    edit(folder / part, **changes)
    if message is None:
        assert load_text_teacher(folder).shape == (4, 4, 4)
        return
    with pytest.raises(UserError, match=message) as caught:
        load_text_teacher(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_of_any_part_are_finite(tmp_path: Path, part: str) -> None:
    folder = save_tiny_pipeline(tmp_path / "sd")
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    name = max(weights)
    weights[name].flatten()[0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    (folder / part / DIGESTS).unlink(missing_ok=True)
    with pytest.raises(UserError, match=f"{part}: NaN or infinity among the weights"):
        load_text_teacher(folder)


def test_a_tokenizer_without_its_length(tmp_path: Path) -> None:
    """transformers then has 10³⁰ tokens; the text model says how many it takes."""
    folder = save_tiny_pipeline(tmp_path / "sd")
    path = folder / "tokenizer/tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["model_max_length"]
    path.write_text(json.dumps(config))
    assert load_text_teacher(folder).prompts(["a red torus"]).embeddings.shape == (1, 10, 8)
