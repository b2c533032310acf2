"""All weights against adapters, on made-up reports."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from carv_distill.tasks import load_config
from studies.text_to_image.adapters import (
    CONFIG,
    FAKE,
    FULL,
    LORA,
    METRICS,
    STUDENT,
    Plan,
    arms,
    read,
    sentences,
    summarise,
    training,
)

PLAN = Plan(full=0.5, lora=0.8, rate=3)


def test_equal_seconds() -> None:
    assert PLAN.updates(300) == 188
    runs = arms(PLAN, 300, [0, 1])
    assert [f"trainer.max_steps={n}" in runs[arm][0].words for arm, n in ((FULL, 300), (LORA, 188))] == [
        True
    ] * 2
    assert "dmd.student_lr=0.0003" in runs[LORA][1].words


def test_the_rates_multiplied_are_those_of_the_configuration() -> None:
    options = load_config(CONFIG, []).dmd  # type: ignore[attr-defined]
    assert (options.student_lr, options.fake_lr) == (STUDENT, FAKE)
    for arm in (FULL, LORA):  # words that the configuration takes
        load_config(CONFIG, training(arm, 10, 0, 3 if arm == LORA else 1).words)


def test_rows_are_means_over_seeds(tmp_path: Path) -> None:
    runs = arms(PLAN, 300, [0, 1, 2])
    for arm, shift in ((FULL, 0.0), (LORA, 0.5)):
        for seed, run in enumerate(runs[arm]):
            folder = tmp_path / run.name
            folder.mkdir()
            summary = {metric: {"mean": 1.0 + shift + 0.1 * seed} for metric in METRICS}
            (folder / "fid.json").write_text(json.dumps({"student, 1 step": {"summary": summary}}))
            with (folder / "metrics.csv").open("w", newline="") as file:
                csv.writer(file).writerows(
                    [["step", "seconds"], *([10 * i, i * (1 + shift)] for i in range(1, 6))]
                )
    rows = summarise(read(runs, tmp_path), runs, PLAN, tmp_path)
    assert rows[0]["fid"] == pytest.approx(1.1)
    assert rows[1]["recall"] == pytest.approx(1.6)
    assert rows[1]["fid_difference"] == pytest.approx(0.5)
    assert rows[1]["updates"] == 188
    assert rows[1]["seconds_measured"] == pytest.approx(188 * 0.15)
    *_, compared, spent = sentences(rows)
    assert "higher" in compared
    assert "0.94 of the seconds" in spent
