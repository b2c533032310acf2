"""Bad input is answered by one line that names key, value and what is allowed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.config import find_config, to_dict
from carv_distill.errors import UserError
from carv_distill.tasks import config_from_dict, load_config
from carv_distill.teacher_training.options import TeacherConfig
from carv_distill.text_to_3d.options import SDSConfig

ROOT = Path(__file__).parents[2]
DMD = ROOT / "configs/dmd_carv.yaml"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("estimator.strategyy=iid", "unknown key estimator.strategyy (did you mean estimator.strategy?)"),
        ("estimatr.draws=4", "unknown key estimatr.draws (did you mean estimator.draws?)"),
        ("estimator.strategy=stratifed", "'stratifed' is not one of iid, stratified, paired, global"),
        ("estimator.noise=pink", "estimator.noise: 'pink' is not one of iid, antithetic, zero_sum"),
        ("estimator.upstream=0", "estimator.upstream: 0 is below the least allowed value, 1"),
        ("estimator.draws=-1", "estimator.draws: -1 is below the least allowed value, 1"),
        ("estimator.chunk=0", "estimator.chunk: 0 is below"),
        ("trainer.max_steps=0", "trainer.max_steps: 0 is below"),
        ("estimator.draws=many", "estimator.draws: 'many' is not a whole number"),
        ("estimator.draws=2.5", "estimator.draws: '2.5' is not a whole number"),
        ("dmd.student_lr=0", "dmd.student_lr: 0.0 is not above 0"),
        ("dmd.student_lr=nan", "dmd.student_lr: nan is not finite"),
        ("dmd.ema=1.5", "dmd.ema: 1.5 is above the greatest allowed value, 1"),
        ("trainer=5", "trainer: 5 is not a section"),
        ("seed=null", "seed: it is empty; give a value"),
        ("estimator.draws", "'estimator.draws' has no '='; write key=value"),
        ("task=dms", "task: 'dms' is not one of dmd, teacher"),
        (
            "data.name=digitz",
            "'digitz' is not one of digits, solids, cifar10, fashion_mnist, images, shapes, captioned "
            "(did you mean digits?)",
        ),
        ("estimator.statistic=neymann", "'neymann' is not one of second_moment, neyman"),
        ("estimator.bins=0", "estimator.bins: 0 is below"),
        ("estimator.proposal=adaptve", "'adaptve' is not one of uniform, weights, weighting, adaptive"),
        ("estimator.weights=[1,2]", "weights go with proposal: weights"),
        ("estimator.proposal=weights", "0 weights with estimator.proposal: weights"),
    ],
)
def test_a_bad_override_is_one_line_that_names_it(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(DMD, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1,\n", "not a valid YAML"),
        ("- 1\n- 2\n", "a configuration is a mapping"),
        ("name: x\n", "task: None is not one of dmd, teacher"),
        ("task: dmd\nname: x\n", "teacher.path"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "x" * 201])
def test_a_name_stays_in_its_folder(name: str) -> None:
    with pytest.raises(UserError, match="is not a plain name"):
        load_config("configs/dmd_carv.yaml", [f"name={name}"])


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_no_file_at_all_is_a_line(name: str) -> None:
    """As a variable of a job script that was never set."""
    with pytest.raises(UserError, match=r"--config: .* names no file, nor a shipped configuration"):
        find_config(name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml is not a file"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("configs/dmd_crv.yaml", "dmd_carv, "),
        ("cifar/dmd_carv", "cifar10/dmd_carv, "),
        ("dmd2", "imagenet64/dmd2, "),
        ("configs/nope.yaml", ""),
    ],
)
def test_few_of_the_shipped_are_named_and_where_all_lie(name: str, nearest: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(name)
    start, _, rest = str(caught.value).partition("; the nearest are ")
    assert start == f"--config: {name} is not a file, nor the name of a shipped configuration"
    assert rest.startswith(nearest)
    assert rest.count(",") == 4
    count = len(list((ROOT / "configs").rglob("*.yaml")))
    assert rest.endswith(f", and all {count} lie in {ROOT / 'configs'}")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_configuration_loads_and_survives_a_round_trip(path: Path) -> None:
    needs_teacher = "path: ???" in path.read_text()
    if needs_teacher:
        with pytest.raises(UserError, match=r"^teacher.path: it has no value yet; give one, as"):
            load_config(path)
    config = load_config(path, ["teacher.path=here"] if needs_teacher else [])
    assert config_from_dict(to_dict(config), "round trip") == config


def test_a_configuration_is_checked_without_what_only_a_run_needs() -> None:
    """In an interpreter of its own: of the large libraries it takes torch, whose strategies it names."""
    slow = ("transformers", "diffusers", "lightning", "trimesh", "skimage", "sklearn", "scipy", "matplotlib")
    check = "from carv_distill.tasks import load_config; load_config('configs/dmd_carv.yaml')"
    script = f"import sys; {check}; print(*sorted(set({slow}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_overrides_reach_their_fields() -> None:
    config = load_config(DMD, ["estimator.draws=16", "dmd.clip_norm=2", "estimator.chunk=8"])
    assert isinstance(config, DMDConfig)
    assert (config.estimator.draws, config.dmd.clip_norm, config.estimator.chunk) == (16, 2.0, 8)
    assert isinstance(load_config(ROOT / "configs/teacher_digits.yaml"), TeacherConfig)


def test_a_value_may_be_left_empty_where_its_type_says_so() -> None:
    """Whatever it is by default."""
    config = load_config(ROOT / "configs/sds_carv.yaml", ["scene.gaussians.densify.prune_size="])
    assert isinstance(config, SDSConfig)
    assert config.scene.gaussians.densify.prune_size is None


def test_paths_are_looked_for_beside_the_file_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the file, beside the folder `configs` above it, in the working folder, beside what ships."""
    text = "task: dmd\nname: x\nteacher:\n  path: own/teacher\n"
    config = tmp_path / "project/configs/deep/mine.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(text)
    monkeypatch.chdir(tmp_path)
    places = [tmp_path / "own/teacher", tmp_path / "project/own/teacher", config.parent / "own/teacher"]
    expected = ["own/teacher", *(str(place) for place in places[1:])]
    for place, found in zip(places, expected, strict=True):
        place.mkdir(parents=True)
        loaded = load_config(config, complete=True)
        assert isinstance(loaded, DMDConfig)
        assert Path(loaded.teacher.path).resolve() == place
        assert loaded.teacher.path == found
    with pytest.raises(UserError) as caught:
        load_config(config, ["teacher.path=own/nowhere"], complete=True)
    assert "teacher.path: own/nowhere is not a folder, nor a hub id" in str(caught.value)
    for base in (config.parent, tmp_path / "project", tmp_path, ROOT):
        assert str(base) in str(caught.value)
    shipped = load_config(config, ["teacher.path=checkpoints/digits-teacher"], complete=True)
    assert isinstance(shipped, DMDConfig)
    assert Path(shipped.teacher.path) == ROOT / "checkpoints/digits-teacher"
    hub = load_config(config, ["teacher.path=google/ddpm-cifar10-32"], complete=True)
    assert isinstance(hub, DMDConfig)
    assert hub.teacher.path == "google/ddpm-cifar10-32"


@pytest.mark.parametrize("name", ["dmd_carv", "cifar10/dmd_carv.yaml", "configs/sds_carv.yaml"])
def test_a_shipped_configuration_has_a_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(name).name


def test_a_missing_teacher_names_what_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load_config("solids/dmd_carv", complete=True)
    assert "teacher.path: runs/teacher_solids/teacher is not a folder" in str(caught.value)
    assert str(caught.value).endswith("; python train.py --config configs/solids/teacher.yaml makes it")


def test_a_value_that_is_to_be_given_says_what_it_is() -> None:
    with pytest.raises(UserError, match=r"^teacher.path: it has no value yet.* a text-to-image pipeline"):
        load_config(ROOT / "configs/sd21/sds_carv.yaml", ["teacher.path=???"])


def test_what_only_a_beginning_needs_may_be_gone_later() -> None:
    with pytest.raises(UserError, match=r"^dmd.start: runs/first is not a file or folder"):
        load_config(DMD, ["dmd.start=runs/first"], complete=True)
    config = load_config(DMD, ["dmd.start=runs/first"], complete=True, begins=False)
    assert isinstance(config, DMDConfig)
    assert config.dmd.start == "runs/first"
