"""A small run that was cut off and resumed, in all loggers whose packages are here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from carv_distill.command_line import EXTRAS
from carv_distill.errors import UserError
from carv_distill.tasks import load_config, train
from carv_distill.text_to_3d.module import SDSModule
from tests.helpers.runs import sds_words
from tests.helpers.tiny_latent import save_tiny_pipeline

CUT = 5
"""The update after which the first attempt ends; its last checkpoint is of update 4."""


@dataclass(frozen=True)
class Followed:
    """Runs of one configuration: one with loggers, cut off and resumed, and one without, in one go."""

    run: Path
    plain: Path
    names: list[str]


def installed(name: str) -> bool:
    """Whether a logger's packages are."""
    return all(importlib.util.find_spec(package) for package in EXTRAS[name])


@pytest.fixture(scope="session")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    folder = tmp_path_factory.mktemp("followed")
    teacher = save_tiny_pipeline(folder / "teacher")
    names = ["tensorboard", *filter(installed, ("wandb", "mlflow"))]
    words = sds_words(teacher, folder / "runs", f"trainer.loggers=[{','.join(names)}]")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        step = SDSModule.training_step

        def ends(self: SDSModule, batch: object, number: int) -> None:
            if self.global_step == CUT:
                raise UserError("cut off")
            step(self, batch, number)

        config = load_config("sds_carv", words)
        with patch.context() as cut:
            cut.setattr(SDSModule, "training_step", ends)
            with pytest.raises(UserError, match="cut off"):
                train(config)
        run = train(load_config("sds_carv", words), resume=True)
        train(load_config("sds_carv", words), resume=True)  # it has all its updates: its product is made anew
        plain = load_config(
            "sds_carv", sds_words(teacher, folder / "runs", "trainer.loggers=[]", "name=plain")
        )
        yield Followed(run, train(plain), names)
