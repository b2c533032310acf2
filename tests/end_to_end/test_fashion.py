"""From Fashion-MNIST's files to the FID of a student, by the commands of configs/fashion, in miniature."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from carv_distill.commands.fid import FID, FIDCommandOptions
from carv_distill.commands.reference import REFERENCE, ReferenceOptions
from carv_distill.data.fashion import FASHION_MNIST
from carv_distill.data.options import DATA_SETS, DataOptions
from carv_distill.data.sets import ImageSet
from carv_distill.distillation.preparation import measured_gradient
from carv_distill.engine.config import flat
from carv_distill.engine.metrics import read_metrics
from carv_distill.errors import UserError
from carv_distill.evaluation.classifier import Classifier
from carv_distill.tasks import load_config, train
from carv_distill.teacher_training.classifier import RECIPES, main
from carv_distill.teacher_training.image_module import build_teacher
from tests.helpers.fashion_files import save_fashion_mnist
from tests.helpers.small import ROOT

CONFIGS = ROOT / "configs/fashion"
STUDENT = ["estimator.upstream=2", "dmd.fake_batch=2", "variance.every=0", "preview.every=0"]


def opened(options: DataOptions) -> ImageSet:
    pytest.fail("a file of the data set was asked for")


def without_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set is nowhere, and nothing may look for it."""
    entry = replace(DATA_SETS["fashion_mnist"], load=opened)
    monkeypatch.setitem(DATA_SETS, "fashion_mnist", entry)


@pytest.mark.slow
def test_a_student_is_distilled_and_measured_without_the_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, features = tmp_path / "data", tmp_path / "features"
    save_fashion_mnist(files)
    words = ["--data", "fashion_mnist", "--path", str(files), "--out", str(features)]
    assert main([*words, "--epochs", "1", "--batch", "20"]) == 0  # two steps
    out = features / "reference.npz"
    weights = str(features)
    kept = ReferenceOptions(
        data="fashion_mnist", path=str(files), features="classifier", weights=weights, out=out
    )
    assert REFERENCE.measure(kept, [], "cpu") is not None

    fid = [f"fid.weights={features}", f"fid.reference={out}", "fid.images=8", "fid.sampler_steps=2"]
    run = [f"folder={tmp_path}/runs", "trainer.max_steps=2", "trainer.accelerator=cpu", *fid]
    small = ["training.channels=[8]", "training.head_channels=8", "training.batch=4", "fid.every=2"]
    teacher = train(load_config(CONFIGS / "teacher.yaml", [*run, *small, f"data.path={files}"]))
    of_teacher = FID.measure(FIDCommandOptions(images=8, ranges=1), [teacher], "cpu")
    assert of_teacher is not None
    assert of_teacher.result is not None
    assert "teacher, Heun 2" in of_teacher.result

    without_files(monkeypatch)
    words = [*run, *STUDENT, f"teacher.path={teacher}/teacher"]
    student = train(load_config(CONFIGS / "dmd_carv.yaml", words))
    assert [row["step"] for row in read_metrics(student / "metrics.csv") if "fid/fid" in row] == [0, 2]
    measured = FID.measure(FIDCommandOptions(images=20, ranges=2), [student], "cpu")
    assert measured is not None
    assert measured.result is not None
    assert len(measured.result["student, 1 step"]["ranges"]) == 2
    assert measured.result["student, 1 step"]["labels"] == "random"
    assert measured.result["teacher, Heun 2"]["images"] == 20
    assert measured.result["floor"]["held_out"]["images"] == 20
    assert measured_gradient(load_config(student / "config.yaml"), student, "cpu", None).step == 2


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("teacher", "training.batch=2"),
        ("dmd_carv", "fid.reference=null"),
        ("dmd_carv", "dmd.gan.fake_weight=1"),
    ],
)
def test_what_needs_pictures_says_where_they_come_from(
    name: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there is a run's folder."""
    entry = replace(DATA_SETS["fashion_mnist"], installed=str(tmp_path / "nowhere"))
    monkeypatch.setitem(DATA_SETS, "fashion_mnist", entry)
    config = load_config(CONFIGS / f"{name}.yaml", [word, f"folder={tmp_path}/runs"])
    with pytest.raises(UserError, match=r"data\.path: data\.name: fashion_mnist needs torchvision's files"):
        train(config)
    assert not (tmp_path / "runs/dmd_fashion_carv").exists()
    assert not (tmp_path / "runs/teacher_fashion").exists()


@pytest.mark.parametrize("name", ["teacher", "teacher_gpu"])
def test_what_ships_is_small(name: str) -> None:
    """Weights of teacher and classifier, and statistics: 12 MB at most."""
    training, recipe = load_config(CONFIGS / f"{name}.yaml").training, RECIPES["fashion_mnist"]
    spec = FASHION_MNIST
    teacher = build_teacher(training, spec.channels, spec.size, spec.classes).denoiser
    classifier = Classifier(spec.shape, recipe.channels, recipe.features, spec.classes)
    weights = sum(p.numel() for network in (teacher, classifier) for p in network.parameters())
    assert 4 * weights + 8 * recipe.features**2 < 11.8e6


def test_students_are_measured_alike() -> None:
    """By random labels, 10,000 images, the same features and statistics."""
    config = flat(load_config(CONFIGS / "dmd_carv.yaml"))
    other = flat(load_config(CONFIGS / "dmd_iid.yaml"))
    assert {k for k, v in config.items() if k.startswith("fid.") and other[k] != v} == set()
    assert (config["fid.images"], config["fid.labels"], config["data.path"]) == (10_000, "random", None)
