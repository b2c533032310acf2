"""What a page says of what evaluate.py measured of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from . import blocks
from .explorer import explorer
from .files import ResultFiles, RunFiles
from .page import Section
from .run_sections import shown


def quality(runs: Sequence[RunFiles]) -> Section | None:
    """FID, KID, precision and recall of a run's samples, its teacher's and the floor."""
    rows = []
    for run in runs:
        fid = run.measured.get("fid", {})
        for name, report in fid.items():
            if isinstance(report, Mapping) and isinstance(report.get("summary"), Mapping):
                label = name if len(runs) == 1 else f"{run.name}: {name}"
                rows.append([label, *(_spread(report["summary"].get(key)) for key in _QUALITY)])
    if not rows:
        return None
    caption = "Mean over ranges of seeds ± their standard deviation (evaluate.py fid)"
    return Section("Quality of samples", [blocks.table(["", *_QUALITY.values()], rows, caption)])


_QUALITY = {"fid": "FID", "kid": "KID", "precision": "precision", "recall": "recall", "clip": "CLIP score"}


def _spread(value: object) -> str:
    if not isinstance(value, Mapping) or value.get("mean") is None:
        return "–"
    spread = value.get("std")
    return shown(value["mean"]) + ("" if spread is None else f" ± {shown(spread)}")


def variance(run: RunFiles) -> Section | None:
    """Conclusions, every sampler at every K, and an explorer that begins at the run's own costs."""
    a = run.measured.get("variance")
    if not a:
        return None
    parts: list[Markup] = [blocks.text(line) for line in a.get("conclusions", [])]
    rows = [
        [f"{row['sampler']}, K = {row['draws']}", *(_interval(row[key]) for key in _VARIANCE)]
        for row in a.get("rows", [])
    ]
    if rows:
        head = ["sampler", *_VARIANCE.values()]
        parts.append(
            blocks.table(head, rows, "Variance of the gradient and what it is worth, 95 % intervals")
        )
    cost, budget = a.get("cost", {}), a.get("budget", {})
    between = _value(budget.get("between"))
    if cost.get("draw") and between is not None:
        within = _value(budget.get("within")) or 0.0
        ratio = max(within, 1e-9) / between if between > 0 else 100.0
        other = cost.get("other", 0.0) / cost["draw"]
        base = int(a["rows"][0]["upstream"]) if rows else 1
        parts.append(
            blocks.text("Where reuse pays: move the sliders. At first they stand where this run is.")
        )
        parts.append(explorer(cost["kappa"], ratio, other, base))
    return Section("Variance", parts)


_PICTURES = ("clip", "recognised")
RANKED = 5
"""Training samples of each query in the table, at most."""

_VARIANCE = {
    "total": "total",
    "within": "upstream fixed",
    "ecm": "effective compute of the gradient",
    "ecm_iteration": "of the iteration",
}


def _value(estimate: object) -> float | None:
    return estimate.get("value") if isinstance(estimate, Mapping) else None


def _interval(estimate: Any) -> str:
    value = _value(estimate)
    if value is None:
        return "–"
    low, high = estimate.get("interval", (value, value))
    return f"{shown(value)} [{shown(low)}, {shown(high)}]" if low < high else shown(value)


def clip(run: RunFiles) -> Section | None:
    """CLIP scores of an object's views, or of pictures of a student and of what stands beside it."""
    head: list[str] = []
    rows = []
    for each in run.measured.get("clip", {}).get("runs", []):
        if "score" in each:
            matched = each.get("matched")
            share = "–" if matched is None else f"{matched:.0%}"
            rows.append([each["prompt"], _interval(each["score"]), _interval(each.get("true")), share])
            head = ["prompt", "CLIP score", "the true solid", "views matched"]
        for name, scores in each.get("scores", {}).items():
            rows.append([name, *(_interval({"value": e["mean"], **e}) for e in map(scores.get, _PICTURES))])
            head = ["pictures", "CLIP score", "prompts recognised"]
    if not rows:
        return None
    return Section("CLIP score", [blocks.table(head, rows, "By evaluate.py clip, 95 % intervals")])


def influence(of: ResultFiles) -> Section | None:
    """The ranked training samples: pictures, film, scores, and how far the ranking is known."""
    a = of.measured.get("influence")
    if not a:
        return None
    score = str(a.get("score") or a.get("about", {}).get("score") or "cosine")
    parts: list[Markup] = [blocks.text(line) for line in a.get("conclusions", [])[-1:]]
    png = of.bytes_of("influence", f"{score}.png")
    if png is not None:
        parts.append(
            blocks.image(png, "Each query beside its most influential training samples, with scores")
        )
    film = of.bytes_of("influence", f"{score}.mp4")
    if film is not None:
        parts.append(blocks.video(film, "The same in motion"))
    if png is None and film is None:
        parts.append(blocks.missing("The pictures of evaluate.py influence are not there any more."))
    rows = [
        [query["query"], f"{rank}.", f"{each['name']} ({each['about']})", _half_width(each)]
        for query in a.get("queries", [])
        for rank, each in enumerate(query["top"][:RANKED], 1)
    ]
    if rows:
        head = ["query", "rank", "training sample", "score"]
        parts.append(blocks.table(head, rows, f"{score}, ± half of the 95 % interval over the draws"))
    draws = of.bytes_of("influence", f"{score}_draws.png")
    if draws is not None:
        parts.append(blocks.image(draws, "Agreement of rankings over the draws of each sample"))
    parts += [blocks.text(line) for line in a.get("conclusions", [])[:-1]]
    return Section("Influence", parts)


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
    return Section("What the scores foretell", [blocks.table(["", "value", "models"], rows, caption)])


def _of_models(a: Mapping[str, Any], key: str) -> list[str]:
    ends = a.get("low"), a.get("high")
    between = None not in ends
    value = shown(a[key]) + (f" [{shown(ends[0])}, {shown(ends[1])}]" if between else "")
    return [value, str(len(a.get("models", [])))]


def _half_width(each: Mapping[str, Any]) -> str:
    half = each.get("half_width")
    return shown(each["score"]) + (f" ± {shown(half)}" if half is not None else "")
