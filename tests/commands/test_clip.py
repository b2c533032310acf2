"""evaluate.py clip on text-to-image students: rows, options, and what cannot be measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from carv_distill.commands.clip import CLIP, ClipOptions
from carv_distill.commands.command import Measurement
from carv_distill.commands.evaluate import main
from carv_distill.commands.train import closing
from carv_distill.distillation.options import DMDConfig
from carv_distill.errors import UserError
from carv_distill.files import read_json, write_json
from carv_distill.tasks import TASKS, load_config, train
from carv_distill.text_to_3d.options import SceneOptions
from carv_distill.text_to_3d.scene_files import save_scene
from carv_distill.text_to_3d.scenes import build_scene
from tests.helpers.runs import CLIP as MODEL
from tests.helpers.runs import as_run
from tests.helpers.tiny_latent import save_tiny_pipeline

PROMPTS = ["a red torus", "a blue cube", "a red torus"]


def words(folder: Path, *more: str) -> list[str]:
    return [
        f"teacher.path={folder / 'sd'}",
        f"prompts.cache={folder / 'cache'}",
        f"folder={folder / 'runs'}",
        f"fid.weights={MODEL}",
        "data.size=8",
        "data.views=1",
        "dmd.student_timestep=null",
        "dmd.fake_batch=2",
        "dmd.lr_decay=none",
        "estimator.upstream=2",
        "fid.every=0",
        "fid.images=20",
        "fid.sampler_steps=3",
        "trainer.accelerator=cpu",
        "trainer.max_steps=1",
        *more,
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with renders, one of prompts alone, and one of labels, which is the newest."""
    place = tmp_path_factory.mktemp("clip")
    save_tiny_pipeline(place / "sd")
    (place / "cache").mkdir()
    (place / "prompts.txt").write_text("\n".join(PROMPTS))
    prompts = f"prompts.path={place / 'prompts.txt'}"
    ways: dict[str, list[str]] = {
        "shapes": ["dmd.ema_beside=[0.5]"],
        "prompts": ["data.name=captioned", "data.views=66", prompts, "fid.features=inception"],
        "both": [prompts],
    }
    for name, more in ways.items():
        train(load_config("text_to_image/dmd_shapes", words(place, f"name={name}", *more)))
    return place


@pytest.fixture
def labelled(folder: Path, small_config: Callable[..., DMDConfig]) -> Path:
    """The newest run of the folder for a while."""
    return train(small_config("trainer.max_steps=1", f"folder={folder / 'labels'}"))


def scores(measurement: Measurement | None, run: int = 0) -> dict[str, Any]:
    assert measurement is not None
    assert measurement.result is not None
    found: dict[str, Any] = measurement.result["runs"][run]["scores"]
    return found


@pytest.mark.slow
def test_student_teacher_and_ceiling_stand_side_by_side(folder: Path) -> None:
    """Written into the run; of random networks nothing is recognised but by chance, of renders some even at
    8 × 8 pixels; the prompts are the same in every row."""
    run = folder / "runs/shapes"
    assert main(["clip", "--run", str(run), "--device", "cpu"]) == 0
    written = read_json(run / "clip.json")
    (result,) = written["runs"]
    assert (result["prompts"], result["labels"], result["model"]) == (56, "random", str(MODEL))
    names = ["student, 1 step", "student, 1 step, average 0.5", "teacher, DDIM 3, guidance 1.75"]
    assert list(result["scores"]) == [*names, "captioned images"]
    for row in result["scores"].values():
        assert row["images"] == 20
        assert row["clip"]["se"] > 0
        assert row["clip"]["interval"][0] < row["clip"]["mean"] < row["clip"]["interval"][1]
    student, images = (result["scores"][name]["clip"] for name in (names[0], "captioned images"))
    assert images["interval"][0] > student["interval"][1]


@pytest.mark.slow
def test_options_choose_rows_and_sizes(folder: Path) -> None:
    runs = [folder / "runs/shapes", folder / "runs/prompts"]
    options = ClipOptions(model=str(MODEL), images=6, no_teacher=True, labels="turn")
    found = CLIP.measure(options, runs, "cpu")
    first, second = scores(found), scores(found, 1)
    assert list(first) == ["student, 1 step", "student, 1 step, average 0.5", "captioned images"]
    assert list(second) == ["student, 1 step"]  # prompts alone have no images
    assert {row["images"] for row in [*first.values(), *second.values()]} == {6}
    steps = CLIP.measure(ClipOptions(model=str(MODEL), images=4, sampler_steps=5), runs[1:], "cpu")
    assert list(scores(steps)) == ["student, 1 step", "teacher, DDIM 5, guidance 1.75"]
    assert steps is not None
    assert steps.result is not None
    assert steps.result["runs"][0]["prompts"] == 2


def test_a_run_is_scored_on_its_own_prompts(folder: Path, tmp_path: Path) -> None:
    """Not on the captions of its data; on others where they are named, which the table says."""
    (tmp_path / "other.txt").write_text("a red cube\na blue torus\na cube")
    runs = [folder / "runs/both", folder / "runs/shapes"]
    options = ClipOptions(images=4, no_teacher=True)
    found = CLIP.measure(options, runs, "cpu")
    assert list(scores(found)) == ["student, 1 step"]
    caption = " ".join(str(found.shown[0]).split()) if found else ""
    assert "both: 2 prompts of prompts.txt, CLIP model" in caption
    assert "shapes: 56 prompts, the captions of shapes, CLIP model" in caption
    found = CLIP.measure(replace(options, prompts=tmp_path / "other.txt"), runs, "cpu")
    caption = " ".join(str(found.shown[0]).split()) if found else ""
    assert caption.count("3 prompts of other.txt") == 1
    assert "captioned images" not in scores(found, 1)
    with pytest.raises(UserError, match=r"gone\.txt does not exist; a file of prompts is needed"):
        CLIP.measure(replace(options, prompts=tmp_path / "gone.txt"), runs, "cpu")


def test_a_run_without_fid_leaves_pictures_of_its_prompts(folder: Path) -> None:
    """At the start and the end; a column for each of two prompts, four rows of 8 × 8 pixels drawn as 128."""
    for name in ("both", "prompts"):
        grids = sorted((folder / "runs" / name / "samples").iterdir())
        assert [grid.name for grid in grids] == ["000000.png", "000001.png"]
        with Image.open(grids[1]) as picture:
            assert picture.width == 2 * (128 + 2) + 2
            assert picture.height > 4 * (128 + 2) + 2


def test_what_cannot_be_measured_is_one_line(folder: Path, labelled: Path, tmp_path: Path) -> None:
    shapes, prompts = folder / "runs/shapes", folder / "runs/prompts"
    cases: list[tuple[ClipOptions, list[Path], str]] = [
        (ClipOptions(), [labelled], r"a CLIP score is of pictures with prompts, and this run has labels"),
        (ClipOptions(), [prompts], r"--model: .*prompts is followed by features of inception; name a CLIP"),
        (ClipOptions(model=f"{tmp_path}/nowhere"), [shapes], r"--model: .*nowhere is not a folder"),
        (ClipOptions(model=str(tmp_path)), [shapes], r"--model: .* holds no readable CLIP model"),
        (
            ClipOptions(views=3),
            [shapes],
            r"shapes: --views: this run has a student, of which it",
        ),
    ]
    for options, runs, said in cases:
        with pytest.raises(UserError, match=said) as caught:
            CLIP.measure(options, runs, "cpu")
        assert "\n" not in str(caught.value)


def test_the_newest_run_with_prompts_is_measured(folder: Path, labelled: Path, tmp_path: Path) -> None:
    """A newer one of labels is passed over, and so is what has nothing that options speak of."""
    labelled.rename(folder / "runs/labels")
    there, elsewhere = ClipOptions(runs=folder / "runs"), ClipOptions(runs=tmp_path / "runs")
    assert CLIP.newest(there) == folder / "runs/both"
    with pytest.raises(UserError, match=r"labels: a CLIP score is of pictures with prompts"):
        CLIP.newest(replace(there, views=3))
    elsewhere.runs.mkdir()
    with pytest.raises(UserError, match=r"no run of task dmd or sds; .*text_to_image/dmd_shapes\.yaml"):
        CLIP.newest(elsewhere)
    (folder / "runs/labels").rename(elsewhere.runs / "labels")
    why = r"the newest is .*labels: a CLIP score .*; python train\.py --config \S+ makes one with prompts$"
    with pytest.raises(UserError, match=rf"no run of task dmd or sds that can be measured so; {why}"):
        CLIP.newest(elsewhere)
    as_run(sds := load_config("sds_carv", ["name=object", f"folder={elsewhere.runs}"]))
    assert CLIP.newest(replace(elsewhere, views=3)) == elsewhere.runs / sds.name
    with pytest.raises(UserError, match=r"object: --images: this run has an object, of which it"):
        CLIP.newest(replace(elsewhere, images=8))


def test_a_students_run_says_what_is_next(folder: Path, tmp_path: Path) -> None:
    config = load_config("text_to_image/dmd_shapes", words(folder, "fid.every=10"))
    write_json(tmp_path / "summary.json", {"last": {}})
    lines = closing(TASKS["dmd"], config, tmp_path, 1.0).splitlines()
    assert lines[2:4] == [f"next: python evaluate.py {name} --run {tmp_path}" for name in ("fid", "clip")]
    alone = words(folder, "data.name=captioned", "data.size=32", "data.views=66", "prompts.path=p.txt")
    config = load_config("text_to_image/dmd_shapes", alone)
    lines = closing(TASKS["dmd"], config, tmp_path, 1.0).splitlines()
    assert lines[2] == f"next: python evaluate.py clip --run {tmp_path}"  # FID needs images


def test_objects_and_students_are_measured_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = as_run(load_config("text_to_image/dmd_shapes", [f"folder={tmp_path}"]))
    thing = as_run(load_config("sds_carv", [f"folder={tmp_path}"]))
    view = SceneOptions(resolution=16)
    save_scene(thing / "object", build_scene(view), view, "a red torus", 1)
    assert main(["clip", "--run", str(student), str(thing), "--out", str(tmp_path / "clip.json")]) == 2
    assert "objects and students are measured apart; give runs of one task" in capsys.readouterr().err
