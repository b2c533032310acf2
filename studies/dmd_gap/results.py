"""What the trainings of a data set left, and the same from the study's own files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from carv_distill.errors import UserError
from studies.dmd_gap.arms import Arm, Plan, make_arms
from studies.dmd_gap.settings import Setting
from studies.study import Row


@dataclass(frozen=True)
class Results:
    """Of all runs of a data set."""

    plan: Plan
    arms: Sequence[Arm]
    runs: Sequence[Row]
    """As :func:`~studies.dmd_gap.table.run_rows` has them."""
    traces: Sequence[Row]
    """As :func:`~studies.dmd_gap.table.trace_rows` has them."""
    levels: dict[str, float]
    """FID of the teacher and of the floor."""

    @property
    def seeds(self) -> list[int]:
        """Of the runs, in order."""
        return list(dict.fromkeys(row["seed"] for row in self.runs))

    @property
    def finals(self) -> dict[str, list[float]]:
        """Arm → final FID of every seed, in order."""
        return {arm.name: [r["fid"] for r in self.runs if r["arm"] == arm.name] for arm in self.arms}

    @classmethod
    def load(cls, setting: Setting, folder: Path) -> Results:
        """From `<data>_pilot.json`, `<data>_runs.json` and `<data>_traces.json`.

        Raises:
            UserError: they are not there.
        """
        parts = []
        for part in ("pilot", "runs", "traces"):
            path = folder / f"{setting.name}_{part}.json"
            if not path.is_file():
                raise UserError(f"{path}: no such results; run the study without --stored")
            parts.append(json.loads(path.read_text()))
        pilot, runs, traces = parts
        plan = Plan(**pilot["plan"])
        return cls(plan, make_arms(setting, plan), runs["rows"], traces["rows"], pilot["levels"])
