"""A training that starts from a teacher's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from carv_distill.data.images import load_images
from carv_distill.data.sets import ImageSet, LabelledImages, in_memory
from carv_distill.errors import UserError
from carv_distill.tasks import load_config, train
from carv_distill.teacher_training.image_module import PretrainModule, build_teacher
from carv_distill.teacher_training.options import PretrainOptions
from carv_distill.teacher_training.start import start_from
from carv_distill.teachers.schedule import EDMSchedule
from carv_distill.teachers.teacher import edm_scheduler_config, load_teacher, save_teacher
from tests.helpers.small import ROOT
from tests.helpers.tiny_unet import tiny_unet

SHIPPED = ROOT / "checkpoints/digits-teacher"
SMALL: dict[str, Any] = {"channels": [8, 16], "head_channels": 8}
STILL = ("training.learning_rate=1e-30", "trainer.max_steps=1", "checkpoint.every=1")
Words = tuple[str, ...]


def trained(folder: Path, *words: str, resume: bool = False) -> Path:
    common = (
        "trainer.accelerator=cpu",
        "trainer.log_every=1",
        "training.batch=8",
        "fid.every=0",
        "preview.every=0",
    )
    config = load_config(ROOT / "configs/teacher_digits.yaml", [f"folder={folder}", *common, *words])
    return train(config, resume=resume)


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(
        run / f"checkpoints/newest-step={step}.ckpt", weights_only=True
    )["state_dict"]
    return state


def module_of(**options: Any) -> PretrainModule:
    o = PretrainOptions(**options)
    return PretrainModule(build_teacher(o, 1, 8, 10), load_images("digits"), o, 1, 0)


@pytest.mark.slow
def test_network_and_average_start_where_the_shipped_teacher_is(tmp_path: Path) -> None:
    """At a rate of nearly nothing both stay what they were; the shipped teacher's sizes are its config's."""
    run = trained(tmp_path, f"training.start={SHIPPED}", *STILL)
    before, after = load_teacher(SHIPPED).network.state_dict(), weights(run, 1)
    for prefix in ("denoiser", "ema"):
        for key, value in before.items():
            assert torch.equal(after[f"{prefix}.network.{key}"], value), key
    assert "loss/teacher" in (run / "metrics.csv").read_text("utf-8")


@pytest.mark.slow
def test_it_resumes_to_the_bit_without_the_teacher_it_started_from(tmp_path: Path) -> None:
    """The first one starts from the folder of the run that made its teacher."""
    made = trained(tmp_path, "name=made", f"training.start={SHIPPED}", "trainer.max_steps=1")
    options = (f"training.start={made}", "checkpoint.every=1")
    whole = weights(trained(tmp_path, "name=whole", "trainer.max_steps=3", *options), 3)
    cut = trained(tmp_path, "name=cut", "trainer.max_steps=3", *options)
    (cut / "checkpoints/newest-step=3.ckpt").unlink()
    gone = ("training.start=/gone", "checkpoint.every=1")
    resumed = weights(trained(tmp_path, "name=cut", "trainer.max_steps=3", *gone, resume=True), 3)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def unlabelled(folder: Path) -> Path:
    save_teacher(folder, tiny_unet(labels=None), edm_scheduler_config(EDMSchedule(), 0.5), "")
    return folder


def own(folder: Path) -> Path:
    module_of(**SMALL).save(folder, 0)
    return folder


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (own, SMALL | {"sigma_data": 0.25}, r"EDMPreconditioning with sigma_data 0\.5, and this .* 0\.25"),
        (
            own,
            SMALL | {"channels": [8, 8]},
            r"its channels is \[8, 16\], .*'s \[8, 8\]; training\.channels: take",
        ),
        (
            own,
            SMALL | {"head_channels": 16},
            r"its channels of a head is 8, and .* 16; training\.head_channels: take",
        ),
        (
            unlabelled,
            SMALL,
            "its number of labels, the null label included, is None, and this training's 11; ",
        ),
    ],
)
def test_a_teacher_of_another_kind_is_one_line(
    tmp_path: Path, make: Callable[[Path], Path], options: dict[str, Any], said: str
) -> None:
    """Heads alone change no shape: those weights would load, and mean something else."""
    place = make(tmp_path / "teacher")
    module = module_of(**options)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(UserError, match=said) as caught:
        start_from(module, str(place))
    assert str(caught.value).startswith(f"training.start: {place}")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_a_checkpoint_is_no_teacher(tmp_path: Path) -> None:
    place = tmp_path / "last.ckpt"
    place.touch()
    with pytest.raises(UserError, match=r"^training\.start: .*last\.ckpt is not a folder, nor a hub id"):
        start_from(module_of(**SMALL), str(place))


def test_a_place_that_is_not_there_is_found_before_torch_loads() -> None:
    with pytest.raises(UserError, match=r"training\.start: .*nowhere"):
        load_config(ROOT / "configs/teacher_digits.yaml", ["training.start=./nowhere"], complete=True)


def test_classes_of_other_names_are_others(tmp_path: Path) -> None:
    """Though there are as many: each would begin as another one."""
    module = module_of(**SMALL)
    module.data = named(module.data, "ABCDEFGHIJ")
    module.save(tmp_path / "teacher", 0)
    assert "(classes: 0 A, 1 B, 2 C, " in (tmp_path / "teacher/README.md").read_text()
    start_from(module, str(tmp_path / "teacher"))
    module.data = named(module.data, "BACDEFGHIJ")
    with pytest.raises(UserError, match=r"^training\.start: .* learned the classes A, B, .* have B, A, C"):
        start_from(module, str(tmp_path / "teacher"))


def named(data: ImageSet, names: str) -> LabelledImages:
    whole = in_memory(data)
    return replace(whole, spec=replace(whole.spec, names=tuple(names)))
