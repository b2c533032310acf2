"""Models with prompts: what guides their own samples lies where their network does."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from carv_distill.attribution.models.prompted import GUIDANCE, _loaded, _Texts
from carv_distill.attribution.options import ModelOptions
from carv_distill.teachers.condition import Condition
from carv_distill.teachers.denoiser import GuidedDenoiser
from carv_distill.teachers.pipelines.folder import find_pipeline
from tests.helpers.tiny_latent import save_tiny_pipeline


def test_no_prompt_goes_to_the_device_with_the_network(tmp_path: Path) -> None:
    """On a device that is not the CPU, of which `meta` is one: under guidance both conditions are
    joined."""
    path = save_tiny_pipeline(tmp_path / "pipeline")
    texts = _Texts(find_pipeline(path), tmp_path / "prompts", "cpu")
    guided = _loaded(path, (), texts, "meta", ModelOptions()).guided(GUIDANCE)
    assert isinstance(guided, GuidedDenoiser)
    assert next(guided.parameters()).device.type == "meta"
    null = guided.null.value
    assert isinstance(null, Condition)
    places: list[str] = []

    def note(tensor: Tensor) -> Tensor:
        places.append(tensor.device.type)
        return tensor

    null.map(note)
    assert set(places) == {"meta"}
