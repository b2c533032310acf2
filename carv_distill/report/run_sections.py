"""What a page says of one run, or of several side by side."""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from markupsafe import Markup
from PIL import Image

from carv_distill.engine.environment import commands_of
from carv_distill.engine.task import PageWords
from carv_distill.evaluation.copies import CHANCE
from carv_distill.evaluation.grids import captions_of
from carv_distill.screen import duration, typed

from . import blocks, charts
from .files import ResultFiles, RunFiles
from .page import Section

SHOWN = 24
"""Sample grids over time, at most, and"""
BYTES = 2_500_000
"""of all of them."""
TRACED = {
    "fid/fid": "FID",
    "clip/score": "CLIP score",
    "fid/clip": "CLIP score of prompts",
    "fid/recognised": "prompts recognised",
    "fid/precision": "precision",
    "fid/recall": "recall",
    "fid/copied": f"copied ({CHANCE:g} by chance)",
}
"""Metrics that have a chart of their own."""


def heading(run: RunFiles, words: PageWords) -> str:
    """One line on a run."""
    wanted = run.option("trainer.max_steps")
    done = f"{run.updates:,} of {wanted:,} updates" if isinstance(wanted, int) else f"{run.updates:,} updates"
    prompt = run.option("sds.prompt")
    of = f", “{prompt}”" if prompt else ""
    time = f" in {duration(run.seconds)}" if run.metrics else ""
    return f"{words.task} (task {run.task}){of}: {done}{time}."


def about(runs: Sequence[RunFiles], words: PageWords, steps: Mapping[str, str] | None) -> Section:
    """What was run, on what, and how to go on: with its updates, or, once it has them, with these steps; None
    while it trains."""
    parts: list[Markup] = []
    if len(runs) == 1:
        (run,) = runs
        known = {name: fact for name, fact in _facts(run, words).items() if fact is not None}
        parts.append(blocks.facts(known))
        if lines := [typed(command) for command in commands_of(run.environment)]:
            parts.append(blocks.commands([line for line, _ in groupby(lines)]))
        parts += _further(run, steps)
    else:
        facts = [_facts(run, words) for run in runs]
        rows = [[name, *("–" if of[name] is None else str(of[name]) for of in facts)] for name in facts[0]]
        parts.append(blocks.table(["", *(run.name for run in runs)], [r for r in rows if {*r[1:]} != {"–"}]))
        own = [f"{run.name}: {', '.join(there)}" for run in runs if (there := _on_its_own_page(run))]
        if own:
            parts.append(blocks.missing(f"On their own pages besides: {'; '.join(own)}."))
    parts += [blocks.missing(line) for run in runs for line in run.unreadable]
    return Section("What was run", parts)


def _on_its_own_page(run: RunFiles) -> list[str]:
    """What is measured of it and not shown beside others."""
    return [name for name in ("variance", "clip", "influence", "lds", "remove") if name in run.measured]


def _further(run: RunFiles, steps: Mapping[str, str] | None) -> list[Markup]:
    """What is open, and how to measure again what is measured."""
    parts: list[Markup] = []
    wanted, title, stopped = run.option("trainer.max_steps"), "To go on:", "To go on, where it has stopped:"
    if steps is None:
        stopped = "It was in training when this page was written. If it has stopped since, to go on:"
        steps = {}
    if isinstance(wanted, int) and run.updates < wanted:
        title = stopped
        config = shlex.quote(str(run.folder / "config.yaml"))
        steps = {"train": f"python train.py --config {config} --resume"}
    if steps:
        parts += [blocks.text(title), blocks.commands([*steps.values()])]
    if old := [name for name in steps if name in run.measured]:
        names = " and ".join(old)
        parts.append(
            blocks.missing(f"What {names} measured is below, of an earlier update than the product's.")
        )
    if done := _commands({name: a for name, a in run.measured.items() if name not in steps}):
        parts += [blocks.text("Done, with its results below; to do it again:"), blocks.commands(done)]
    return parts


def _commands(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Of results, as they were typed."""
    return [typed(a["command"]) for a in measured.values() if a.get("command")]


def _facts(run: RunFiles, words: PageWords) -> dict[str, object]:
    """By name; None of what a run of this task has not."""
    packages = run.environment.get("packages") or {}
    commit = (run.environment.get("git") or {}).get("commit")
    upstream, draws = run.option("estimator.upstream"), run.option("estimator.draws")
    return {
        "task": run.task,
        "teacher": run.option("teacher.path"),
        "data": run.option("data.name"),
        "prompt": run.option("sds.prompt"),
        "updates": f"{run.updates:,}",
        "training": duration(run.seconds) if run.metrics else None,
        f"{words.upstream}s R × draws K": f"{upstream} × {draws}" if upstream and draws else None,
        "noise levels": run.option("estimator.strategy"),
        "seed": run.option("seed"),
        "device": run.environment.get("device", "?"),
        "carv-distill": packages.get("carv-distill", "?"),
        "torch": packages.get("torch", "?"),
        "commit": str(commit)[:12] if commit else "unknown",
    }


def made_by(of: ResultFiles) -> Section | None:
    """The commands of results, as they were typed."""
    lines = _commands(of.measured)
    parts = [blocks.commands(lines)] if lines else []
    parts += [blocks.missing(line) for line in of.unreadable]
    return Section("How it was measured", parts) if parts else None


def curves(runs: Sequence[RunFiles], words: PageWords) -> Section:
    """Everything that was measured along the training, and in words what was measured at one update only."""
    found: list[Markup] = []
    once: list[str] = []
    for name, title in TRACED.items():
        points = [p for run in runs for p in _points(run, name, _label(run, runs))]
        if len({p["step"] for p in points}) == 1:
            once.append(_measured_once(title, points))
        elif points:
            wide = _spans_decades([p["value"] for p in points])
            said = f"{title[0].upper()}{title[1:]} over the training"
            found.append(charts.curves(points, title, said, logarithmic=wide))
    variance = [p for run in runs for p in _variance_points(run, runs, words)]
    if len({p["step"] for p in variance}) == 1:
        once.append(_measured_once("variance of the gradient", variance))
    elif variance:
        said = f"Variance of the gradient over the training, in total and with the {words.upstream}s fixed"
        found.append(charts.curves(variance, "variance (trace)", said, logarithmic=True))
    losses = sorted({key for run in runs for row in run.metrics for key in row if key.startswith("loss/")})
    points = [
        point
        for run in runs
        for key in losses
        for point in _points(
            run, key, key.removeprefix("loss/") if len(runs) == 1 else f"{run.name}, {key[5:]}"
        )
    ]
    if len({p["step"] for p in points}) > 1:
        wide = _spans_decades([p["value"] for p in points])
        found.append(charts.curves(points, "loss", "Losses over the training", logarithmic=wide))
    if found:
        found.append(blocks.missing(charts.HOW))
    else:
        found.append(blocks.missing("Nothing has been measured twice yet, so there is no curve."))
    return Section("Curves", [*found, *map(blocks.missing, once)])


def _measured_once(title: str, points: Sequence[Mapping[str, Any]]) -> str:
    """As "Measured once, FID at update 60: 3.56"; a value for each curve, with its interval if it has one."""
    said = []
    for p in points:
        name = "" if p["curve"] == charts.ALONE else f"{p['curve']} "
        ends = f" [{p['low']:.3g}, {p['high']:.3g}]" if "low" in p else ""
        said.append(f"{name}{p['value']:.3g}{ends}")
    return f"Measured once, {title} at update {points[0]['step']:,}: {'; '.join(said)}."


def _spans_decades(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows more of them: all positive, the greatest ten times the least."""
    return min(values) > 0 and max(values) >= 10 * min(values)


def _label(run: RunFiles, runs: Sequence[RunFiles]) -> str:
    return run.name if len(runs) > 1 else charts.ALONE


def _points(run: RunFiles, key: str, curve: str) -> list[dict[str, Any]]:
    made = []
    rows = [row for row in run.metrics if key in row]
    for row, seconds in zip(rows, run.seconds_at([row["step"] for row in rows]), strict=True):
        point = {"curve": curve, "step": row["step"], "seconds": seconds, "value": row[key]}
        ends = {end: row[f"{key}_{end}"] for end in ("low", "high") if f"{key}_{end}" in row}
        made.append(point | (ends if len(ends) == 2 else {}))
    return made


def _variance_points(run: RunFiles, runs: Sequence[RunFiles], words: PageWords) -> list[dict[str, Any]]:
    before = f"{run.name}, " if len(runs) > 1 else ""
    r, k = run.option("estimator.upstream"), run.option("estimator.draws")
    arms = {"carv": f"({r}, {k}) {run.option('estimator.strategy')}", "iid": f"({r}, 1) iid"}
    parts = {"total": "total", "within": f"{words.upstream}s fixed"}
    made = []
    for arm, name in arms.items() if len(runs) == 1 else list(arms.items())[:1]:
        for part, said in parts.items():
            points = _points(run, f"variance/{arm}/{part}", f"{before}{name}: {said}")
            made += [p for p in points if p["value"] > 0 and p.get("low", 1) > 0]
    return made


def samples(runs: Sequence[RunFiles], words: PageWords) -> Section | None:
    """Grids over time, of a single run with a slider."""
    found: list[Markup] = []
    small: list[Markup] = []
    for run in runs:
        grids = run.samples()
        if not grids:
            continue
        chosen = chosen_grids({step: path.stat().st_size for step, path in grids.items()})
        if len(runs) > 1:
            chosen = chosen[-1:]
        pictures = {f"update {step:,}": shrunk(grids[step].read_bytes()) for step in chosen}
        last = grids[chosen[-1]]
        said = words.shown if len(runs) == 1 else f"{run.name}: {words.shown}"
        captions = captions_of(last)
        (found if captions else small).append(blocks.slider(pictures, said, words=bool(captions)))
        if (size := last.stat().st_size) > BYTES:
            beside = f"samples/{last.name}, which has {size / 1e6:.1f} MB"
            which = "It" if len(runs) == 1 else f"The picture of {run.name}"
            found.append(blocks.missing(f"{which} is shrunk for this page; all its pixels are in {beside}."))
        if captions:
            rows = [[f"{number}.", caption] for number, caption in enumerate(captions, 1)]
            found.append(blocks.folded(blocks.table(["", "prompt"], rows), "the prompts, in order"))
    if small:
        found.insert(0, blocks.beside(small) if len(small) > 1 else small[0])
    return Section(words.pictures, found) if found else None


def chosen_grids(sizes: Mapping[int, int]) -> list[int]:
    """Which updates are shown: the last one, the first, and others evenly between, within the limits."""
    steps = sorted(sizes)
    count = min(SHOWN, len(steps))
    while count > 1:
        chosen = [steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)]
        if sum(sizes[step] for step in chosen) <= BYTES:
            return chosen
        count -= 1
    return steps[-1:]


def shrunk(png: bytes) -> bytes:
    """A picture with as many pixels as the limit leaves it."""
    while len(png) > BYTES:
        share = 0.95 * math.sqrt(BYTES / len(png))
        with Image.open(io.BytesIO(png)) as picture:
            width, height = (max(1, round(share * side)) for side in picture.size)
            small = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        small.save(content := io.BytesIO(), "PNG")
        png = content.getvalue()
    return png


def settings(runs: Sequence[RunFiles]) -> Section:
    """Every value; of several runs those that differ."""
    if len(runs) == 1:
        lines = runs[0].written.splitlines()
        return Section(
            "Settings", [blocks.folded(blocks.commands(lines), f"all {len(lines)} lines of config.yaml")]
        )
    values = [dict(_leaves(run.config)) for run in runs]
    keys = sorted({key for each in values for key in each})
    rows = [[key, *(str(each.get(key, "–")) for each in values)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    return Section("Settings that differ", [blocks.table(["key", *(run.name for run in runs)], rows)])


def _leaves(values: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{before}{key}.")
        else:
            found.append((f"{before}{key}", value))
    return found
