"""What a folder of a run, or of results alone, holds, as far as it is there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carv_distill.engine.environment import LAYOUT
from carv_distill.engine.environment import NAME as ENVIRONMENT
from carv_distill.engine.folder import CONFIG, METRICS, product_step, read_run_config
from carv_distill.engine.metrics import Row, read_metrics
from carv_distill.errors import UserError
from carv_distill.files import read_json

MEASURED = ("fid", "clip", "variance", "influence", "lds", "remove")
"""The commands of evaluate.py whose JSON is read."""
_NUMBER = re.compile(r"(\d+)\.png")


@dataclass(frozen=True)
class ResultFiles:
    """What evaluate.py measured, read from its files alone: no network is loaded."""

    folder: Path
    measured: Mapping[str, Mapping[str, Any]]
    """By the command of evaluate.py."""
    unreadable: Sequence[str]
    """What is there and could not be read, each in a line."""

    @classmethod
    def read(cls, folder: Path) -> ResultFiles:
        """Of a folder that need not be a run's; what is missing is empty."""
        unreadable: list[str] = []
        return cls(folder, _measured(folder, unreadable), unreadable)

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.resolve().name

    def bytes_of(self, *parts: str) -> bytes | None:
        """A file's content; None without it."""
        path = self.folder.joinpath(*parts)
        return path.read_bytes() if path.is_file() else None


@dataclass(frozen=True)
class RunFiles(ResultFiles):
    """A run, likewise."""

    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    metrics: Sequence[Row]

    @classmethod
    def read(cls, folder: Path) -> RunFiles:
        """Of a run that goes or has ended; what is missing is empty.

        Raises:
            UserError: it is no run's folder, or one of a newer version.
        """
        config = read_run_config(folder)
        unreadable: list[str] = []
        environment = _json(folder / ENVIRONMENT, unreadable)
        layout = environment.get("layout", LAYOUT)
        if isinstance(layout, int) and layout > LAYOUT:
            raise UserError(
                f"{folder} is a run of a newer version (layout {layout}, this one reads up to {LAYOUT}); "
                "update carv-distill"
            )
        try:
            metrics = read_metrics(folder / METRICS)
        except UserError as error:
            unreadable.append(str(error))
            metrics = []
        return cls(folder, _measured(folder, unreadable), unreadable, config, environment, metrics)

    @property
    def task(self) -> str:
        """As dmd."""
        return str(self.config.get("task", "?"))

    @property
    def updates(self) -> int:
        """Done so far: logged, or in the product, whichever is later."""
        logged = int(self.metrics[-1]["step"]) if self.metrics else 0
        return max(logged, product_step(self.folder) or 0)

    @property
    def seconds(self) -> float:
        """Of training so far."""
        return max((row.get("seconds", 0.0) for row in self.metrics), default=0.0)

    def seconds_at(self, steps: Sequence[float]) -> list[float]:
        """Of training until these updates: rows of earlier versions that lack them lie in a straight line
        between their neighbours."""
        known = {0.0: 0.0} | {row["step"]: row["seconds"] for row in self.metrics if "seconds" in row}
        seconds: list[float] = np.interp(steps, [*known], [*known.values()]).tolist()
        return seconds

    def option(self, key: str) -> Any:
        """A value of its configuration, as "trainer.max_steps"; None where it has none."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def samples(self) -> dict[int, Path]:
        """Sample grids by update."""
        named = {path: _NUMBER.fullmatch(path.name) for path in (self.folder / "samples").glob("*.png")}
        numbered = {int(match[1]): path for path, match in named.items() if match}
        return dict(sorted(numbered.items()))

    @property
    def written(self) -> str:
        """Of the configuration, as it lies there."""
        return (self.folder / CONFIG).read_text()


def _measured(folder: Path, unreadable: list[str]) -> dict[str, Mapping[str, Any]]:
    contents = {name: _json(folder / f"{name}.json", unreadable) for name in MEASURED}
    return {name: content for name, content in contents.items() if content}


def _json(file: Path, unreadable: list[str]) -> Mapping[str, Any]:
    """An object's content; empty where there is none, and where it cannot be read, which is added."""
    if not file.is_file():
        return {}
    try:
        content = read_json(file)
    except UserError as error:
        unreadable.append(str(error))
        return {}
    return content if isinstance(content, dict) else {}
