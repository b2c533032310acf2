"""carv-distill push: what is sent can be taken again; what does not fit is one line, and nothing is sent."""

from __future__ import annotations

import errno
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi, ModelCard

from carv_distill.cli import main as console
from carv_distill.commands.push import main
from carv_distill.tasks import load_config, train
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.teachers.teacher import load_teacher
from tests.helpers.fake_hub import FakeHub, Held
from tests.helpers.pushed import run_with_student
from tests.helpers.runs import as_run, sds_words
from tests.helpers.tiny_latent import save_tiny_pipeline
from tests.helpers.tiny_prompted import save_prompted, words

NAME = "ada/digits"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_with_student(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    """The one line on standard error that a command ends with."""
    capsys.readouterr()
    assert main(list(given)) == 2
    out, error = capsys.readouterr()
    lines = [line for line in error.splitlines() if not line.startswith("INFO")]
    assert (out, len(lines)) == ("", 1), error
    return lines[0].removeprefix("error: ")


def same(a: Any, b: Any) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def pictures_of_page(folder: Path) -> list[Any]:
    """The first picture of each example on a folder's page."""
    pictures = []
    for block in re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL):
        scope: dict[str, Any] = {}
        torch.manual_seed(0)
        exec(block.replace("path/to/this/folder", str(folder)), scope)
        pictures.append(scope["images"][0])
    return pictures


def test_a_student_that_was_pushed_is_a_teacher_and_a_pipeline(
    run: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """teacher.path=ada/digits gives the local student, its card's pipeline the local pipeline's pictures."""
    assert main(["--run", str(run), "--to", NAME, "--license", "mit"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith(f"https://hub.test/{NAME}/commit/{hub.repositories[NAME].sha}")
    assert out[1] == f"taken again by teacher.path={NAME}"
    assert hub.calls == ["whoami", "model_info", "create_repo", "create_commit"]
    assert hub.repositories[NAME].commits == ["student of the run dmd_carv"]
    local, fetched = load_teacher(run / "student"), load_teacher(NAME)
    assert same(local.denoiser, fetched.denoiser)
    assert local.scheduler_config == fetched.scheduler_config
    assert load_config("dmd_carv", [f"teacher.path={NAME}"], complete=True).teacher.path == NAME

    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(hub.folder / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    hub.snapshot_download(NAME)
    pictures = [
        DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)(
            class_labels=[3], generator=torch.Generator().manual_seed(0), output_type="raw"
        ).images
        for folder in (run / "student", hub.folder / NAME)
    ]
    assert torch.equal(*pictures)
    card = ModelCard.load(hub.folder / NAME / "README.md")
    assert (card.data.license, card.data.library_name) == ("mit", "diffusers")
    assert {"README.md", "samples.png"} <= set(hub.repositories[NAME].branches["main"])


def test_a_text_to_image_student_and_its_adapters(
    tmp_path: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    """By training one: pushed, it is the same teacher as the local folder, and its adapters are there."""
    save_prompted(tmp_path)
    lora = ("dmd.adapters.kind=lora", "dmd.adapters.rank=2", "trainer.accelerator=cpu", "dmd.lr_decay=none")
    run = train(load_config("text_to_image/dmd_shapes", [*words(tmp_path), *lora]))
    assert main(["--run", str(run), "--to", "ada/shapes"]) == 0
    files = hub.repositories["ada/shapes"].branches["main"]
    weights = run / "student/lora/pytorch_lora_weights.safetensors"
    assert files["lora/pytorch_lora_weights.safetensors"] == weights.read_bytes()
    card = files["README.md"].decode()
    assert 'pipeline.load_lora_weights(folder, subfolder="lora")' in card
    assert str(tmp_path) not in card
    assert ModelCard(card).data.pipeline_tag == "text-to-image"
    local, fetched = load_text_teacher(run / "student"), load_text_teacher("ada/shapes")
    assert same(local.denoiser, fetched.denoiser)
    assert same(local.prompts, fetched.prompts)
    whole, alone = (np.asarray(picture, float) for picture in pictures_of_page(run / "student"))
    assert abs(whole - alone).max() <= 1  # of 255: merged weights, and the teacher's with the adapters beside


@pytest.mark.slow
def test_a_teacher_that_was_trained_here(tmp_path: Path, hub: FakeHub) -> None:
    small = ("training.channels=[8]", "training.head_channels=8", "training.batch=4", "fid.every=0")
    words = (*small, "trainer.max_steps=1", "trainer.accelerator=cpu", f"folder={tmp_path}")
    run = train(load_config("teacher_digits", [*words]))
    assert main(["--run", str(run), "--to", NAME, "--private", "--message", "first"]) == 0
    assert hub.repositories[NAME].private
    assert hub.repositories[NAME].commits == ["first"]
    local, fetched = load_teacher(run / "teacher"), load_teacher(NAME)
    assert same(local.denoiser, fetched.denoiser)
    assert local.levels == fetched.levels
    assert local.levels is not None
    card = hub.repositories[NAME].branches["main"]["README.md"].decode()
    assert f"`teacher.path={NAME}` makes it the teacher" in card


def test_what_a_branch_holds_is_taken_again_from_a_folder(
    run: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    """teacher.path has the hub's main branch alone."""
    assert main(["--run", str(run), "--to", NAME]) == 0
    capsys.readouterr()
    assert main(["--run", str(run), "--to", NAME, "--revision", "small"]) == 0
    assert "README.md" in hub.repositories[NAME].branches["small"]
    _, last = capsys.readouterr().out.splitlines()
    assert last == f"to take it again, fetch the branch into a folder: hf download {NAME} --revision small"


def test_an_object_with_its_film(tmp_path: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = save_tiny_pipeline(tmp_path / "sd")
    run = train(load_config("sds_carv", [*sds_words(teacher, tmp_path, "trainer.max_steps=2")]))
    assert main(["--run", str(run), "--to", "ada/torus"]) == 0
    assert "teacher.path" not in capsys.readouterr().out
    files = hub.repositories["ada/torus"].branches["main"]
    assert set(files) == {".gitattributes", *(path.name for path in (run / "object").iterdir())}
    card = ModelCard(files["README.md"].decode())
    assert card.data.pipeline_tag == "text-to-3d"
    assert card.data.get("library_name") is None
    assert 'src="https://huggingface.co/ada/torus/resolve/main/turntable.mp4"' in card.text
    assert str(tmp_path) not in card.text


def test_a_dry_run_needs_neither_network_nor_token_and_writes_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shows every file with its size, the card and the repository."""

    def asked(*args: object, **options: object) -> None:
        raise AssertionError("the hub was asked")

    for name in ("whoami", "model_info", "create_repo", "create_commit"):
        monkeypatch.setattr(HfApi, name, asked)
    monkeypatch.setattr("huggingface_hub.get_token", asked)
    (run / "student/old.pt").write_bytes(b"x")
    before = {path: path.stat().st_mtime_ns for path in run.parent.rglob("*")}
    argv = ["carv-distill", "push", "--run", str(run), "--to", NAME, "--revision", "small", "--dry-run"]
    monkeypatch.setattr(sys, "argv", argv)
    assert console() == 0
    out, error = capsys.readouterr()
    assert out.startswith(f"would be sent: {run}/student to {NAME}, branch small (public if it is new)\n")
    listed = {line.split("  ")[0] for line in out.split("\n\n")[1].splitlines()}
    product = {
        str(path.relative_to(run / "student")) for path in (run / "student").rglob("*") if path.is_file()
    }
    assert listed == product - {"old.pt"} | {"samples.png"}
    size = (run / "student/pipeline.py").stat().st_size
    assert re.search(rf"^pipeline\.py +{size / 1e3:.3g} kB$", out, re.MULTILINE)
    assert "nothing was sent (--dry-run)" in out
    assert "\nREADME.md:\n\n---\nlibrary_name: diffusers\n" in out
    assert "not sent, as it is no weights, text, picture, film or mesh: old.pt" in error
    assert {path: path.stat().st_mtime_ns for path in run.parent.rglob("*")} == before


def test_the_newest_run_unless_one_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", str(run.parent), "--to", NAME, "--dry-run"]) == 0
    assert f"{run}/student to {NAME}" in capsys.readouterr().out


def test_what_a_repository_holds_is_said(run: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.repositories[NAME] = Held(branches={"main": {"me.png": b"", "README.md": b""}})
    assert main(["--run", str(run), "--to", NAME]) == 0
    said = f"{NAME} holds 2 files; this is a commit on top of them; what stays beside it: me.png"
    assert said in capsys.readouterr().err
    assert "me.png" in hub.repositories[NAME].branches["main"]


def test_what_would_be_mixed_or_shown_is_refused(
    run: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    held = hub.repositories[NAME] = Held(branches={"main": {"vae/config.json": b""}})
    said = refused(capsys, "--run", str(run), "--to", NAME)
    assert said.startswith(f"--to: {NAME} holds vae/config.json, which would stay and be mixed with")
    assert refused(capsys, "--run", str(run), "--to", NAME, "--private").startswith(
        f"--private: {NAME} is there and public"
    )
    assert held.branches == {"main": {"vae/config.json": b""}}
    assert main(["--run", str(run), "--to", NAME, "--replace"]) == 0
    assert "vae/config.json" not in held.branches["main"]


def test_bad_input_is_one_line_and_nothing_is_sent(
    run: Path, hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("digits", "a/b/c", "a b/c", "../x", "ada/", "/x"):
        assert refused(capsys, "--run", str(run), "--to", name).startswith(f"--to: {name!r} is not user/name")
    assert "is not a run's folder" in refused(capsys, "--run", str(tmp_path / "none"), "--to", NAME)
    (tmp_path / "ranking").mkdir()
    (tmp_path / "ranking/influence.json").write_text("{}")
    said = refused(capsys, "--run", str(tmp_path / "ranking"), "--to", NAME)
    assert "holds a ranking of training samples, which is no model" in said
    shutil.rmtree(run / "student")
    said = refused(capsys, "--run", str(run), "--to", NAME)
    assert said.startswith(f"{run} has no student yet")
    assert f"python train.py --config {run}/config.yaml --resume goes on with it" in said
    assert hub.calls == []


def test_a_run_that_is_being_trained_is_left_alone(
    run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def taken(*args: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "taken")

    monkeypatch.setattr("fcntl.lockf", taken)
    assert "another process trains or exports it" in refused(capsys, "--run", str(run), "--to", NAME)
    assert hub.calls == []


def test_without_a_token_nothing_is_asked(
    run: Path,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    assert "hf auth login" in refused(capsys, "--run", str(run), "--to", NAME)
    assert hub.calls == []


def test_an_unfinished_object_is_not_sent(
    tmp_path: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scene is there from the first checkpoint on; film and mesh come at the end, and then the page."""
    run = as_run(load_config("sds_carv", [f"folder={tmp_path}"]))
    (run / "object").mkdir()
    (run / "object/scene.json").write_text(json.dumps({"step": 2}))
    assert "object is not whole: it has no README.md" in refused(capsys, "--run", str(run), "--to", NAME)
