"""Runs of the study that were never trained: metrics and FIDs that are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from studies.dmd_gap.arms import LONGER, REUSE, STATES, STRATA, Arm, Plan, make_arms, seeds_of
from studies.dmd_gap.settings import DIGITS, Setting

PLAN = Plan(400, 40, 22, "antithetic", base=0.2, reuse=0.3, more=0.3, less=0.25, best=0.4, base_factor=0.5)
SEEDS, MORE = [0, 1, 2], [0, 1, 2, 3]
"""Of all arms, and of the two that decide."""
PARTS = ("total", "within", "between", "squared_norm")


def final(arm: Arm, seed: int) -> float:
    """The longer baseline ends at 1 + seed/10, (8,16) stratified 0.03, 0.02, 0.01 and 0.02 below it,
    all others at 2."""
    if arm.name == LONGER:
        return 1 + seed / 10
    return 1 + seed / 10 - (0.03, 0.02, 0.01, 0.02)[seed] if arm.name == STRATA else 2.0


def make_runs(folder: Path, setting: Setting = DIGITS, plan: Plan = PLAN) -> list[Arm]:
    """Their folders; (8,16) iid has a quarter of the others' variance, with the samples fixed a sixteenth."""
    arms = make_arms(setting, plan)
    for i, arm in enumerate(arms):
        every = arm.updates // STATES
        for seed in seeds_of(arms, SEEDS, MORE)[arm.name]:
            run = folder / arm.run(seed).name
            run.mkdir(parents=True)
            rows = []
            for step in range(0, arm.updates + 1, 10):
                row: dict[str, float] = {"step": step, "seconds": step * (1 + i)}
                if step and step % every == 0:
                    row["fid/fid"] = final(arm, seed) + 100 / step
                    for part in PARTS:
                        less = {"total": 4, "within": 16}.get(part, 1) if arm.name == REUSE else 1
                        row[f"variance/carv/{part}"] = (100 + step) / less
                rows.append(row)
            with (run / "metrics.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(dict.fromkeys(k for r in rows for k in r)))
                writer.writeheader()
                writer.writerows(rows)
            report = {"student, 1 step": {"summary": {"fid": {"mean": final(arm, seed)}}}}
            (run / "fid.json").write_text(json.dumps(report))
    return arms
