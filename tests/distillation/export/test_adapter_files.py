"""Adapters as files that diffusers' pipelines take whole, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from carv_distill.distillation.export.adapter_files import WEIGHTS, load_adapter, save_adapter
from carv_distill.errors import UserError
from carv_distill.teachers.adapters import SharedNetwork
from carv_distill.teachers.low_rank import PROJECTIONS
from tests.helpers.adapted import Wrapped, inputs, sd3_pipeline, shared_network
from tests.helpers.tiny_latent import save_tiny_pipeline


def pipeline_with(kind: str, shared: SharedNetwork, folder: Path) -> tuple[DiffusionPipeline, str]:
    """A stock pipeline around the frozen weights, and its name of the network."""
    if kind == "sd3":
        return sd3_pipeline(shared.merged(None).unet), "transformer"  # type: ignore[arg-type]
    pipeline = StableDiffusionPipeline.from_pretrained(save_tiny_pipeline(folder), safety_checker=None)
    pipeline.unet = shared.merged(None).unet
    return pipeline, "unet"


def loaded_tensors(pipeline: DiffusionPipeline, name: str) -> dict[str, Tensor]:
    return {key: value for key, value in getattr(pipeline, name).state_dict().items() if ".lora_" in key}


MORE = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "proj_in", "proj_out"]


def difference(pipeline: DiffusionPipeline, name: str, shared: SharedNetwork, given: Any) -> float:
    """Of the pipeline's network from the student's view."""
    with torch.no_grad():
        found = Wrapped(getattr(pipeline, name).double())(*given)
        return float((found - shared.view("student")(*given)).abs().max())


@pytest.mark.parametrize(
    "options",
    [{}, {"rank": 3, "alpha": 7}, {"rank": 4, "targets": ["to_v", "net.2"]}, {"rank": 4, "targets": MORE}],
    ids=["default", "alpha", "few", "more"],
)
@pytest.mark.parametrize("kind", ["unet", "sd3"])
def test_a_stock_pipeline_takes_every_tensor(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    """After `load_lora_weights` its network gives what the view gives to 1e-6, and no tensor is lost."""
    if kind == "sd3" and options.get("targets") is MORE:
        options = {
            "targets": [*PROJECTIONS, "proj_out", "norm1.linear", "pos_embed.proj", "context_embedder"]
        }
    shared, given = shared_network(kind, **options), inputs(kind, torch.float64)
    save_adapter(tmp_path / "lora", shared, "student")
    pipeline, name = pipeline_with(kind, shared, tmp_path / "pipeline")
    assert difference(pipeline, name, shared, given) > 1e-2  # still the teacher
    pipeline.load_lora_weights(tmp_path / "lora")
    assert difference(pipeline, name, shared, given) < 1e-6
    assert len(loaded_tensors(pipeline, name)) == 2 * len(shared.layers)


@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters")
@pytest.mark.parametrize(("kind", "options"), [("sd3", {}), ("unet", {"targets": MORE})], ids=["sd3", "unet"])
def test_diffusers_own_names_would_lose_tensors(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    """What peft's keys avoid: where the old names are mixed, the loader passes over a part of them."""
    shared, given = shared_network(kind, **options), inputs(kind, torch.float64)
    old = convert_state_dict_to_diffusers(get_peft_model_state_dict(shared.model, adapter_name="student"))
    pipeline, name = pipeline_with(kind, shared, tmp_path / "pipeline")
    pipeline.save_lora_weights(tmp_path / "lora", **{f"{name}_lora_layers": old})
    pipeline.load_lora_weights(tmp_path / "lora")
    assert len(loaded_tensors(pipeline, name)) < 2 * len(shared.layers)
    assert difference(pipeline, name, shared, given) > 1e-2


def test_the_keys_are_pefts_own(tmp_path: Path) -> None:
    """After the pipeline's name of the network; the base has none."""
    for kind, prefix in (("unet", "unet"), ("sd3", "transformer"), ("flux", "transformer")):
        shared = shared_network(kind, torch.bfloat16)
        save_adapter(tmp_path, shared, "fake")
        state = load_file(tmp_path / WEIGHTS)
        own = get_peft_model_state_dict(shared.model, adapter_name="fake")
        assert set(state) == {f"{prefix}.{key}" for key in own}
        assert all(torch.equal(state[f"{prefix}.{key}"], value) for key, value in own.items())
        assert {value.dtype for value in state.values()} == {torch.float32}


@pytest.mark.parametrize("alpha", [None, 2, 3, 48])
def test_back_again(alpha: int | None, tmp_path: Path) -> None:
    """Into another adapter, of another α too: the function is the same, and the others stay."""
    given = inputs("unet", torch.float64)
    shared = shared_network(rank=4, alpha=alpha)
    save_adapter(tmp_path, shared, "student")
    for other in (shared, shared_network(rank=4, alpha=5)):
        fake = other.view("fake")(*given)
        load_adapter(tmp_path, other, "average")
        torch.testing.assert_close(
            other.view("average")(*given), shared.view("student")(*given), rtol=1e-12, atol=1e-12
        )
        assert torch.equal(other.view("fake")(*given), fake)
        assert all(p.requires_grad for p in other.parameters("average"))


def damaged(folder: Path, how: str) -> None:
    path = folder / WEIGHTS
    state = load_file(path)
    first = min(state)
    if how == "missing":
        path.unlink()
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif how == "text":
        path.write_text("{}")
    else:
        if how == "nan":
            state[first][0, 0] = torch.nan
        if how == "shape":
            state[first] = state[first][:1].clone()
        if how == "lacks":
            del state[first]
        if how == "more":
            state["unet.conv_in.lora_A.weight"] = state[first].clone()
        save_file(state, path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "no adapter that can be read"),
        ("folder", "no adapter that can be read"),
        ("cut", "no adapter that can be read"),
        ("text", "no adapter that can be read"),
        ("nan", "not finite"),
        ("shape", r"has shape \[1, 8\]; dmd.adapters and this teacher make it \[16, 8\]"),
        ("lacks", r"lacks unet\.\S+ \(1 tensors differ"),
        ("more", r"has, unlike dmd.adapters.targets, unet.conv_in.lora_A.weight"),
    ],
)
def test_a_file_that_does_not_fit(how: str, said: str, tmp_path: Path) -> None:
    """One line that names it, and the adapter keeps its weights."""
    shared = shared_network()
    save_adapter(tmp_path, shared, "student")
    damaged(tmp_path, how)
    before = [p.detach().clone() for p in shared.parameters("fake")]
    with pytest.raises(UserError, match=said) as error:
        load_adapter(tmp_path, shared, "fake")
    assert str(error.value).startswith(str(tmp_path / WEIGHTS))
    assert "\n" not in str(error.value)
    assert all(map(torch.equal, before, shared.parameters("fake")))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        save_adapter(tmp_path / "file", shared_network(), "student")


def test_another_networks_file(tmp_path: Path) -> None:
    save_adapter(tmp_path, shared_network("sd3"), "student")
    with pytest.raises(UserError, match=r"tensors differ in all"):
        load_adapter(tmp_path, shared_network("unet"), "student")
