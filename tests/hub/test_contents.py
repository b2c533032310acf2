"""What of a product's folder is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carv_distill.errors import UserError
from carv_distill.hub.contents import SAMPLES, contents_of
from tests.helpers.pushed import run_with_student

WHOLE = {
    "model_index.json",
    "pipeline.py",
    "scheduler/scheduler_config.json",
    "unet/SHA256SUMS",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
}


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return run_with_student(tmp_path) / "student"


def test_a_student_is_sent_whole_with_its_samples(student: Path) -> None:
    grid = student.parent / "samples/000004.png"
    contents = contents_of(student, grid)
    assert set(contents.files) == {*WHOLE, SAMPLES}
    assert contents.left_out == ()
    assert contents.files[SAMPLES] == grid
    assert contents.sizes["pipeline.py"] == (student / "pipeline.py").stat().st_size


def test_what_a_reader_might_run_is_left_out_and_named(student: Path) -> None:
    for name in (
        "optimiser.pt",
        "unet/diffusion_pytorch_model.bin",
        "state.pkl",
        "notes.py",
        ".cache/a.json",
    ):
        (student / name).parent.mkdir(exist_ok=True)
        (student / name).write_bytes(b"\x80\x04.")
    for name in ("notes.txt", "film.mp4", "mesh.GLB"):
        (student / name).write_bytes(b"x")
    contents = contents_of(student)
    assert set(contents.files) == {*WHOLE, "notes.txt", "film.mp4", "mesh.GLB"}
    assert set(contents.left_out) == {
        ".cache/a.json",
        "notes.py",
        "optimiser.pt",
        "state.pkl",
        "unet/diffusion_pytorch_model.bin",
    }


def test_code_is_sent_as_this_version_writes_it_and_not_otherwise(student: Path) -> None:
    code = student / "pipeline.py"
    code.write_text(code.read_text() + "import os\n")
    remedy = (
        rf"pipeline\.py is code, and other than .*; python evaluate\.py export --run {student.parent} makes"
    )
    with pytest.raises(UserError, match=remedy):
        contents_of(student)


@pytest.mark.parametrize("inside", [True, False])
def test_a_link_may_not_lead_out_of_the_folder(inside: bool, student: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (student / "more.json").symlink_to(student / "model_index.json" if inside else tmp_path / "secret.json")
    if inside:
        assert "more.json" in contents_of(student).files
    else:
        with pytest.raises(
            UserError, match=r"more\.json is a link to .*secret\.json, outside of .*student; put"
        ):
            contents_of(student)


def test_nor_may_the_link_of_a_folder_or_one_that_leads_nowhere(student: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (student / "vae").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"student/vae is a link to .*elsewhere, outside of"):
        contents_of(student)
    (tmp_path / "elsewhere").rmdir()
    with pytest.raises(
        UserError, match=r"student/vae is a link to .*elsewhere, which is not there; remove it"
    ):
        contents_of(student)


def test_nor_the_product_itself_nor_the_samples(student: Path, tmp_path: Path) -> None:
    student.rename(tmp_path / "moved")
    student.symlink_to(tmp_path / "moved")
    with pytest.raises(UserError, match=r"student is a link to .*moved; put the folder itself there"):
        contents_of(student)
    grid = student.parent / "samples/000000.png"
    grid.rename(tmp_path / "grid.png")
    grid.symlink_to(tmp_path / "grid.png")
    with pytest.raises(UserError, match=r"000000\.png is a link to .*grid\.png, outside of"):
        contents_of(tmp_path / "moved", grid)


def test_damaged_weights_are_not_sent(student: Path) -> None:
    weights = student / "unet/diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 64
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"diffusion_pytorch_model\.safetensors is damaged: its SHA-256"):
        contents_of(student)


def test_a_product_without_its_page_is_not_whole(student: Path) -> None:
    (student / "README.md").unlink()
    said = rf"student is not whole: it has no README\.md.*; python evaluate\.py export --run {student.parent}"
    with pytest.raises(UserError, match=said):
        contents_of(student)


def test_places_on_this_machine_are_left_out_of_configurations(student: Path) -> None:
    """diffusers writes where a network was loaded from; all else is sent as it lies there."""
    place = student / "unet/config.json"
    plain = contents_of(student).files["unet/config.json"]
    told = json.loads(place.read_text())
    place.write_text(json.dumps(told | {"_name_or_path": "/home/ada/secret/teacher"}))
    contents = contents_of(student)
    sent = contents.files["unet/config.json"]
    assert isinstance(sent, bytes)
    assert json.loads(sent) == {key: value for key, value in told.items() if key != "_name_or_path"}
    assert contents.sizes["unet/config.json"] == len(sent)
    assert isinstance(plain, bytes) == ("_name_or_path" in told)
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert contents.files[weights] == student / weights
