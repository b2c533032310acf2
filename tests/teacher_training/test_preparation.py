"""Teachers of rendered training sets that learn from some of them, as for evaluate.py lds and remove."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from carv_distill.attribution.models.attributed import load_model
from carv_distill.attribution.options import InfluenceOptions, ModelOptions
from carv_distill.attribution.training_data import named_model
from carv_distill.data.options import DataOptions
from carv_distill.engine.options import RunConfig
from carv_distill.errors import UserError
from carv_distill.tasks import TASKS, load_config, train
from tests.helpers.small import ROOT

NUMBERS = [1, 4, 6]
TEACHERS = {
    "teacher_shapes": (
        56, "images", "data.size=16 data.views=1 training.vae_channels=[8,8] training.unet_channels=[8] "
        "training.text_width=8 training.clip_width=8 training.clip_patch=8 training.batch=2",
    ),
    "teacher_wild": (
        8, "data", "training.size=8 training.views=1 training.unet_channels=[8,8] training.attention_size=4 "
        "training.text_width=16 training.clip_width=16 training.clip_layers=1 training.batch=2",
    ),
    "teacher_clips": (
        8, "clips", "training.clips=8 training.size=16 training.frames=5 training.small_sizes=[] "
        "training.small_shares=[] training.small_batches=[] "
        "training.vae_channels=4 training.latent_channels=4 training.patch=2 training.width=24 "
        "training.layers=1 training.text_width=8 training.batch=2 training.vae_batch=2 training.vae_crop=16",
    ),
}  # fmt: skip
"""Samples of a tiny training set, the module's name for them, and what makes it tiny."""


def config_of(name: str, folder: Path, *more: str) -> RunConfig:
    words = f"{TEACHERS[name][2]} trainer.max_steps=2 trainer.log_every=1 preview.every=0".split()
    there = ["trainer.accelerator=cpu", "trainer.precision=32-true", f"folder={folder / 'runs'}"]
    return load_config(ROOT / f"configs/{name}.yaml", [*words, *there, *more])


def samples_of(name: str, config: Any) -> Tensor:
    """What a run would learn from."""
    held = getattr(TASKS[config.task].prepare(config, "cpu", 1).module, TEACHERS[name][1])
    return held if isinstance(held, Tensor) else held.points


def numbers_file(folder: Path, text: str) -> str:
    (folder / "half.txt").write_text(text)
    return f"data.only={folder / 'half.txt'}"


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_learns_from_the_samples_that_are_named(name: str, tmp_path: Path) -> None:
    """They are those of the whole set, by their numbers in it; all of them are the whole set."""
    only = numbers_file(tmp_path, "6 1\n4")
    whole, some = (samples_of(name, config_of(name, tmp_path, *more)) for more in ((), (only,)))
    assert len(whole) == TEACHERS[name][0]
    assert torch.equal(some, whole[NUMBERS])
    run = train(config_of(name, tmp_path, only))
    assert (run / "teacher/model_index.json").is_file()


@pytest.mark.parametrize("name", TEACHERS)
@pytest.mark.parametrize(("text", "said"), [("0 56", "0 to"), ("-1", "0 to"), ("half", "something else")])
def test_numbers_of_no_sample_are_one_line_before_the_run(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    most = TEACHERS[name][0] - 1
    said = f"or others than 0 to {most}$" if said == "0 to" else said
    with pytest.raises(UserError, match=rf"^data\.only: .*half\.txt .*{said}"):
        train(config_of(name, tmp_path, numbers_file(tmp_path, text)))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["teacher_shapes", "teacher_clips"])
def test_its_attribution_ranks_what_it_learned_from(name: str, tmp_path: Path) -> None:
    """And encodes no other samples for it: their latents are a set of their own."""
    config = config_of(name, tmp_path, numbers_file(tmp_path, "1 4 6"))
    run, task = train(config), TASKS[config.task]
    assert task.model is not None
    options = ModelOptions(cache=tmp_path / "cache")
    loaded = load_model(task.model(config, run, None), "cpu", options)
    assert len(loaded.training) == 3
    pictures = loaded.training.pictures(torch.arange(3))
    taken = samples_of(name, config)
    torch.testing.assert_close(pictures, taken if name == "teacher_shapes" else taken.float() / 127.5 - 1)


def test_a_folder_says_which_shapes_it_learned_from(tmp_path: Path) -> None:
    """So that --teacher takes the same pictures as --run; of a part of them it says so."""
    config: Any = config_of("teacher_shapes", tmp_path, "data.elevation=80", "seed=3")
    run, task = train(config), TASKS[config.task]
    assert task.model is not None
    told = named_model(InfluenceOptions(teacher=str(run / "teacher"), data="shapes"))
    whole = task.model(config, run, None)
    assert (told.data, told.seed) == (whole.data, whole.seed)
    assert isinstance(told.data, DataOptions)
    assert (told.data.size, told.data.views, told.data.elevation, told.seed) == (16, 1, 80.0, 3)
    config = config_of("teacher_shapes", tmp_path, numbers_file(tmp_path, "1 4 6"), "name=part")
    part = InfluenceOptions(teacher=str(train(config) / "teacher"), data="shapes")
    with pytest.raises(UserError, match=r"^--data: .* learned from a part of the shapes .*--run FOLDER$"):
        named_model(part)
