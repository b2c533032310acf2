"""What was measured of a product."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from carv_distill.errors import UserError
from carv_distill.hub.results import results_of
from carv_distill.report.files import RunFiles
from tests.helpers.pushed import fid_json, run_with_student


def test_the_first_generator_of_a_measurement_is_the_product(tmp_path: Path) -> None:
    fid_json(run := run_with_student(tmp_path))
    fid, recall, copied = results_of(RunFiles.read(run), 4)
    assert (fid.name, fid.value, fid.text, fid.data, fid.traced) == (
        "FID",
        3.25,
        "3.25 ± 0.5",
        "digits",
        False,
    )
    assert fid.setting == "2 × 1,797 images, seeds 0 to 3593, digits features, ± over the ranges of seeds"
    assert (recall.name, recall.text) == ("recall", "0.5 ± 0.01")
    assert (copied.name, copied.text) == ("copied, 0.05 by chance", "0.06 ± 0.01")
    found = fid.to_eval("unconditional-image-generation")
    assert (found.metric_type, found.metric_value, found.dataset_type) == ("fid", 3.25, "digits")
    assert found.metric_args == {"value": "3.25 ± 0.5", "setting": fid.setting}


def test_else_what_the_run_measured_at_the_product_s_own_update(tmp_path: Path) -> None:
    files = RunFiles.read(run_with_student(tmp_path))
    (result,) = results_of(files, 4)
    assert (result.name, result.value, result.spread, result.traced) == ("FID", 7.5, "", True)
    assert result.setting == "1797 images, digits features"
    assert results_of(files, 3) == []


def test_a_measurement_of_another_update_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fid_json(run := run_with_student(tmp_path), step=2)
    with caplog.at_level(logging.WARNING):
        assert [r.value for r in results_of(RunFiles.read(run), 4)] == [7.5]
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{run}/fid.json is of update 2, the product of update 4: it is left out")
    assert said.endswith(f"python evaluate.py fid --run {run} measures again")


def test_clip_scores_of_pictures_and_of_objects(tmp_path: Path) -> None:
    run = run_with_student(tmp_path)
    score = {"images": 64, "clip": {"mean": 90.0, "se": 0.5}}
    about = {
        "prompts": 56,
        "prompts_from": "captions",
        "model_fingerprint": "12ab",
        "scores": {"student": score, "teacher": {"images": 64, "clip": {"mean": 80.0, "se": 1.0}}},
    }
    views = {"prompt": "a red torus", "score": {"value": 30.5, "interval": [29.0, 32.0]}}
    for each, text, data in (
        (about, "90 ± 0.5", "56 captions"),
        (views, "30.5 [29, 32]", "a red torus"),
    ):
        (run / "clip.json").write_text(json.dumps({"runs": [each], "trained": {"product_step": 4}}))
        first = results_of(RunFiles.read(run), 4)[0]
        assert (first.name, first.metric, first.text, first.data) == ("CLIP score", "clip_score", text, data)


@pytest.mark.parametrize(
    ("name", "content"),
    [("fid", {"trained": {"product_step": 4}}), ("fid", {"trained": 3}), ("clip", {"runs": [1, 2]})],
)
def test_a_file_that_is_something_else_is_named(name: str, content: object, tmp_path: Path) -> None:
    run = run_with_student(tmp_path)
    (run / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=rf"{name}\.json is not what evaluate\.py {name} writes; measure again"
    ):
        results_of(RunFiles.read(run), 4)
