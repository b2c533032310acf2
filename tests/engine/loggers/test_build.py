"""Which loggers a run has."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger

from carv_distill.engine.loggers.build import build_loggers, caught_up, require_loggers
from carv_distill.engine.loggers.metrics_csv import MetricsLogger
from carv_distill.engine.loggers.tensorboard import TensorBoard
from carv_distill.engine.options import LOGGERS, TrainerOptions
from carv_distill.errors import UserError
from carv_distill.tasks import load_config
from tests.helpers.runs import assert_same_run

from .conftest import Followed


def pretend(monkeypatch: pytest.MonkeyPatch, **faults: ImportError) -> None:
    """As if all packages of loggers were here, but for those with a fault."""

    def load(name: str) -> ModuleType:
        if name in faults:
            raise faults[name]
        return ModuleType(name)

    monkeypatch.setattr("carv_distill.engine.loggers.build.import_module", load)


MISSING, BROKEN = ModuleNotFoundError("none", name="sqlalchemy"), ImportError("cannot import\nname 'Imports'")


@pytest.mark.parametrize(
    ("name", "package", "fault", "said"),
    [
        ("wandb", "wandb", ModuleNotFoundError("none", name="wandb"), "is not installed"),
        ("mlflow", "sqlalchemy", MISSING, "is not installed"),
        ("mlflow", "mlflow", BROKEN, "does not load (cannot import name 'Imports')"),
        ("mlflow", "mlflow", MISSING, "does not load (none)"),
    ],
)
def test_a_package_that_is_missing_or_broken_is_one_line_with_its_extra(
    name: str, package: str, fault: ImportError, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, **{package: fault})
    with pytest.raises(UserError) as refused:
        require_loggers(TrainerOptions(loggers=["tensorboard", name]))
    brings = f"pip install -U 'carv-distill[{name}]' brings it"
    assert str(refused.value) == f"trainer.loggers: {name}: the package {package} {said}; {brings}"
    require_loggers(TrainerOptions())
    pretend(monkeypatch)
    require_loggers(TrainerOptions(loggers=list(LOGGERS)))


def test_it_is_said_before_the_run_s_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from carv_distill.tasks import train

    pretend(monkeypatch, wandb=ModuleNotFoundError("none", name="wandb"))
    with pytest.raises(UserError, match=r"trainer\.loggers: wandb"):
        train(load_config("sds_carv", [f"folder={tmp_path}/runs", "trainer.loggers=wandb"]))
    assert not (tmp_path / "runs").exists()


def test_metrics_come_first_and_the_first_process_alone_has_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("sds_carv", [])
    assert [type(logger) for logger in build_loggers(config, tmp_path)] == [MetricsLogger, TensorBoard]
    config.trainer.loggers = []
    assert [type(logger) for logger in build_loggers(config, tmp_path)] == [MetricsLogger]
    config.trainer.loggers = list(LOGGERS)
    monkeypatch.setenv("RANK", "1")
    assert [type(logger) for logger in build_loggers(config, tmp_path)] == [MetricsLogger]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_with_loggers_is_the_same_to_the_bit(followed: Followed) -> None:
    assert_same_run(followed.run, followed.plain, step=6)


def test_a_logger_that_is_asked_for_later_has_the_earlier_rows(tmp_path: Path) -> None:
    class Kept(Logger):
        name, version = "kept", ""

        def __init__(self) -> None:
            super().__init__()
            self.rows: list[Any] = []

        def log_hyperparams(self, params: Any, *_: Any) -> None: ...

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            self.rows.append((step, metrics))

    metrics = MetricsLogger(tmp_path / "metrics.csv")
    metrics.log_metrics({"a": 1.0}, 5)
    metrics.log_metrics({"b": 2.0}, 10)
    logger = Kept()
    assert caught_up(logger, MetricsLogger(tmp_path / "metrics.csv", resume_step=10).rows) is logger
    assert logger.rows == [(5, {"a": 1.0}), (10, {"b": 2.0})]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[tensorboard,wanbd]", r"trainer.loggers: 'wanbd' is not one of .* \(did you mean wandb\?\)"),
        ("[wandb,wandb]", "trainer.loggers: wandb is named twice"),
    ],
)
def test_names_are_checked(given: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_config("sds_carv", [f"trainer.loggers={given}"])


def test_ledgers_name_the_runs_that_they_are_of(followed: Followed) -> None:
    for name in set(followed.names) - {"tensorboard"}:
        ledger = json.loads((followed.run / f"{name}.json").read_text())
        assert ledger["step"] >= 6
