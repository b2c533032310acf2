"""The card of what is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from carv_distill.errors import UserError
from carv_distill.hub.card import Repository, hub_card
from carv_distill.hub.results import results_of
from carv_distill.report.files import RunFiles
from tests.helpers.pushed import fid_json, run_with_student

TO = Repository("ada/digits")


def card_of(run: Path, to: Repository = TO, names: tuple[str, ...] = (), **options: Any) -> ModelCard:
    files = RunFiles.read(run)
    card = hub_card(files, run / "student", 4, to, names, results_of(files, 4), **options)
    return ModelCard(str(card))  # as the hub reads it


def change(run: Path, *pairs: tuple[str, str]) -> None:
    page = run / "student/README.md"
    text = page.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    page.write_text(text)


def test_the_page_becomes_a_card(tmp_path: Path) -> None:
    """Its head has what was measured, its example loads from the hub, its tables have what the run says."""
    fid_json(run := run_with_student(tmp_path))
    card = card_of(run, names=("samples.png",), license="apache-2.0")
    data, text = card.data.to_dict(), card.text
    assert data["library_name"] == "diffusers"
    assert data["pipeline_tag"] == "unconditional-image-generation"
    assert data["tags"] == ["one-step", "distillation", "dmd", "carv-distill"]
    assert data["license"] == "apache-2.0"
    assert "base_model" not in data
    fid, recall, copied = card.data.eval_results
    assert (fid.metric_value, fid.metric_name, recall.metric_value) == (3.25, "FID", 0.5)
    assert (copied.metric_type, copied.metric_value) == ("copied", 0.06)
    assert card.data.model_name == "digits"
    assert 'folder = "ada/digits"\npipeline = DiffusionPipeline.from_pretrained(folder, trust' in text
    assert "path/to/this/folder" not in text
    assert "![Samples at the end of the run](samples.png)" in text
    assert "| FID | 3.25 ± 0.5 |" in text
    assert "| copied, 0.05 by chance | 0.06 ± 0.01 |" in text
    assert text.count("seeds 0 to 3593") == 1
    assert "| training | 40 s |" in text
    assert text.count("| R | 4 |") == 1


def test_the_user_s_own_head_stays(tmp_path: Path) -> None:
    run = run_with_student(tmp_path)
    own = "license: mit\nlanguage: en\nbase_model: them/theirs\ntags:"
    change(run, ("tags:", own), ("# One-step student", "# Mine"))
    data = card_of(run).data.to_dict()
    assert (data["license"], data["language"], data["base_model"]) == ("mit", "en", "them/theirs")
    assert card_of(run).text.startswith("\n# Mine")
    assert card_of(run, license="openrail").data.license == "openrail"


def test_a_page_without_a_head_gets_one(tmp_path: Path) -> None:
    run = run_with_student(tmp_path)
    (run / "student/README.md").write_text("# Mine\n")
    card = card_of(run, license="mit")
    assert card.data.to_dict() == {"license": "mit"}
    assert card.text.lstrip().startswith("# Mine\n")


@pytest.mark.parametrize(
    ("teacher", "local", "base"),
    [
        ("google/ddpm-cifar10-32", False, "google/ddpm-cifar10-32"),
        ("checkpoints/digits-teacher", True, None),  # has the form of a hub's name
        ("/home/ada/models/digits", True, None),
    ],
)
def test_the_base_model_is_a_teacher_of_the_hub(
    teacher: str, local: bool, base: str | None, tmp_path: Path
) -> None:
    run = run_with_student(tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["teacher"]["path"] = teacher
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    environment = json.loads((run / "environment.json").read_text())
    environment["contents"] = {"teacher.path": "ab"} if local else {}
    (run / "environment.json").write_text(json.dumps(environment))
    change(run, ("| R | 4 |", f"| R | 4 |\n| teacher | {teacher} |"))
    card = card_of(run)
    assert card.data.get("base_model") == base
    assert "/home/ada" not in card.text
    assert f"| teacher | {Path(teacher).name if teacher.startswith('/') else teacher} |" in card.text


def test_a_branch_and_a_film_are_said(tmp_path: Path) -> None:
    run = run_with_student(tmp_path)
    text = card_of(run, Repository("ada/digits", "small"), names=("turntable.mp4",)).text
    assert 'This is the branch `small`: loading it takes `revision="small"`.' in text
    assert 'src="https://huggingface.co/ada/digits/resolve/small/turntable.mp4"' in text


def test_a_product_that_is_of_two_updates_is_refused(tmp_path: Path) -> None:
    run = run_with_student(tmp_path)
    change(run, ("| updates | 4 |", "| updates | 2 |"))
    with pytest.raises(
        UserError, match=r"README\.md is of update 2, the newest part of .* of update 4: .*--resume"
    ):
        card_of(run)


@pytest.mark.parametrize("head", ["---\n[1]\n---\n", "---\na: [\n---\n", "---\nmodel-index: 3\n---\n"])
def test_a_head_that_the_hub_cannot_read_is_one_line(head: str, tmp_path: Path) -> None:
    run = run_with_student(tmp_path)
    (run / "student/README.md").write_text(head)
    with pytest.raises(UserError, match=r"README\.md: its head is not what the hub reads \(") as caught:
        card_of(run)
    assert "\n" not in str(caught.value)
