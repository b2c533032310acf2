"""evaluate.py lds and remove: what scores of influence are worth, by models that were trained anew."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carv_distill.attribution.options import NAMED, InfluenceOptions
from carv_distill.errors import UserError, shown
from carv_distill.files import read_json
from carv_distill.options import at_least, option, seed_option

from .command import Command, CommonOptions, Measurement
from .influence import trained_model

if TYPE_CHECKING:
    from carv_distill.attribution.retrained.outcomes import Outcomes

LEAST = 4
"""Models of parts of the data for a correlation."""


@dataclass(frozen=True, kw_only=True)
class RetrainedOptions(CommonOptions):
    """What `evaluate.py lds` and `evaluate.py remove` are told."""

    influence: Path = option(metavar="FILE.json")
    """what evaluate.py influence wrote; its model, data, queries and scores are taken"""
    models: Path = option(metavar="FILE.jsonl")
    """a line for each model that was trained anew, as {"model": "runs/half-0/teacher", "with": [0, 2, 5]}, or
    "without"; numbers may stand in a file; of remove "query": 3, whose most influential ones are left out"""
    draws: int = at_least(1, 256)
    """noise levels and noises of a loss, the same for all models"""
    seed: int = seed_option(0)
    """of these draws"""
    chunk: int | None = at_least(1, None)
    """draws that go through a network at a time; default: found by trying"""


def _outcomes(o: RetrainedOptions, device: str) -> Outcomes:
    from carv_distill.attribution.retrained.outcomes import measure_outcomes

    content = read_json(o.influence)
    asked: Any = content.get("options")
    known = {spec.name for spec in fields(InfluenceOptions)}
    if not isinstance(asked, dict) or not asked.keys() <= known or "scores" not in content:
        raise UserError(
            f"--influence: {o.influence} is no result of evaluate.py influence, or of an older version: "
            f"its options are {shown(asked)}"
        )
    if "scores_digest" not in content:
        raise UserError(
            f"--influence: {o.influence} is of an older version and does not say which scores are its own; "
            "run evaluate.py influence again"
        )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in asked.items()}
    for name in ("teacher", "data", "queries", "cache"):
        if values.get(name) is not None:
            values[name] = _place(o.influence, values[name])
    if values.get("cache") is not None:
        values["cache"] = Path(values["cache"])
    options = InfluenceOptions(**values)
    runs = [Path(_place(o.influence, content["run"]))] if content.get("run") else []
    trained = trained_model(options, runs, None)
    scores, digest = Path(_place(o.influence, content["scores"])), content["scores_digest"]
    return measure_outcomes(trained, options, scores, digest, o.models, o.draws, o.seed, device, o.chunk)


def _place(influence: Path, written: str) -> str:
    """A path that a result holds, relative to the folder that its command was given in: from the nearest
    folder above the result where it leads somewhere, so that this command may be given in another; else as it
    is, which may be the name of a data set or of a model on the hub."""
    if written in NAMED:
        return written
    places = (folder / written for folder in influence.absolute().parents)
    return next((str(place) for place in places if place.exists()), written)


def _lds(o: RetrainedOptions, runs: list[Path], device: str) -> Measurement:
    from carv_distill.attribution.retrained.lds import lds_over

    found = _outcomes(o, device)
    if len(found.models) < LEAST:
        raise UserError(f"--models: {o.models} has {len(found.models)}; a correlation takes {LEAST} or more")
    score = lds_over([found.predicted], found.losses)
    said = (
        f"Linear datamodeling score of {found.score} over {len(found.models)} models and "
        f"{found.losses.shape[1]} queries: {score.value:.3f} [{score.low:.3f}, {score.high:.3f}] (95 %, over "
        "the models): Spearman's correlation of the summed scores of what a model saw with minus the "
        "query's loss."
    )
    return Measurement([said], _result(found, {"lds": score.value, "low": score.low, "high": score.high}))


def _remove(o: RetrainedOptions, runs: list[Path], device: str) -> Measurement:
    from carv_distill.attribution.retrained.lds import removal

    found = _outcomes(o, device)
    of_query = {
        q: [i for i, m in enumerate(found.models) if m.query == q] for q in range(found.losses.shape[1])
    }
    others = [i for i, m in enumerate(found.models) if m.query is None]
    asked = [q for q, own in of_query.items() if own]
    if not asked or not others:
        raise UserError(
            f'--models: {o.models} needs models without a query\'s most influential samples ("query": 0) '
            "and models without others, as random ones (without that key)"
        )
    top = [found.losses[of_query[q], q].tolist() for q in asked]
    rest = [found.losses[others, q].tolist() for q in asked]
    gain = removal(top, rest)
    interval = f" [{gain.low:.1f}, {gain.high:.1f}] (95 %, over the queries)" if len(asked) > 1 else ""
    said = (
        f"Without its most influential samples by {found.score} a query's loss changes by {gain.value:+.1f} %"
        f"{interval} against that without others; queries: {len(asked)}, models without others: "
        f"{len(others)}."
    )
    return Measurement([said], _result(found, {"percent": gain.value, "low": gain.low, "high": gain.high}))


def _result(found: Outcomes, numbers: dict[str, Any]) -> dict[str, Any]:
    models = [str(m.folder) for m in found.models]
    plain = {k: None if v != v else v for k, v in numbers.items()}
    return {"score": found.score, **plain, "models": models, "losses": found.losses.tolist()}


def _beside(o: RetrainedOptions) -> Path:
    return o.influence.parent


LDS = Command(
    "lds", "what scores predict of models of parts of the data", RetrainedOptions, _lds, place=_beside
)
REMOVE = Command(
    "remove",
    "how a query fares without its most influential samples",
    RetrainedOptions,
    _remove,
    place=_beside,
)
