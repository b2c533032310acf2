"""The study's command: its parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from carv_distill.files import read_json
from carv_distill.variance import Estimate
from studies.advisor import table
from studies.advisor.__main__ import main
from studies.advisor.cases import Prediction


def test_some_parts_are_measured_alone_into_a_table_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of all six stays as it is; only what is asked for is trained and predicted."""
    trained: list[str] = []
    predicted: list[str] = []
    one = Estimate(2.0, 0.1, 1.8, 2.2)
    found = Prediction("Strat", (2, 2), (1, 1), one, one, (3.0, 3.0), (1.5, 1.5))

    def compute(calls: dict[str, Any], folder: Path, workers: int, of: Sequence[Path]) -> Any:
        predicted.extend(calls)
        return dict.fromkeys(calls, found)

    monkeypatch.setattr(table, "train_all", lambda runs, *_: trained.extend(run.name for run in runs))
    monkeypatch.setattr(table, "compute", compute)
    out = tmp_path / "results"
    assert main(["--part", "text_to_3d", "--out", str(out), "--runs", str(tmp_path / "runs")]) == 0
    assert trained == ["text-to-3D--voxels", "text-to-3D--Gaussians"]
    assert predicted == ["text-to-3D, voxels", "text-to-3D, Gaussians"]
    file = out / "advisor" / "advisor_text_to_3d.json"
    assert [row["pipeline"] for row in read_json(file)["rows"]] == predicted
    assert not (out / "advisor" / "advisor.json").exists()
    assert main(["--out", str(out), "--runs", str(tmp_path / "runs")]) == 0
    rows = read_json(out / "advisor" / "advisor.json")["rows"]
    assert [row["pipeline"] for row in rows][-2:] == ["attribution, images", "attribution, clips"]
    assert len(rows) == 6
