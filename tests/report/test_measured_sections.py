"""What a page says of measurements, from what the commands themselves write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carv_distill.evaluation.prompt_scores import PromptScores
from carv_distill.report.files import ResultFiles, RunFiles
from carv_distill.report.measured_sections import clip, quality, retrained
from carv_distill.tasks import load_config
from carv_distill.text_to_3d.clip_report import ClipResult
from carv_distill.variance import Estimate
from tests.helpers.pages import words_of
from tests.helpers.runs import as_run
from tests.helpers.small import ROOT

SCORE = Estimate(30.25, 0.5, 29.27, 31.23)


def run_with(folder: Path, **measured: Any) -> RunFiles:
    return RunFiles(folder, measured, [], {}, {}, [])


def test_clip_scores_of_objects(tmp_path: Path) -> None:
    run = str(as_run(load_config(ROOT / "configs/sds_carv.yaml", [f"folder={tmp_path}"])))
    runs = [ClipResult(run, "a red cube", 0, SCORE, SCORE, 0.75).to_dict()]
    runs += [ClipResult(run, "a chair", 0, SCORE, None, None).to_dict()]
    said = words_of(clip(run_with(tmp_path, clip={"runs": runs[:1]})))
    assert "30.2 [29.3, 31.2]" in said
    assert "75%" in said
    assert "–" not in said
    said = words_of(clip(run_with(tmp_path, clip={"runs": runs})))
    assert "a chair" in said
    assert "–: the prompt names no pair of a colour and a solid" in said


def test_clip_scores_of_pictures(tmp_path: Path) -> None:
    scores = {"student": PromptScores("student", 64, SCORE, Estimate(0.5, 0.1, 0.3, 0.7)).to_dict()}
    said = words_of(clip(run_with(tmp_path, clip={"runs": [{"run": "runs/a", "scores": scores}]})))
    assert "30.2 [29.3, 31.2]" in said
    assert "0.5 [0.3, 0.7]" in said
    assert clip(run_with(tmp_path)) is None


def test_models_trained_anew(tmp_path: Path) -> None:
    lds = {"lds": 0.25, "low": 0.125, "high": 0.375, "models": ["a", "b", "c"]}
    remove = {"percent": 4.5, "low": None, "high": None, "models": ["a", "b"]}
    said = words_of(retrained(ResultFiles(tmp_path, {"lds": lds, "remove": remove}, [])))
    assert "0.25 [0.125, 0.375]" in said
    assert said.endswith(" 4.5 2")
    assert retrained(ResultFiles(tmp_path, {}, [])) is None


def test_what_was_measured_in_different_ways_is_not_in_one_table(tmp_path: Path) -> None:
    """Features, images or the reference may differ; KID is a thousand times itself, as on the screen."""

    def measured(images: int, extractor: str) -> dict[str, Any]:
        report = {"images": images, "seed_ranges": [[0, 9], [10, 19]], "extractor": extractor}
        report |= {"extractor_fingerprint": "0123456789", "reference": "mine", "labels": "random"}
        numbers = {"fid": {"mean": 13.98, "std": 0.814}, "kid": {"mean": 0.02213, "std": 0.00111}}
        return {"student": report | {"summary": numbers}, "floor": {"summary": numbers}}

    def page(*settings: tuple[int, str]) -> str:
        runs = [run_with(tmp_path / str(i), fid=measured(*s)) for i, s in enumerate(settings)]
        return words_of(quality(runs))

    said = page((60, "digits"), (60, "digits"))
    assert said.count("samples FID KID × 1000") == 1
    assert "60 images, labels random, of mine, digits features (012345)" in said
    assert "13.98 ± 0.81 22.1 ± 1.1" in said
    for other in ((61, "digits"), (60, "clip")):
        said = page((60, "digits"), other)
        assert said.startswith("Measured in different ways, or not known how: compare within a table.")
        assert said.count("samples FID KID × 1000") == 2
        assert said.count("floor: real images 13.98 ± 0.81") == 2


def test_columns_that_no_row_has_are_left_out_and_dashes_have_a_reason(tmp_path: Path) -> None:
    """A run with labels has no CLIP score; a floor of statistics alone is an FID."""
    value = {"mean": 1.5, "std": 0.25}
    fid = {"student": {"summary": {"fid": value, "recall": value}}, "floor": None}
    said = words_of(quality([run_with(tmp_path, fid=fid)]))
    assert "samples FID recall student 1.50 ± 0.25 1.50 ± 0.25 FID and KID: lower is better" in said
    assert "CLIP" not in said
    assert "–" not in said
    held_out = {"held_out": {"fid": 0.5}, "summary": {"fid": {"mean": 0.5, "std": None}}}
    said = words_of(quality([run_with(tmp_path, fid=fid | {"floor": held_out})]))
    assert "floor: real images 0.5 –" in said
    assert "The floor is what a perfect generator would score" in said
    assert "–: not known" in said
