"""Text-to-3D from the command line's side: runs, resume, bad input, measures."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from carv_distill.commands.command import measure
from carv_distill.commands.export import EXPORT, ExportOptions
from carv_distill.engine.metrics import read_metrics
from carv_distill.errors import UserError
from carv_distill.tasks import load_config, open_run, train
from carv_distill.teachers import prompts
from carv_distill.text_to_3d.clip_report import clip_table, draw_clip, measure_clip
from carv_distill.text_to_3d.object.ply import read_ply
from carv_distill.text_to_3d.options import SDSConfig
from carv_distill.text_to_3d.scene_files import load_scene
from carv_distill.text_to_3d.scenes import HashScene, build_scene
from carv_distill.variance import MeasuredGradient, StageTimer, analyse
from studies.gradient import load_gradient
from tests.helpers.runs import CLIP, assert_same_run, sds_words
from tests.helpers.tiny_latent import save_tiny_pipeline
from tests.helpers.tiny_pixel import save_tiny_if_pipeline


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def pixel_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_if_pipeline(tmp_path_factory.mktemp("pixel_teacher"))


def run(teacher: Path, folder: Path, *more: str, resume: bool = False) -> Path:
    return train(load_config("configs/sds_carv.yaml", sds_words(teacher, folder, *more)), resume)


def config_of(folder: Path) -> SDSConfig:
    _, config = open_run(folder)
    assert isinstance(config, SDSConfig)
    return config


def gradient_of(folder: Path) -> MeasuredGradient:
    task, config = open_run(folder)
    assert task.gradient is not None
    return task.gradient(config, folder, "cpu", None)


def test_a_run_leaves_its_object_and_its_traces(teacher: Path, tmp_path: Path) -> None:
    folder = run(teacher, tmp_path)
    assert {p.name for p in (folder / "object").iterdir()} >= {
        "SHA256SUMS",
        "scene.safetensors",
        "scene.json",
        "mesh.glb",
        "mesh.obj",
        "textured.glb",
        "textured.obj",
        "textured.mtl",
        "textured.png",
        "turntable.mp4",
        "views.png",
    }
    assert [p.name for p in sorted((folder / "samples").iterdir())] == ["000004.png"]
    rows = read_metrics(folder / "metrics.csv")
    assert [r["step"] for r in rows if "clip/score" in r] == [3, 6]
    assert all("scene/opacity" in r for r in rows)
    assert json.loads((folder / "object" / "scene.json").read_text())["step"] == 6
    kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(k.startswith("objective.scene.") for k in kept)


@pytest.mark.slow
def test_an_object_is_made_again_at_any_size_after_any_update(teacher: Path, tmp_path: Path) -> None:
    """All of it is of one update; what is not asked for any more is not there any more. Neither teacher nor
    CLIP model is needed; after the last update it is what the run made."""
    own = [tmp_path / "teacher", tmp_path / "clip"]
    for place, other in zip(own, (teacher, CLIP), strict=True):
        shutil.copytree(other, place)
    folder = run(own[0], tmp_path, f"clip.model={own[1]}")
    for place in own:
        shutil.rmtree(place)
    made = folder / "object"
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    shutil.rmtree(made)
    measure(EXPORT, ExportOptions(run=folder, device="cpu"))
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    assert (made / "textured.glb").is_file()
    for size, step, background, byte in ((24, 4, "white", 255), (40, None, "black", 0), (33, 6, None, 255)):
        measure(
            EXPORT,
            ExportOptions(
                run=folder, step=step, device="cpu", size=size, background=background, mesh=20, texture=0
            ),
        )
        assert json.loads((made / "scene.json").read_text())["step"] == (step or 6)
        with Image.open(made / "views.png") as sheet:
            assert sheet.size == (8 * (size + 1) + 1, (2 if background else 4) * (size + 1) + 1)
            assert abs(int(np.asarray(sheet)[2, 2, 0]) - byte) <= 1
        assert not (made / "textured.glb").exists()
    with pytest.raises(UserError, match=r"export.size: 9000: a picture .* above export.memory, 1; give"):
        measure(EXPORT, ExportOptions(run=folder, device="cpu", size=9000))
    with Image.open(made / "views.png") as sheet:
        assert sheet.size[1] == 4 * 34 + 1


@pytest.mark.parametrize(
    "objective",
    [
        (
            "scene.kind=hash",
            "scene.hash.log_size=6",
            "scene.hash.active_levels=[0,2,3,5,5,8]",
            "scene.upsample=true",
            "scene.size=[0,4,3,6,5,8]",
        ),
        *(
            pytest.param(words, marks=pytest.mark.slow)
            for words in (
                ("sds.coefficient=learned",),
                ("scene.kind=gaussians", "scene.gaussians.count=50", "sds.coefficient=learned"),
                (
                    "sds.objective=vsd",
                    "sds.vsd.lr=0.01",
                    "sds.vsd.adapters.rank=2",
                    "sds.coefficient=learned",
                ),
                ("sds.objective=ism", "sds.ism.interval=0.1"),
                ("scene.background=learned", "scene.shading.lambertian=0.5", "estimator.upstream=3"),
                ("sds.objective=vsd", "sds.perp_neg=true", "sds.vsd.chunk=3", "sds.vsd.strategy=nested"),
                ("sds.perp_neg=true", "sds.negative_prompt=blue", "sds.prompts_by_view.back=a cube"),
                (
                    "scene.shading.textureless=0.4",
                    "scene.shading.lambertian=0.4",
                    "scene.shading.from_step=2",
                    "sds.orientation=[0,1,100,6]",
                ),
                (
                    "scene.kind=hash",
                    "scene.hash.log_size=6",
                    "scene.shading.lambertian=1",
                    "estimator.upstream=2",
                ),
                (
                    "scene.occupancy.resolution=10",
                    "scene.occupancy.every=3",
                    "scene.occupancy.threshold=4",
                    "scene.shading.lambertian=0.5",
                ),
                ("scene.background=learned", "scene.kind=gaussians", "scene.gaussians.count=50"),
            )
        ),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    teacher: Path, tmp_path: Path, objective: tuple[str, ...]
) -> None:
    more = ("estimator.proposal=adaptive", "sds.t_max_end=0.6", *objective)
    whole = run(teacher, tmp_path / "whole", *more)
    part = tmp_path / "part" / whole.name
    shutil.copytree(whole, part)
    (part / "checkpoints" / "newest-step=6.ckpt").unlink()
    (part / "checkpoints" / "last.ckpt").unlink()
    run(teacher, tmp_path / "part", *more, resume=True)
    assert_same_run(whole, part, 6)


@pytest.mark.slow
def test_a_run_made_longer_equals_one_that_was_so_from_the_start(teacher: Path, tmp_path: Path) -> None:
    more = ("sds.t_max=[0,0.98,0.6,6]", "sds.coefficient=learned")
    whole = run(teacher, tmp_path / "whole", *more)
    part = run(teacher, tmp_path / "part", *more, "trainer.max_steps=3")
    assert run(teacher, tmp_path / "part", *more, resume=True) == part
    assert_same_run(whole, part, 6)


@pytest.mark.slow
def test_a_checkpoint_is_measured_and_exported_as_of_its_step(teacher: Path, tmp_path: Path) -> None:
    """Levels, sizes, light and cells; the gradient is that of the next update."""
    more = (
        "scene.kind=hash",
        "scene.hash.log_size=6",
        "scene.hash.active_levels=[0,2,3,5,5,8]",
        "scene.upsample=true",
        "scene.size=[0,4,4,8]",
        "scene.shading.lambertian=1",
        "scene.background=learned",
        "scene.occupancy.resolution=8",
    )
    folder = run(teacher, tmp_path, *more)
    for step, active in ((4, 5), (6, 8)):
        measure(EXPORT, ExportOptions(run=folder, step=step, device="cpu", size=16, mesh=16, texture=0))
        scene, view, _ = load_scene(folder / "object")
        assert isinstance(scene, HashScene)
        assert scene.active == active
        assert view.size == [0, 4, 4, 8]
        assert view.shading.lambertian == 1
        with Image.open(folder / "object/views.png") as sheet:
            corner = np.asarray(sheet)[2, 2]
        assert (abs(corner.astype(int) - 255) <= 1).all()  # the object alone, on white
    gradient = gradient_of(folder)
    assert len(gradient.parameters) == 3 + 6
    assert analyse(gradient, None, (1, 4), 3, 4, 4, 4).step == 6


@pytest.mark.slow
def test_a_run_by_vsd_is_measured_with_its_fake_score(teacher: Path, tmp_path: Path) -> None:
    """Its loss is in the log; the gradient at a checkpoint has the fake score of then, and another one would
    give another; what its training takes is timed; a checkpoint has adapters and no network."""
    more = ("sds.objective=vsd", "sds.vsd.lr=0.01", "sds.guidance=7.5", "estimator.upstream=2")
    folder = run(teacher, tmp_path, *more)
    assert all(r["loss/fake"] > 0 for r in read_metrics(folder / "metrics.csv") if "scene/opacity" in r)
    kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    fakes = [k for k in kept["state_dict"] if not k.startswith("objective.scene.")]
    assert fakes
    assert all(k.startswith("objective.fake.") and ".lora_" in k for k in fakes)
    assert len(kept["optimizer_states"]) == 2
    gradient = gradient_of(folder)
    assert analyse(gradient, None, (1, 4), 3, 4, 4, 4).step == 6
    before = [p.detach().clone() for p in gradient.parameters]
    timer = StageTimer()
    gradient.time_other(timer)
    assert timer.median("other") > 0
    assert all(map(torch.equal, before, gradient.parameters))


DENSIFY = (
    "scene.kind=gaussians",
    "scene.gaussians.count=50",
    "scene.gaussians.densify.every=2",
    "scene.gaussians.densify.start=1",
    "scene.gaussians.densify.gradient=1e-6",
    "scene.gaussians.densify.reset_every=4",
    "scene.gaussians.densify.most=130",
)


@pytest.mark.slow
@pytest.mark.parametrize("at", [*(pytest.param(n, marks=pytest.mark.slow) for n in (3, 5)), 4])
def test_a_resumed_run_with_another_count_equals_an_uninterrupted_one(
    teacher: Path, tmp_path: Path, at: int
) -> None:
    """Before, at and after a change of the count: weights, moments, metrics and files to the bit."""
    more = (*DENSIFY, "checkpoint.every=1", "checkpoint.keep_newest=9", "estimator.upstream=2")
    whole = run(teacher, tmp_path / "whole", *more)
    counts = [row["scene/gaussians"] for row in read_metrics(whole / "metrics.csv")]
    assert counts[0] == 50 < counts[1] < counts[3] <= 130
    part = tmp_path / "part" / whole.name
    shutil.copytree(whole, part)
    for path in (part / "checkpoints").iterdir():
        if path.name not in [f"newest-step={step}.ckpt" for step in range(at + 1)]:
            path.unlink()
    for name in ("scene.safetensors", "scene.ply"):
        (part / "object" / name).unlink()
    run(teacher, tmp_path / "part", *more, resume=True)
    assert_same_run(whole, part, 6)


@pytest.mark.slow
def test_a_run_with_another_count_is_shown_and_measured(teacher: Path, tmp_path: Path) -> None:
    folder = run(teacher, tmp_path, *DENSIFY, "checkpoint.every=1", "checkpoint.keep_newest=9")
    count = int(read_metrics(folder / "metrics.csv")[-1]["scene/gaussians"])
    scene, view, _ = load_scene(folder / "object")
    assert 50 < view.gaussians.count == len(scene.means) == count
    assert len(read_ply(folder / "object" / "scene.ply")) == count
    assert analyse(gradient_of(folder), None, (1, 4), 3, 4, 4, 4).step == 6
    assert measure_clip(folder, config_of(folder), None, 4, "cpu").score.value > 0
    measure(EXPORT, ExportOptions(run=folder, step=1, device="cpu", size=24, mesh=20, texture=0))
    assert len(load_scene(folder / "object")[0].means) == 50


@pytest.mark.slow
def test_gaussians_begin_as_a_run_left_others_and_go_on_without_it(teacher: Path, tmp_path: Path) -> None:
    """A coarse field, its samples' .ply, and a resumed run that does not look for it again."""
    field = run(teacher, tmp_path, "name=coarse", "trainer.max_steps=2")
    words = ("scene.kind=gaussians", "scene.gaussians.count=40", f"scene.gaussians.start={field}/object")
    first = run(teacher, tmp_path, "name=first", *words)
    splats = first / "object" / "scene.ply"
    shutil.move(splats, tmp_path / "scene.ply")
    shutil.rmtree(field)
    words = ("name=second", "scene.kind=gaussians", f"scene.gaussians.start={tmp_path}/scene.ply")
    second = run(teacher, tmp_path, *words)
    assert len(load_scene(second / "object")[0].means) == 40
    (tmp_path / "scene.ply").unlink()
    for path in (second / "checkpoints").iterdir():
        if "=2." not in path.name and "=4." not in path.name:
            path.unlink()
    before = (second / "object" / "scene.safetensors").read_bytes()
    run(teacher, tmp_path, *words, resume=True)
    assert (second / "object" / "scene.safetensors").read_bytes() == before


def test_gaussians_are_trained_shown_and_scored(teacher: Path, tmp_path: Path) -> None:
    """As fields are, with nothing else to say than their kind."""
    folder = run(teacher, tmp_path, "scene.kind=gaussians", "scene.gaussians.count=50")
    assert {p.name for p in (folder / "object").iterdir()} >= {
        "SHA256SUMS",
        "scene.ply",
        "scene.safetensors",
        "turntable.mp4",
        "views.png",
    }
    scene, view, _ = load_scene(folder / "object")
    assert view.gaussians.count == len(scene.means) == 50
    assert (scene.opacity_logits != build_scene(view).opacity_logits).any()
    assert measure_clip(folder, config_of(folder), None, 4, "cpu").score.value > 0
    assert analyse(gradient_of(folder), None, (1, 4), 3, 4, 4, 4).step == 6


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("sds.prompt=",), "sds.prompt: it is empty"),
        (
            ("scene.size=16",),
            r"scene.size: renders are 16×16, but .* are 8×8; use scene.size=8",
        ),
        (
            ("scene.kind=gaussians", "scene.gaussians.backend=gsplat"),
            "scene.gaussians.backend: gsplat cannot run: it needs a CUDA device, and this run has cpu",
        ),
        (("scene.gaussians.backend=opengl",), "scene.gaussians.backend: 'opengl' is not one of auto, torch"),
        (("scene.gaussians.count=0",), "scene.gaussians.count: 0 is below the least allowed value, 1"),
        (
            ("scene.kind=gaussians", "scene.gaussians.densify.every=9", "scene.gaussians.densify.most=9"),
            "scene.gaussians.densify.most: 9 is below scene.gaussians.count, 2000, that the run begins with",
        ),
        (
            ("scene.gaussians.densify.every=9", "scene.gaussians.densify.stop=9"),
            "scene.gaussians.densify.stop: 9 is below scene.gaussians.densify.start, 100",
        ),
        (("scene.gaussians.densify.gradient=0",), "scene.gaussians.densify.gradient: 0.0 is not above 0"),
        (
            ("scene.gaussians.start=README.md",),
            "scene.gaussians.start: .* is what Gaussians begin as, and scene.kind is voxels; leave it out",
        ),
        (
            ("scene.kind=gaussians", "scene.gaussians.start=README.md"),
            "scene.gaussians.start: .*README.md is no PLY file that can be read: it does not begin with the",
        ),
        (
            ("scene.kind=gaussians", "scene.gaussians.start=configs"),
            "scene.gaussians.start: configs holds no readable scene",
        ),
        (
            (
                "scene.kind=gaussians",
                "scene.gaussians.densify.every=9",
                "scene.gaussians.densify.most=9000000",
            ),
            "export.size: 16: a picture of so many pixels|export.mesh: 16: a mesh of so many points",
        ),
        (("scene.hash.log_size=30",), "scene.hash.log_size: 30 is above the greatest allowed value, 24"),
        (
            ("scene.shading.lambertian=2",),
            "scene.shading.lambertian: 2.0 is above the greatest allowed value, 1",
        ),
        (
            ("scene.shading.lambertian=0.7", "scene.shading.textureless=0.6"),
            "scene.shading.lambertian: 0.7 and scene.shading.textureless, 0.6, are .* together above 1",
        ),
        (
            ("scene.shading.lambertian=1", "scene.shading.from_step=6"),
            "scene.shading.from_step: 6 is not below trainer.max_steps=6: no render would be lit",
        ),
        (("scene.shading.ambient=0.2",), "scene.shading.ambient: 0.2 goes with scene.shading.textureless or"),
        (
            ("scene.shading.lambertian=1", "scene.shading.distance=[2,1]"),
            r"scene.shading.distance: \[2.0, 1.0\] is not \[least, greatest\], both above 0",
        ),
        (("scene.shading.distance=[]",), r"scene.shading.distance: \[\] is not"),
        (
            ("scene.kind=gaussians", "scene.shading.textureless=0.1"),
            "scene.shading.textureless: 0.1 needs normals, which Gaussians lack; use .*=0, or",
        ),
        (
            ("scene.kind=gaussians", "sds.orientation=[0,0,1,9]"),
            "sds.orientation: .* needs normals, which Gaussians lack",
        ),
        (
            ("scene.size=[0,4,3,8]",),
            r"scene.size: \[0, 4, 3, 8\] has several sizes, and the teacher one; use scene.upsample=true",
        ),
        (("scene.size=[0,4,3,16]", "scene.upsample=true"), "scene.size: 16 is above the 8 pixels of"),
        (
            ("scene.size=[0,4,6,8]", "scene.upsample=true"),
            "scene.size: step 6 of .* is never reached",
        ),
        (("scene.size=[1,4]",), r"scene.size: \[1, 4\] begins at step 1, the run at 0"),
        (("scene.size=[0,4,4]",), "scene.size: .* is neither a whole number nor"),
        (("scene.size=[0,8,3,8,3,8]",), "scene.size: the steps of .* must rise, and after 3 comes 3"),
        (("scene.size=8.5",), "scene.size: '8.5' is not a whole number"),
        (
            ("scene.hash.active_levels=2",),
            "scene.hash.active_levels: 2 goes with scene.kind=hash",
        ),
        (
            ("scene.kind=hash", "scene.hash.active_levels=[0,2,3,9]"),
            "scene.hash.active_levels: 9 is above the number of levels, scene.hash.levels=8",
        ),
        (
            ("scene.background_network.flat=0.1",),
            "scene.background_network.flat: 0.1 goes with scene.background=learned, found grey",
        ),
        (("scene.background_network.width=0",), "scene.background_network.width: 0 is below"),
        (
            ("scene.background=learned", "sds.augment=draw"),
            "sds.augment: draw has random backgrounds in the place of scene.background=learned; use",
        ),
        (("export.background=learned",), "export.background: 'learned' is not one of grey, white, black"),
        (
            ("scene.occupancy.every=4",),
            "scene.occupancy.every: 4 goes with scene.occupancy.resolution",
        ),
        (("scene.occupancy.resolution=300",), "scene.occupancy.resolution: 300 is above the greatest"),
        (
            ("scene.kind=gaussians", "scene.occupancy.resolution=32"),
            "scene.occupancy.resolution: 32 goes with scene.kind=voxels or hash, found gaussians; use 0",
        ),
        (("sds.orientation=[0,0,1,3]",), "sds.orientation: .* ends at step 3"),
        (("camera.fov=[70,40]",), r"camera.fov: \[70.0, 40.0\] is not \[least, greatest\]"),
        (("camera.distance=[1.5]",), "camera.distance"),
        (("camera.position_noise=1",), "camera.position_noise: 1 along each axis .* must be below 0.866"),
        (("camera.up_noise=-0.1",), "camera.up_noise: -0.1 is below the least allowed value, 0"),
        (("sds.max_skips=0",), "sds.max_skips: 0 is below"),
        (("estimator.proposal=weights", "estimator.weights=[1]"), "weights is not for task sds"),
        (
            ("sds.t_min=0.9", "sds.t_max_end=0.5"),
            "sds.t_min: 0.9 is not below the greatest level, 0.5, at",
        ),
        (("sds.weighting=none",), "sds.weighting: 'none' is not one of sds"),
        (("trainer.accelerator=cuda",), "there is no CUDA device here"),
        (("clip.model=/none",), "clip.model: /none is not a folder"),
        (("export.size=9000",), "export.size: 9000: a picture of so many pixels along one side takes 1"),
        (("export.mesh=1500",), "export.mesh: 1500: a mesh of so many points along one side takes"),
        (("export.memory=0",), "export.memory: 0.0 is not above 0"),
        (("export.background=random",), "export.background: 'random' is not one of grey, white, black"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is there")
def test_bad_input_is_one_line_and_leaves_nothing(
    teacher: Path, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        run(teacher, tmp_path, *more)
    assert not list(tmp_path.iterdir())


def test_a_part_missing_is_named(teacher: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(teacher, broken)
    shutil.rmtree(broken / "vae")
    with pytest.raises(UserError, match="lacks its part vae/"):
        run(broken, tmp_path / "runs")


@pytest.mark.parametrize("key", ["prompt", "prompts_by_view.side", "negative_prompt"])
def test_words_that_a_small_teacher_never_saw_are_refused(teacher: Path, tmp_path: Path, key: str) -> None:
    said = rf"sds.{key}: 'a red zeppelin' has words .* never seen: 'zeppelin'; it knows "
    said += "cube, torus; and the words .*red, "
    with pytest.raises(UserError, match=said):
        run(teacher, tmp_path, f"sds.{key}=a red zeppelin", "trainer.max_steps=1")
    assert not list(tmp_path.iterdir())


def test_a_prompt_of_known_words_that_names_nothing_is_told(
    teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for prompt, told in (("a red", True), ("a red torus", False), ("red torus, side view", False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            run(teacher, tmp_path / prompt, f"sds.prompt={prompt}", "trainer.max_steps=1")
        assert ("names none of the things that the teacher knows: " in caplog.text) is told


def test_unknown_words_of_a_large_vocabulary_are_named(
    teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has pieces for any word, so the text model may have learned it."""
    monkeypatch.setattr(prompts, "FEW", 10)
    with caplog.at_level(logging.WARNING):
        run(teacher, tmp_path, "sds.prompt=a red zeppelin", "trainer.max_steps=1")
    assert "does not know 'zeppelin'" in caplog.text


@pytest.mark.slow
def test_renders_are_enlarged_where_that_is_asked_for(teacher: Path, tmp_path: Path) -> None:
    run(teacher, tmp_path, "scene.size=4", "scene.upsample=true", "trainer.max_steps=1")


@pytest.mark.slow
def test_a_pixel_teacher_goes_through_the_same_door(pixel_teacher: Path, tmp_path: Path) -> None:
    folder = run(pixel_teacher, tmp_path)
    assert (folder / "object" / "mesh.glb").is_file()
    rows = read_metrics(folder / "metrics.csv")
    assert [r["step"] for r in rows if "clip/score" in r] == [3, 6]
    kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(k.startswith("objective.scene.") for k in kept)
    assert analyse(gradient_of(folder), None, (1,), 3, 3, 4, 2).step == 6


def test_a_pixel_teacher_gets_renders_of_its_own_size(pixel_teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"scene.size: renders are 4×4, but .* are 8×8; use scene.size=8"):
        run(pixel_teacher, tmp_path, "scene.size=4")
    with pytest.raises(UserError, match=r"scene.size: 16 is above the 8 pixels"):
        run(pixel_teacher, tmp_path, "scene.size=16", "scene.upsample=true")
    assert not list(tmp_path.iterdir())
    run(pixel_teacher, tmp_path, "scene.size=4", "scene.upsample=true", "trainer.max_steps=1")


@pytest.mark.slow
def test_clip_scores_of_several_runs(teacher: Path, tmp_path: Path) -> None:
    runs = [
        run(teacher, tmp_path, f"name=r{steps}", f"sds.prompt=a {colour} torus", f"trainer.max_steps={steps}")
        for steps, colour in ((3, "red"), (6, "blue"))
    ]
    results = [measure_clip(r, config_of(r), None, 4, "cpu") for r in runs]
    assert [r.prompt for r in results] == ["a red torus", "a blue torus"]
    assert all(r.true is not None and r.matched is not None for r in results)
    assert len(clip_table(results).rows) == 3
    assert not draw_clip(runs[:1], tmp_path / "clip.png")  # one score is no curve
    assert not (tmp_path / "clip.png").exists()
    assert draw_clip(runs, tmp_path / "clip.png")
    assert (tmp_path / "clip.png").is_file()


def test_variance_of_a_text_to_3d_run(teacher: Path, tmp_path: Path) -> None:
    folder = run(teacher, tmp_path)
    found = analyse(gradient_of(folder), None, (1, 4), 3, 4, 4, 4)
    assert found.step == 6
    assert found.setting == ("IW+Strat", 1, 2)
    assert {r.arm for r in found.comparison.rows} == {"uniform", "IW", "Strat", "IW+Strat", "best"}


@pytest.mark.slow
def test_what_is_measured_may_be_other_than_what_was_trained(pixel_teacher: Path, tmp_path: Path) -> None:
    """Backgrounds per render, other cameras; a checkpoint that another run left there is none of it."""
    more = ("sds.augment=draw", "sds.view_prompts=false", "scene.background=white")
    folder = run(pixel_teacher, tmp_path, *more)

    def change(config: SDSConfig) -> None:
        config.sds.augment, config.camera.elevation = "render", [0.0, 10.0]

    shapes = [load_gradient(folder, None, c).pipeline(1, torch.Generator()).noise_shape for c in (change, id)]
    assert shapes[0][0] == 3 < shapes[1][0]
    (config := folder / "config.yaml").write_text(
        config.read_text().replace("augment: draw", "augment: none")
    )
    with pytest.raises(
        UserError, match=r"no checkpoint of this run: sds.augment is 'draw' there, 'none' here"
    ):
        load_gradient(folder, None, change)
