"""A run in W&B, offline, read back from the files that `wandb sync` uploads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carv_distill.engine.metrics import read_metrics
from carv_distill.errors import UserError
from carv_distill.tasks import load_config
from tests.helpers.wandb_files import config_of, history, run_of, segments

from .conftest import Followed

wandb = pytest.importorskip("wandb")


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Of all attempts."""
    return [row for segment in segments(run) for row in history(segment)]


def test_every_attempt_is_of_one_run(followed: Followed) -> None:
    runs = [run_of(segment) for segment in segments(followed.run)]
    assert len(runs) == 3
    assert {(r.project, r.display_name) for r in runs} == {("sds", "sds_carv")}
    assert {r.run_id for r in runs} == {json.loads((followed.run / "wandb.json").read_text())["id"]}


def test_steps_rise_and_none_is_there_twice(followed: Followed) -> None:
    """The first attempt logged update 5, which the second makes again; the third's product comes last."""
    steps = [[row["_step"] for row in history(segment)] for segment in segments(followed.run)]
    assert steps == [[1, 2, 3, 4, 5], [6], [7]]


def test_the_rows_are_those_of_metrics_csv(followed: Followed) -> None:
    logged = {row["_step"]: row for row in rows_of(followed.run)}
    for row in read_metrics(followed.run / "metrics.csv"):
        step = row.pop("step")
        assert logged[step]["trainer/global_step"] == step
        row.pop("seconds")  # the second attempt's, of updates that the first had logged
        assert {name: logged[step][name] for name in row} == row


def test_pictures_film_mesh_and_configuration_are_there(followed: Followed) -> None:
    rows, media = rows_of(followed.run), {}
    for row in rows:
        for key, value in row.items():
            if key.endswith("/_type"):
                media[(row["_step"], key.removesuffix("/_type"))] = value
    assert media[4, "samples"] == "image-file"
    for step in (6, 7):
        assert media[step, "object/views"] == "image-file"
        assert media[step, "object/turntable"] == "video-file"
        assert media[step, "object/mesh"] == "object3D-file"
    last = next(row for row in rows if row["_step"] == 7)
    files = segments_folder(followed.run)[-1] / "files"
    for name, file in (("mesh", "mesh.glb"), ("turntable", "turntable.mp4"), ("views", "views.png")):
        kept = files / last[f"object/{name}/path"]
        assert kept.read_bytes() == (followed.run / "object" / file).read_bytes()
    config = config_of(segments(followed.run)[0])
    assert config["sds"]["prompt"] == "a red torus"
    assert config["trainer"]["max_steps"] == 6


def segments_folder(run: Path) -> list[Path]:
    return sorted(run.glob("wandb/offline-run-*"), key=lambda path: path.stat().st_mtime_ns)


def test_it_ends_as_the_run_did(followed: Followed) -> None:
    ends = [
        record.exit.exit_code
        for segment in segments(followed.run)
        for record in segment
        if record.WhichOneof("record_type") == "exit"
    ]
    assert ends == [1, 0, 0]


def test_what_keeps_it_from_beginning_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from carv_distill.engine.loggers.weights_and_biases import WeightsAndBiases

    def init(**_: Any) -> None:
        raise wandb.errors.CommError("no network")

    monkeypatch.setattr(wandb, "init", init)
    config = load_config("sds_carv", [f"folder={tmp_path}"])
    with pytest.raises(UserError, match=r"W&B does not begin \(no network\); WANDB_MODE=offline keeps"):
        WeightsAndBiases(tmp_path, config)
