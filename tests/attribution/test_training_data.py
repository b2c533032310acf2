"""Which training set words name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import DDPMPipeline, DDPMScheduler

from carv_distill.attribution.options import InfluenceOptions
from carv_distill.attribution.training_data import named_model
from carv_distill.data.clips.options import ClipOptions
from carv_distill.data.options import DataOptions
from carv_distill.engine.task import TrainedModel
from carv_distill.errors import UserError
from tests.helpers.tiny_latent import save_tiny_pipeline
from tests.helpers.tiny_pipelines import save_wan
from tests.helpers.tiny_unet import tiny_unet


def test_files_are_what_the_teacher_takes(tmp_path: Path) -> None:
    DDPMPipeline(tiny_unet(channels=3), DDPMScheduler(50)).save_pretrained(tmp_path / "ddpm")
    save_tiny_pipeline(tmp_path / "sd")
    save_wan(tmp_path / "wan")
    data = str(tmp_path / "data")
    Path(data).mkdir()

    def named(teacher: str, resolution: tuple[int, ...] | None = None) -> DataOptions | ClipOptions:
        place = str(tmp_path / teacher)
        return named_model(InfluenceOptions(teacher=place, data=data, resolution=resolution)).data

    assert named("ddpm") == DataOptions("images", data)
    assert named("sd") == DataOptions("captioned", data)
    assert named("wan", (5, 16, 16)) == ClipOptions(data, (5, 16, 16))
    assert named("wan") == ClipOptions(data, None)


def test_sets_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t").mkdir()

    def named(data: str, **more: object) -> DataOptions | ClipOptions:
        return named_model(InfluenceOptions(teacher="t", data=data, **more)).data  # type: ignore[arg-type]

    assert named("digits") == DataOptions("digits")
    assert named("clips") == ClipOptions()
    assert named("clips", resolution=(5, 32, 32)) == ClipOptions(size=(5, 32, 32))
    with pytest.raises(UserError, match=r"^--resolution: 5 32 32 is of clips, but t takes images"):
        named("shapes", resolution=(5, 32, 32))
    with pytest.raises(
        UserError, match=r"^--data: digit is neither a place nor one of digits, solids, shapes, clips"
    ):
        named("digit")


def test_a_teacher_of_the_hub_says_what_it_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "training.json").write_text('{"clips": {"frames": 9, "size": 32, "count": 21, "seed": 4}}')
    fetched: list[str] = []

    def snapshot_download(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        fetched.extend([name, *allow_patterns])
        return str(tmp_path)

    monkeypatch.setattr("carv_distill.teachers.folder.snapshot_download", snapshot_download)
    o = InfluenceOptions(teacher="somebody/clips-teacher", data="clips")
    assert named_model(o).data == ClipOptions(None, (9, 32, 32), 21, 4)
    assert fetched == ["somebody/clips-teacher", "model_index.json", "training.json"]


def test_rendered_shapes_are_those_that_the_teacher_learned_from(tmp_path: Path) -> None:
    o = InfluenceOptions(teacher=str(tmp_path), data="shapes")
    assert named_model(o) == TrainedModel(str(tmp_path), DataOptions("shapes"))
    file = tmp_path / "training.json"
    file.write_text('{"shapes": {"size": 32, "views": 9, "elevation": 90.0, "seed": 4}}')
    own = DataOptions("shapes", size=32, views=9, elevation=90.0)
    assert named_model(o) == TrainedModel(str(tmp_path), own, 4)
    file.write_text('{"shapes": {"size": 32, "views": 9.5, "elevation": 90.0, "seed": 4}}')
    with pytest.raises(UserError, match=r"shapes is .*; the numbers size, views, elevation, seed are wanted"):
        named_model(o)


def test_rendered_clips_are_those_that_the_teacher_learned_from(tmp_path: Path) -> None:
    """By what its folder says; at another resolution the same ones, rendered anew; nonsense is one line."""
    file = tmp_path / "training.json"
    file.write_text('{"clips": {"frames": 9, "size": 32, "count": 21, "seed": 4}}')
    own = ClipOptions(None, (9, 32, 32), 21, 4)
    for resolution, wanted in ((None, own), ((5, 16, 16), replace(own, size=(5, 16, 16)))):
        o = InfluenceOptions(teacher=str(tmp_path), data="clips", resolution=resolution)
        assert named_model(o).data == wanted
    file.write_text('{"p_mean": 1.0}')  # of a teacher of images, which is refused for what it is
    assert named_model(InfluenceOptions(teacher=str(tmp_path), data="clips")).data == ClipOptions()
    file.write_text('{"clips": {"frames": 9}}')
    told = r"training\.json: clips is \{'frames': 9\}; the numbers frames, size, count, seed"
    with pytest.raises(UserError, match=told):
        named_model(InfluenceOptions(teacher=str(tmp_path), data="clips"))
