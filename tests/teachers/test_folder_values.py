"""A folder of somebody's with any value for any key: it loads, or it is one short line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMScheduler

from carv_distill.errors import UserError
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.teachers.schedule import EDMSchedule
from carv_distill.teachers.teacher import edm_scheduler_config, load_teacher, save_teacher
from tests.helpers.tiny_latent import save_tiny_pipeline
from tests.helpers.tiny_unet import tiny_unet

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 16, 10**6, 10**12, 10**400),
    *(0.0, 0.5, -1.5, 1e308, float("nan"), float("inf")),
    *("", "x", "8", "linear", "a" * 10_000, "DownBlock2D"),
    *([], [1], [8, 8], ["a"], [None], [[1]], {}, {"a": 1}, [8] * 1000),
    *(["DownBlock2D"] * 2, ["AttnDownBlock2D"] * 2),
]
FILES = {
    "edm": ("config.json", "scheduler_config.json"),
    "ddpm": ("config.json", "scheduler_config.json"),
    "pipeline": (
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("folders")
    save_teacher(place / "edm", tiny_unet(labels=3), edm_scheduler_config(EDMSchedule(), 0.5), "")
    save_teacher(place / "ddpm", tiny_unet(), json.loads(DDPMScheduler().to_json_string()), "")
    save_tiny_pipeline(place / "pipeline")
    return place


def outcome(folder: Path) -> str:
    """Empty where it loads; else the message."""
    try:
        (load_text_teacher if folder.name == "pipeline" else load_teacher)(folder)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [*((kind, 20) for kind in FILES), *(pytest.param(k, 3000, marks=pytest.mark.slow) for k in FILES)],
)
@pytest.mark.timeout(3000)
def test_any_value_of_any_key(kind: str, inputs: int, folders: Path) -> None:
    rng = random.Random(inputs)
    messages = []
    for _ in range(inputs):
        path = folders / kind / rng.choice(FILES[kind])
        before = path.read_text()
        content = json.loads(before)
        for key in rng.sample(sorted(content), rng.choice([1, 1, 1, 2])):
            content[key] = rng.choice(VALUES)
            if rng.random() < 0.1:
                del content[key]
        try:
            path.write_text(json.dumps(content))
            messages.append(outcome(folders / kind))
        finally:
            path.write_text(before)
    refused = [message for message in messages if message]
    assert 0.2 * inputs < len(refused) < inputs
    for message in refused:
        assert "\n" not in message
        assert len(message) < 900
