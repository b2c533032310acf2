"""What a page says of measurements, from what the commands themselves write."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from carv_distill.evaluation.prompt_scores import PromptScores
from carv_distill.report.files import ResultFiles, RunFiles
from carv_distill.report.measured_sections import clip, influence, retrained
from carv_distill.report.page import Section
from carv_distill.report.write import keep_results
from carv_distill.tasks import load_config
from carv_distill.text_to_3d.clip_report import ClipResult
from carv_distill.variance import Estimate
from tests.helpers.runs import as_run
from tests.helpers.small import ROOT

SCORE = Estimate(30.25, 0.5, 29.27, 31.23)
RANKED = {
    "command": ["/somewhere/evaluate.py", "influence", "--teacher", "a teacher"],
    "about": {"score": "trak"},
    "queries": [
        {
            "query": "#3 <b>",
            "top": [
                {"train": i, "name": f"#{i}", "about": "a 7", "score": 0.5 - i / 10, "half_width": half}
                for i, half in enumerate((0.125, None))
            ],
        }
    ],
    "conclusions": ["Two rankings correlate.", "The ranking agrees with itself."],
}


def words_of(section: Section | None) -> str:
    """Of a section, without markup."""
    assert section is not None
    return html.unescape(re.sub(r"<[^>]+>", " ", "".join(section.blocks)))


def run_with(folder: Path, **measured: Any) -> RunFiles:
    return RunFiles(folder, measured, [], {}, {}, [])


def test_clip_scores_of_objects(tmp_path: Path) -> None:
    run = str(as_run(load_config(ROOT / "configs/sds_carv.yaml", [f"folder={tmp_path}"])))
    runs = [ClipResult(run, "a red cube", 0, SCORE, SCORE, 0.75).to_dict()]
    runs += [ClipResult(run, "a chair", 0, SCORE, None, None).to_dict()]
    said = words_of(clip(run_with(tmp_path, clip={"runs": runs})))
    assert "30.2 [29.3, 31.2]" in said
    assert "75%" in said
    assert "a chair" in said


def test_clip_scores_of_pictures(tmp_path: Path) -> None:
    scores = {"student": PromptScores("student", 64, SCORE, Estimate(0.5, 0.1, 0.3, 0.7)).to_dict()}
    said = words_of(clip(run_with(tmp_path, clip={"runs": [{"run": "runs/a", "scores": scores}]})))
    assert "30.2 [29.3, 31.2]" in said
    assert "0.5 [0.3, 0.7]" in said
    assert clip(run_with(tmp_path)) is None


def test_scores_of_influence_have_their_intervals(tmp_path: Path) -> None:
    """The conclusion comes first; a picture that is not there any more is said."""
    said = words_of(influence(ResultFiles(tmp_path, {"influence": RANKED}, [])))
    assert said.index("agrees with itself") < said.index("0.5 ± 0.125") < said.index("Two rankings")
    assert "0.4 ±" not in said
    assert "#3 <b>" in said
    assert "not there any more" in said


def test_models_trained_anew(tmp_path: Path) -> None:
    lds = {"lds": 0.25, "low": 0.125, "high": 0.375, "models": ["a", "b", "c"]}
    remove = {"percent": 4.5, "low": None, "high": None, "models": ["a", "b"]}
    said = words_of(retrained(ResultFiles(tmp_path, {"lds": lds, "remove": remove}, [])))
    assert "0.25 [0.125, 0.375]" in said
    assert re.search(r"4\.5\s+2\s", said)
    assert retrained(ResultFiles(tmp_path, {}, [])) is None


def test_the_page_of_results_without_a_run(tmp_path: Path) -> None:
    (tmp_path / "influence.json").write_text(json.dumps(RANKED))
    (tmp_path / "lds.json").write_text("{")
    place = keep_results(tmp_path)
    assert place is not None
    page = place.read_text()
    assert "python evaluate.py influence --teacher &#39;a teacher&#39;" in page
    assert "lds.json" in page
    assert "<b>" not in page
