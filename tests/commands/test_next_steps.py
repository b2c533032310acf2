"""What a finished run goes on with."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from carv_distill.commands.influence import INFLUENCE, InfluenceCommandOptions
from carv_distill.commands.next_steps import next_steps
from carv_distill.files import write_json
from carv_distill.tasks import TASKS, load_config
from carv_distill.text_to_3d.object.turntable import LARGEST_VIEW, VIEWS


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ("dmd_carv", ["fid", "variance", "influence"]),
        ("sds_carv", ["view", "clip", "variance"]),
        ("teacher_clips", ["influence"]),
    ],
)
def test_a_run_s_own_commands_and_no_others(config: str, names: list[str]) -> None:
    loaded = load_config(config, [])
    run = Path("runs/with a blank")
    steps = next_steps(TASKS[loaded.task], loaded, run)
    larger = steps.pop("export", None)
    assert (larger is not None) == (config == "sds_carv")
    assert steps == {
        name: f"python {'-m carv_distill' if name == 'view' else 'evaluate.py'} {name} --run "
        "'runs/with a blank'"
        for name in names
    }


@pytest.mark.parametrize(
    ("words", "end"),
    [
        ([], " --size 512 --mesh 192 --faces 80000"),
        (["export.faces=90000"], " --size 512 --mesh 192 --faces 90000"),
        (["export.mesh=256"], " --size 512"),
        (["scene.kind=gaussians"], " --size 512"),
        (["export.size=512"], None),
    ],
)
def test_an_object_is_made_larger_where_it_is_small(
    words: list[str], end: str | None, tmp_path: Path
) -> None:
    """And once: its pictures tell."""
    loaded = load_config("sds_carv", words)
    line = next_steps(TASKS["sds"], loaded, tmp_path).get("export")
    assert line == (end and f"python evaluate.py export --run {tmp_path}{end}")
    (tmp_path / "object").mkdir()
    for size, is_large in ((128, False), (512, True)):
        width = VIEWS * (1 + min(size, LARGEST_VIEW)) + 1  # with the lines between
        Image.new("RGB", (width, 9)).save(tmp_path / "object/views.png")
        found = next_steps(TASKS["sds"], loaded, tmp_path)
        assert ("export" in found) is (end is not None and not is_large)


@pytest.mark.parametrize(
    ("config", "words", "begins", "names"),
    [
        ("teacher_digits", [], "configs/dmd_carv.yaml", ["distil", "fid", "influence"]),
        ("fashion/teacher", [], "configs/fashion/dmd_carv.yaml", ["distil", "fid", "influence"]),
        (
            "teacher_digits",
            ["data.name=images", "data.path=my pictures", "data.labels=false", "fid.every=0"],
            "configs/dmd_carv.yaml",
            ["distil", "influence"],
        ),
        ("teacher_shapes", [], "configs/sds_carv.yaml", ["object", "influence"]),
    ],
)
def test_a_teacher_goes_on_to_teach(config: str, words: list[str], begins: str, names: list[str]) -> None:
    """By a command that is understood, with the teacher's own data."""
    loaded = load_config(config, words)
    steps = next_steps(TASKS[loaded.task], loaded, Path("runs/with a blank"))
    assert [*steps] == names
    door, script, option, place, *values = shlex.split(steps[names[0]])
    assert (door, script, option, place) == ("python", "train.py", "--config", begins)
    student = load_config(place, values)
    assert student.teacher.path == "runs/with a blank/teacher"
    if names[0] == "distil":
        assert replace(student.data, name="") == replace(loaded.data, name="", flip=student.data.flip)
        assert student.data.name == loaded.data.name


def test_what_is_measured_is_no_step_until_the_product_is_another(tmp_path: Path) -> None:
    loaded = load_config("dmd_carv", [])

    def names() -> list[str]:
        return [*next_steps(TASKS["dmd"], loaded, tmp_path)]

    write_json(tmp_path / "summary.json", {"last": {}, "product_step": 4})
    write_json(tmp_path / "fid.json", {"trained": {"product_step": 4}})
    assert names() == ["variance", "influence"]
    write_json(tmp_path / "variance.json", {"rows": []})  # of a version that did not say
    assert names() == ["influence"]
    (tmp_path / "variance.json").write_text("{")
    write_json(tmp_path / "summary.json", {"last": {}, "product_step": 8})
    assert names() == ["fid", "variance", "influence"]


def test_a_run_without_fid_is_not_told_to_measure_one() -> None:
    loaded = load_config("dmd_carv", ["fid.every=0"])
    assert [*next_steps(TASKS["dmd"], loaded, Path("runs/x"))] == ["variance", "influence"]


def test_a_student_that_needed_no_pictures_is_ranked_where_they_are(tmp_path: Path) -> None:
    for place, names in (
        (tmp_path / "gone", ["fid", "variance"]),
        (tmp_path, ["fid", "variance", "influence"]),
    ):
        loaded = load_config("fashion/dmd_carv", [f"data.path={place}"])
        assert [*next_steps(TASKS["dmd"], loaded, Path("runs/x"))] == names
    loaded = load_config("fashion/dmd_carv", [f"data.path={tmp_path}/gone"])
    said = INFLUENCE.refusal(TASKS["dmd"], loaded, InfluenceCommandOptions())
    assert said.startswith("the pictures that its teacher learned from are not here: fashion_mnist needs")
