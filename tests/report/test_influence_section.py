"""What a page says of a ranking, from what the command itself writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from carv_distill.report.files import ResultFiles
from carv_distill.report.influence_section import influence
from carv_distill.report.write import keep_results
from tests.helpers.pages import plain_words, words_of

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


def said_of(folder: Path, **more: Any) -> str:
    return words_of(influence(ResultFiles(folder, {"influence": RANKED | more}, [])))


def test_scores_of_influence_have_their_intervals(tmp_path: Path) -> None:
    """The conclusion comes first; a picture that is not there any more is said."""
    said = words_of(influence(ResultFiles(tmp_path, {"influence": RANKED}, [])))
    assert said.index("agrees with itself") < said.index("0.50 ± 0.12") < said.index("Two rankings")
    assert "0.4 ±" not in said
    assert "#3 <b>" in said
    assert "not there any more" in said


def test_queries_have_their_names_with_the_label_or_prompt(tmp_path: Path) -> None:
    """Results without names, of earlier versions, have numbers or places."""
    top = RANKED["queries"][0]["top"]
    queries = [
        {"query": "7", "name": "photos/7.png", "number": None, "top": top},
        {"query": "a red cube", "name": "seed 0", "number": None, "top": top},
        {"query": "3", "number": 14, "top": top},
        {"query": "3", "number": None, "top": top},
        {"query": "", "name": "#5", "number": 5, "top": top},
    ]
    said = said_of(tmp_path, queries=queries)
    for name in ("photos/7.png (7)", "seed 0 (a red cube)", "#14 (3)", "query 4 (3)", "#5 1."):
        assert f" {name} " in f"{said} "


def test_the_ranking_for_all_queries_is_there(tmp_path: Path) -> None:
    votes = {
        "each": 13,
        "between": 0.5069,
        "top": [{"train": 7, "name": "#7", "about": "a 3", "votes": 2, "mean": -0.25}],
    }
    said = said_of(tmp_path, votes=votes, reliability=[{"draws": 4}, {"draws": 8}])
    assert "1. #7 (a 3) 2 of 1 -0.25" in said
    assert "Each query votes for its first 13" in said
    assert "by 8 draws each, correlate to 0.507." in said
    assert "votes" not in said_of(tmp_path, votes=None)


def test_whose_ranking_it_is_is_said(tmp_path: Path) -> None:
    options = {"data": "digits", "queries": "data:3,14"}
    said = said_of(tmp_path, model="a/teacher", options=options)
    assert "model a/teacher training set digits queries data:3,14 score trak" in said


def test_the_page_of_results_without_a_run(tmp_path: Path) -> None:
    (tmp_path / "influence.json").write_text(json.dumps(RANKED))
    (tmp_path / "lds.json").write_text("{")
    place = keep_results(tmp_path)
    assert place is not None
    page = place.read_text()
    assert "python evaluate.py influence --teacher 'a teacher'" in plain_words(page)
    assert "lds.json" in page
    assert "<b>" not in page


def test_the_command_for_more_draws_is_one_to_copy(tmp_path: Path) -> None:
    """Below the verdict, not within its sentence; and how many samples are ranked of how many."""
    command = "python evaluate.py influence --queries 'a b' --draws 48"
    ranked = {"ranked": 24, "samples": 1000, "conclusions": ["It agrees in part:\n" + command]}
    section = influence(ResultFiles(tmp_path, {"influence": RANKED | ranked}, []))
    assert section is not None
    verdict, block = map(str, section.blocks[:2])
    assert "--draws" not in verdict
    assert plain_words(block).endswith(command)
    assert "training samples ranked 24 of 1,000" in words_of(section)
