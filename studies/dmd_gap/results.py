"""What the trainings of a data set left, and the same from the study's own files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from carv_distill.errors import UserError
from studies.dmd_gap import table
from studies.dmd_gap.arms import Arm, Plan, make_arms, runs_by_seed, seeds_of
from studies.dmd_gap.pilot import levels_of, pilot
from studies.dmd_gap.settings import Setting
from studies.runs import train_all
from studies.study import Row, Study


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
    left_out: Sequence[str] = ()
    """Seeds of which a training ended in NaN, a sentence each."""

    @property
    def seeds(self) -> list[int]:
        """Of the runs, in order."""
        return list(dict.fromkeys(row["seed"] for row in self.runs))

    @property
    def common(self) -> list[int]:
        """Those that every arm has."""
        of_arm = [{row["seed"] for row in self.runs if row["arm"] == arm.name} for arm in self.arms]
        return [seed for seed in self.seeds if all(seed in seeds for seeds in of_arm)]

    @property
    def finals(self) -> dict[str, list[float]]:
        """Arm → final FID of every seed, in order."""
        return {arm.name: [r["fid"] for r in self.runs if r["arm"] == arm.name] for arm in self.arms}

    @classmethod
    def train(
        cls, study: Study, setting: Setting, common: Sequence[int], deciding: Sequence[int], workers: int
    ) -> Results:
        """After the pilot, all arms; into `<data>_pilot.json`, `<data>_runs.json` and `<data>_traces.json`.

        A seed with a training that ends in NaN is left out of all arms.

        Args:
            common: seeds of all arms.
            deciding: of the two that decide, these among them.

        Raises:
            UserError: fewer than two of either are left.
        """
        plan, tried = pilot(setting, study.runs, workers, study.folder / "digits_pilot.json")
        beside = levels_of(setting, study.runs)
        study.seeds = list(setting.pilot_seeds)
        study.write(f"{setting.name}_pilot", tried, plan=asdict(plan), levels=beside)
        arms = make_arms(setting, plan, common)
        seeds = seeds_of(arms, common, deciding)
        runs = runs_by_seed(arms, seeds, common)
        train_all(runs, setting.config, study.runs, workers, setting.ranges, may_diverge=True)
        ended = {
            seed: [arm.name for arm in arms if seed in seeds[arm.name] and arm.run(seed).diverged(study.runs)]
            for seed in deciding
        }
        left_out = [f"Seed {s} is left out: {', '.join(of)} ended in NaN." for s, of in ended.items() if of]
        seeds = {name: [seed for seed in own if not ended[seed]] for name, own in seeds.items()}
        if min(map(len, seeds.values())) < 2:
            raise UserError(f"{setting.name}: fewer than two seeds are left. {' '.join(left_out)}")
        metrics = table.read_runs(arms, seeds, study.runs)
        finals = {arm.name: [arm.run(seed).fid(study.runs) for seed in seeds[arm.name]] for arm in arms}
        rows, traces = table.run_rows(arms, metrics, finals, seeds), table.trace_rows(metrics)
        study.seeds = list(dict.fromkeys(row["seed"] for row in rows))
        study.write(f"{setting.name}_runs", rows, left_out=left_out)
        study.write(f"{setting.name}_traces", traces)
        return cls(plan, arms, rows, traces, beside, left_out)

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
        about, runs, traces = parts
        plan = Plan(**about["plan"])
        arms, left_out = make_arms(setting, plan), runs.get("left_out", ())
        return cls(plan, arms, runs["rows"], traces["rows"], about["levels"], left_out)
