"""What a page says of the quality of what a run made, and of models that were trained anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from carv_distill.evaluation.copies import EXPLAINED
from carv_distill.variance.table import with_half_width

from . import blocks
from .files import ResultFiles, RunFiles
from .intervals import interval, shown
from .page import Section

NOTHING = "–"
_QUALITY = {
    "fid": "FID",
    "kid": "KID × 1000",
    "precision": "precision",
    "recall": "recall",
    "copied": "copied",
    "clip": "CLIP score",
    "recognised": "prompts recognised",
}
_PICTURES = ("clip", "recognised")
FLOOR = "floor: real images"
RETRAINED = "Scores against models trained anew"


def quality(runs: Sequence[RunFiles]) -> Section | None:
    """FID, KID, precision, recall and copies of a run's samples, its teacher's and the floor; with prompts
    their CLIP scores."""
    tables: dict[str, dict[str, Mapping[str, Any]]] = {}
    for run in runs:
        reports = {name: r for name, r in run.measured.get("fid", {}).items() if _is_summarised(r)}
        setting = next((_setting(r) for r in reports.values() if "extractor" in r), "")
        for name, report in reports.items():
            label = FLOOR if name == "floor" else name
            label = label if len(runs) == 1 else f"{run.name}: {label}"
            tables.setdefault(setting, {})[label] = report["summary"]
    if not tables:
        return None
    parts = [_quality_table(setting, rows) for setting, rows in tables.items()]
    if len(tables) > 1:
        parts.insert(0, blocks.text("Measured in different ways, or not known how: compare within a table."))
    return Section("Quality of samples", parts)


def _is_summarised(report: object) -> bool:
    return isinstance(report, Mapping) and isinstance(report.get("summary"), Mapping)


def _setting(report: Mapping[str, Any]) -> str:
    """What numbers must have in common to be compared."""
    images, name = report.get("images", "?"), str(report.get("extractor_fingerprint", "?"))[:6]
    of, labels = (report.get(key, "?") for key in ("reference", "labels"))
    return f"{shown(images)} images, labels {labels}, of {of}, {report['extractor']} features ({name})"


def _quality_table(setting: str, rows: Mapping[str, Mapping[str, Any]]) -> Markup:
    head = {key: name for key, name in _QUALITY.items() if any(key in of for of in rows.values())}
    cells = [
        [name, *(_spread(of.get(key), 1000 if key == "kid" else 1) for key in head)]
        for name, of in rows.items()
    ]
    notes = ["FID and KID: lower is better; precision, recall and what is said of prompts: higher."]
    if "copied" in head:
        notes.append(EXPLAINED)
    if any(name.endswith(FLOOR) for name in rows):
        notes.append("The floor is what a perfect generator would score, with as many images.")
    if any(NOTHING in row for row in cells):
        notes.append(f"{NOTHING}: not known, as the reference has statistics alone, or the run no prompts.")
    caption = "Mean over ranges of seeds ± their standard deviation (evaluate.py fid)"
    caption += f": {setting}" if setting else ""
    return blocks.table(["samples", *head.values()], cells, caption, notes)


def _spread(value: object, scale: float) -> str:
    """Mean ± standard deviation, to the second digit of the latter."""
    if not isinstance(value, Mapping) or value.get("mean") is None:
        return NOTHING
    std = value.get("std")
    mean, spread = with_half_width(scale * value["mean"], math.nan if std is None else scale * std)
    return f"{mean} ± {spread}" if spread else mean


def clip(run: RunFiles) -> Section | None:
    """CLIP scores of an object's views, or of pictures of a student and of what stands beside it."""
    head: list[str] = []
    rows: list[list[str]] = []
    notes = ["CLIP score: 100 · cosine of a picture and its prompt, 0 where that is negative."]
    for each in run.measured.get("clip", {}).get("runs", []):
        if "score" in each:
            matched = each.get("matched")
            share = NOTHING if matched is None else f"{matched:.0%}"
            rows.append([each["prompt"], interval(each["score"]), interval(each.get("true")), share])
            head = ["prompt", "CLIP score", "the true solid", "views matched"]
            if each.get("true"):
                notes.append(
                    "The true solid: one of that colour, by the same cameras. To score above it is no gain."
                )
        for name, scores in each.get("scores", {}).items():
            rows.append([name, *(interval({"value": e["mean"], **e}) for e in map(scores.get, _PICTURES))])
            head = ["pictures", "CLIP score", "prompts recognised"]
    if not rows:
        return None
    if any(NOTHING in row for row in rows):
        notes.append(
            f"{NOTHING}: the prompt names no pair of a colour and a solid, as “a red cube” does, so there is "
            "no true solid to score beside the object, and no other pairs that its views could match."
        )
    return Section("CLIP score", [blocks.table(head, rows, "By evaluate.py clip, 95 % intervals", notes)])


def retrained(of: ResultFiles) -> Section | None:
    """What the scores foretell of models that were trained anew without some of the samples."""
    rows = []
    if lds := of.measured.get("lds"):
        rows.append(["linear datamodeling score (correlation)", *_of_models(lds, "lds")])
    if remove := of.measured.get("remove"):
        rows.append(
            ["loss of a query without its most influential samples (%)", *_of_models(remove, "percent")]
        )
    if not rows:
        return None
    caption = "By evaluate.py lds and remove, 95 % intervals"
    return Section(RETRAINED, [blocks.table(["check", "value", "models"], rows, caption)])


def _of_models(a: Mapping[str, Any], key: str) -> list[str]:
    ends = a.get("low"), a.get("high")
    between = None not in ends
    value = shown(a[key]) + (f" [{shown(ends[0])}, {shown(ends[1])}]" if between else "")
    return [value, str(len(a.get("models", [])))]
