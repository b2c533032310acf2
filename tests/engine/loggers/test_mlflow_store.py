"""A run in MLflow, in a store beside the runs, read back by MLflow's client."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from carv_distill.engine.config import flat
from carv_distill.engine.loggers.ledger import Ledger
from carv_distill.engine.metrics import read_metrics
from carv_distill.errors import UserError
from carv_distill.tasks import load_config, open_run

from .conftest import Followed

mlflow = pytest.importorskip("mlflow")
for package in ("sqlalchemy", "alembic"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def client(followed: Followed) -> Any:
    return mlflow.MlflowClient(f"sqlite:///{followed.run.parent.resolve()}/mlflow.db")


@pytest.fixture(scope="module")
def stored(client: Any) -> Any:
    """The only run of the task's experiment."""
    (run,) = client.search_runs([client.get_experiment_by_name("sds").experiment_id])
    return run


def test_every_attempt_is_of_one_run(followed: Followed, stored: Any) -> None:
    assert stored.info.run_id == json.loads((followed.run / "mlflow.json").read_text())["id"]
    assert (stored.info.run_name, stored.info.status) == ("sds_carv", "FINISHED")


def test_the_metrics_are_those_of_metrics_csv_each_step_once(
    followed: Followed, client: Any, stored: Any
) -> None:
    rows = read_metrics(followed.run / "metrics.csv")
    for name in {name for row in rows for name in row} - {"step"}:
        found = client.get_metric_history(stored.info.run_id, name)
        expected = {int(row["step"]): row[name] for row in rows if name in row}
        assert sorted(m.step for m in found) == sorted(expected)
        if name != "seconds":
            assert {m.step: m.value for m in found} == expected
    assert stored.data.metrics["product_step"] == 6


def test_files_lie_as_in_the_run_s_folder(
    followed: Followed, client: Any, stored: Any, tmp_path: Path
) -> None:
    run_id = stored.info.run_id
    there = {
        file.path for place in (None, "object", "samples") for file in client.list_artifacts(run_id, place)
    }
    assert there == {
        "config.yaml",
        "summary.json",
        "object",
        "object/mesh.glb",
        "object/turntable.mp4",
        "object/views.png",
        "samples",
        "samples/000004.png",
    }
    for name in ("config.yaml", "object/mesh.glb", "samples/000004.png"):
        fetched = Path(client.download_artifacts(run_id, name, str(tmp_path)))
        assert fetched.read_bytes() == (followed.run / name).read_bytes()


def test_the_configuration_is_its_parameters(followed: Followed, stored: Any) -> None:
    _, config = open_run(followed.run)
    expected = {key: str(value)[:250] for key, value in flat(config).items()}
    assert stored.data.params == expected
    assert stored.data.params["sds.prompt"] == "a red torus"


def test_the_environment_is_as_it_was(followed: Followed) -> None:
    """MLflow leaves its store's address there, where the next run of the process would find it."""
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_a_store_that_does_not_have_the_run_is_one_line(followed: Followed, tmp_path: Path) -> None:
    from carv_distill.engine.loggers.mlflow_store import MLflow

    run = followed.run.parent / "other"
    run.mkdir()
    (run / "mlflow.json").write_text('{"id": "0123456789abcdef0123456789abcdef", "step": 4}')
    config = load_config("sds_carv", [f"folder={tmp_path}"])
    with pytest.raises(UserError, match=rf"MLflow does not begin with .*; without {run}/mlflow.json it is"):
        MLflow(run, config)


def test_a_store_that_fails_meanwhile_does_not_end_the_run(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    from carv_distill.engine.loggers.mlflow_store import MLflow

    run = followed.run.parent / "lost"
    run.mkdir()
    logger = MLflow(run, load_config("sds_carv", ["name=lost"]))

    def fails(*_: object, **__: object) -> None:
        raise mlflow.MlflowException("the server is gone")

    logger.experiment.log_batch = fails
    for step in (1, 2):
        logger.log_metrics({"a": 1.0}, step)
        logger.save()
    logger.finalize("success")
    assert Ledger(run / "mlflow.json").is_new(1)  # so that a resumed run sends what was lost
    said = [r.message for r in caplog.records if "takes nothing more" in r.message]
    assert said == [
        "MLflow takes nothing more of this run (the server is gone); metrics.csv has all its rows"
    ]
