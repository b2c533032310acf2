"""What a finished run hands to its loggers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carv_distill.engine.loggers.face import RunLogger
from carv_distill.engine.loggers.results import log_results, summary_figures
from carv_distill.files import write_json


class Kept(RunLogger):
    """Remembers what it was given."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.figures: dict[str, float] = {}

    def log_config(self, config: Any) -> None: ...

    def log_picture(self, name: str, path: Path, step: int) -> None: ...

    def log_result(self, name: str, path: Path, step: int) -> None:
        self.results.append((name, path.name, step))

    def log_summary(self, figures: Any) -> None:
        self.figures = dict(figures)


def test_media_that_are_there_and_all_figures(tmp_path: Path) -> None:
    for name in (
        "object/turntable.mp4",
        "object/scene.json",
        "figures/b.png",
        "figures/a.png",
        "figures/a.svg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    write_json(tmp_path / "summary.json", {"last": {"step": 6}, "product_step": 6})
    logger = Kept()
    log_results([logger], tmp_path, "object", ("turntable.mp4", "mesh.glb"), 6)  # type: ignore[list-item]
    assert logger.results == [
        ("object/turntable", "turntable.mp4", 6),
        ("figures/a", "a.png", 6),
        ("figures/b", "b.png", 6),
    ]
    assert logger.figures == {"product_step": 6}


@pytest.mark.parametrize(
    ("summary", "figures"),
    [
        ({"last": {"a": 1.0}}, {}),
        ({"product_step": None}, {}),
        (
            {"best_fid": {"fid": 0.5, "step": 300}, "product_step": 400},
            {"best_fid": 0.5, "best_fid_step": 300, "product_step": 400},
        ),
    ],
)
def test_figures_of_a_summary(summary: dict[str, Any], figures: dict[str, float]) -> None:
    assert summary_figures(summary) == figures
