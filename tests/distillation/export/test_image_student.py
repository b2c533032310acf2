"""The student as a diffusers pipeline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from carv_distill.data.images import load_images
from carv_distill.distillation.building import build_module
from carv_distill.distillation.export.image_student import save_student, student_card
from carv_distill.distillation.export.one_step_pipeline import OneStepPipeline
from carv_distill.distillation.options import DMDConfig
from carv_distill.errors import UserError
from carv_distill.teachers.origin import Origin
from carv_distill.teachers.schedule import EDMSchedule
from carv_distill.teachers.teacher import (
    Teacher,
    edm_scheduler_config,
    load_teacher,
    raw_network,
    save_teacher,
)
from tests.helpers.edm_networks import small
from tests.helpers.pages import run_page
from tests.helpers.small import largest_file
from tests.helpers.tiny_unet import tiny_unet

MakeConfig = Callable[..., DMDConfig]
EDM = edm_scheduler_config(EDMSchedule(), 0.5)

LOAD = """\
import sys, torch
from diffusers import DiffusionPipeline
folder, out = sys.argv[1:]
pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
named = DiffusionPipeline.from_pretrained(
    folder, custom_pipeline=folder + "/pipeline.py", trust_remote_code=True
)
made = [
    p(class_labels=[3, 7], generator=torch.Generator().manual_seed(0), output_type=kind).images
    for p, kind in ((pipeline, "raw"), (named, "raw"), (named, "pt"))
]
pictures = named(class_labels=[3, 7]).images
assert len(pictures) == 2 and pictures[0].size == made[0].shape[2:]
assert "carv_distill" not in sys.modules
torch.save(made, out)
"""


def loaded_elsewhere(folder: Path) -> Tensor:
    """x of seed 0 and labels 3, 7 by diffusers, in a process where this package cannot be imported."""
    script, out = folder.parent / "load.py", folder.parent / "made.pt"
    # a module of this name that cannot be imported stands before the real one
    (folder.parent / "carv_distill.py").write_text("raise ImportError('not here')\n")
    script.write_text(LOAD)
    home = {"HF_HOME": str(folder.parent / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(out)],
        env={**os.environ, **home, "PYTHONPATH": str(folder.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    raw, named, unit = torch.load(out, weights_only=True)
    assert torch.equal(raw, named)
    torch.testing.assert_close(unit, (raw / 2 + 0.5).clamp(0, 1))
    return raw


def noise(teacher: Teacher, count: int = 2) -> Tensor:
    shape = (count, teacher.channels, teacher.size, teacher.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def one_step(teacher: Teacher, z: Tensor, labels: Tensor | None) -> Tensor:
    return Origin.of_images(teacher.schedule)(teacher.denoiser, z, labels)


def test_a_student_needs_only_diffusers(small_config: MakeConfig, tmp_path: Path) -> None:
    """Loaded where this package cannot be imported, the pipeline makes the module's own samples."""
    module = build_module(small_config(), load_images("digits"))
    folder = tmp_path / "student"
    module.save(folder, 6, {"FID": 3.25, "images": 600, "teacher": "a|b"})
    raw = loaded_elsewhere(folder)
    teacher = load_teacher(folder)
    expected = module.sample(noise(teacher), torch.tensor([3, 7]))
    torch.testing.assert_close(raw, expected.detach(), rtol=1e-4, atol=1e-4)
    assert torch.equal(one_step(teacher, noise(teacher), torch.tensor([3, 7])), expected.detach())
    card = (folder / "README.md").read_text()
    for row in ("| FID | 3.25 |", "| images | 600 |", "| teacher | a\\|b |", "| updates | 6 |", "| K | 2 |"):
        assert row in card
    assert "nothing but diffusers is needed" in card
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files == {
        "README.md",
        "model_index.json",
        "pipeline.py",
        "scheduler/scheduler_config.json",
        "unet/SHA256SUMS",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    for place in (len(content) - 1, len(content) // 2):  # the top bits of one number, some bit of another
        weights.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
        with pytest.raises(UserError, match=r"diffusion_pytorch_model\.safetensors is damaged: its SHA-256"):
            load_teacher(folder)


def test_the_example_on_the_page_runs_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    for labels, made in ((0, 4), (3, 3)):
        folder, network = tmp_path / f"runs/{labels}/student", raw_network(tiny_unet(labels=labels or None))
        save_student(folder, network, EDM, student_card(network, labels, {}))
        pictures = run_page(folder)["images"]
        assert [picture.size for picture in pictures] == [(8, 8)] * made


@pytest.mark.parametrize("name", ["ddpm++", "adm"])
def test_a_student_of_an_edm_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this package is installed, diffusers finds the class by the file in unet/."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder, network = tmp_path / "student", raw_network(small(name))
    save_student(folder, network, EDM, student_card(network, 10, {}))
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    assert type(pipeline.unet) is type(network.model)
    g = torch.Generator().manual_seed(0)
    raw = pipeline(class_labels=[3, 7], generator=g, output_type="raw").images
    teacher = load_teacher(folder)
    expected = one_step(teacher, noise(teacher), torch.tensor([3, 7]))
    torch.testing.assert_close(raw, expected, rtol=1e-4, atol=1e-4)
    assert "carv-distill must be installed" in (folder / "README.md").read_text()


ZERO_SIGNAL = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *product(
            (DDPMScheduler, DDIMScheduler),
            [{"prediction_type": name} for name in ("epsilon", "v_prediction", "sample")],
        ),
        (DDIMScheduler, {"prediction_type": "v_prediction", **ZERO_SIGNAL}),
        (DDPMScheduler, {"prediction_type": "sample", **ZERO_SIGNAL}),
        (FlowMatchEulerDiscreteScheduler, {"shift": 3.0}),
        (UniPCMultistepScheduler, {"prediction_type": "flow_prediction", "use_flow_sigmas": True}),
    ],
)
def test_every_scheduler_of_a_teacher(kind: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    """The pipeline's x is the one that was trained, for each prediction, at σ = ∞ too."""
    config = json.loads(kind(**settings).to_json_string())
    network = raw_network(tiny_unet(channels=3))
    save_student(tmp_path, network, config, student_card(network, 10, {}))
    teacher = load_teacher(tmp_path)
    pipeline = OneStepPipeline(network.model, kind.from_config(config))
    made = pipeline(2, generator=torch.Generator().manual_seed(0), output_type="raw").images
    torch.testing.assert_close(made, one_step(teacher, noise(teacher), None), rtol=1e-4, atol=1e-3)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", kind.__name__]


def test_what_the_pipeline_takes() -> None:
    """One label for all, a list, a tensor; what is missing or out of range is refused."""
    pipeline = OneStepPipeline(tiny_unet(labels=4), EDMEulerScheduler())

    def made(labels: Any, count: int = 1) -> Tensor:
        g = torch.Generator().manual_seed(0)
        return pipeline(count, labels, generator=g, output_type="raw", return_dict=False)[0]

    assert torch.equal(made(2, 3), made([2, 2, 2]))
    assert torch.equal(made(torch.tensor([1, 3])), made([1, 3]))
    assert pipeline(2, 0, output_type="np").images.shape == (2, 8, 8, 1)
    for bad in ([4], [-1], [[1]]):
        with pytest.raises(ValueError, match="one integer per image, 0 to 3"):
            made(bad)
    with pytest.raises(ValueError, match="class_labels are missing"):
        made(None)
    with pytest.raises(ValueError, match="'gif' is not one of pil, np, pt, raw"):
        pipeline(1, 0, output_type="gif")


def test_a_full_disk_keeps_the_student_as_it_was(tmp_path: Path) -> None:
    """No file may grow beyond 4 kB: one line, and what was saved before is untouched."""
    folder, network = tmp_path / "student", raw_network(tiny_unet())
    save_student(folder, network, EDM, "# card\n")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with largest_file(4_000), pytest.raises(UserError, match="could not be written") as caught:
        save_student(folder, raw_network(tiny_unet(seed=1)), EDM, "# other\n")
    assert "\n" not in str(caught.value)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_the_pipeline_wins_over_an_older_flat_student(tmp_path: Path) -> None:
    """A run resumed into a folder of the older layout: load_teacher reads the newer weights."""
    save_teacher(tmp_path, tiny_unet(seed=1), EDM, "")
    save_student(tmp_path, raw_network(tiny_unet(seed=2)), EDM, "")
    weights = load_teacher(tmp_path).network.model.state_dict()
    assert all(map(torch.equal, weights.values(), tiny_unet(seed=2).state_dict().values()))


def test_the_cards_front_matter() -> None:
    """YAML that model hubs read, without a licence; an unconditional student's call has no labels."""
    card = student_card(raw_network(tiny_unet()), 10, {"FID": 1.0, "R": 32})
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "diffusers"
    assert "license" not in front
    assert "distillation" in front["tags"]
    assert "pipeline(batch_size=4)" in card
    assert "| R | 32 |" in card
