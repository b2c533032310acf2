"""evaluate.py lds and remove: what an influence.json names is where it was, wherever they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carv_distill.attribution.options import InfluenceOptions
from carv_distill.attribution.retrained import outcomes
from carv_distill.commands import retrained
from carv_distill.commands.retrained import LDS, RetrainedOptions
from carv_distill.errors import UserError

SCORES = "runs/influence-t-of-set/influence/cosine.npz"


def written(folder: Path, **more: str) -> RetrainedOptions:
    """As evaluate.py influence leaves it that was typed in this folder."""
    for name in (SCORES, "t/config.json", "set/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    options = InfluenceOptions(teacher="t", data="set", **more).of_samples()  # type: ignore[arg-type]
    content = {"options": options, "scores": SCORES, "scores_digest": "d"}
    file = folder / "runs/influence-t-of-set/influence.json"
    file.write_text(json.dumps(content))
    return RetrainedOptions(influence=file, models=folder / "models.jsonl")


def test_it_works_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()
    asked: list[InfluenceOptions] = []
    given: list[Any] = []

    def stop(*arguments: Any) -> None:
        given.extend(arguments)
        raise UserError("enough")

    monkeypatch.setattr(outcomes, "measure_outcomes", stop)
    monkeypatch.setattr(retrained, "trained_model", lambda o, runs, step: asked.append(o))
    options = written(home)
    monkeypatch.chdir(elsewhere)
    with pytest.raises(UserError, match="enough"):
        LDS.measure(options, [], "cpu")
    (o,) = asked
    assert (o.teacher, o.data, o.queries) == (str(home / "t"), str(home / "set"), "samples:8")
    assert given[2] == home / SCORES
