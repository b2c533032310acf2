"""The study's numbers: rows for its files, and what they say in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from carv_distill.variance import mean_estimate
from studies.attribution_budget import dimension, retraining
from studies.attribution_budget.arms import ARMS, BUDGETS
from studies.attribution_budget.models import MODELS
from studies.attribution_budget.ranking import RANKED, correlations
from studies.attribution_budget.variance import ecm_over_iid, variances
from studies.claims import show, show_column
from studies.results import columns

Row = dict[str, Any]
PAPER_ECM = {4: 2.44, 64: 3.82}
"""Of stratified over iid draws on video latents, arXiv 2605.21489, table 4."""
TARGETS = {"digits": 1.5, "latents": 2.0}
"""ECM that the best arm should reach at every budget from 4 to 64."""


def variance_rows(found: Mapping[str, Any]) -> list[Row]:
    """Variance and ECM over iid of every model, arm and K."""
    rows = []
    for model in MODELS:
        measured = variances(found["variance"][model])
        gains = ecm_over_iid(measured)
        for arm in ARMS:
            for k in BUDGETS:
                row: Row = {"model": model, "arm": arm, "K": k, **columns("variance", measured[arm, k])}
                if arm == "fixed grid":
                    terms = [r[f"bias {k}"] for r in found["variance"][model]]
                    row |= columns("squared_bias", mean_estimate(terms))
                if arm != "iid":
                    row |= columns("ecm", gains[arm, k])
                rows.append(row)
    return rows


def ranking_rows(found: Mapping[str, Any]) -> list[Row]:
    """Rank correlation with the reference of every model, arm and K."""
    rows = []
    for model in MODELS:
        truth = found["reference"][model]["scores"]
        for arm in RANKED:
            for k, e in correlations(found["ranking"][model][arm], truth).items():
                rows.append({"model": model, "arm": arm, "K": k, **columns("correlation", e)})
    return rows


def level_rows(found: Mapping[str, Any]) -> list[Row]:
    """Gradient norm and noise by bin of u."""
    rows = []
    for model in MODELS:
        levels = found["levels"][model]
        second = levels["second_moment"]
        for b, (square, se, noise) in enumerate(
            zip(second, levels["second_moment_se"], levels["noise_variance"], strict=True)
        ):
            norm = math.sqrt(square)
            rows.append(
                {
                    "model": model,
                    "u": (b + 0.5) / len(second),
                    "norm": norm,
                    "norm_se": se / (2 * norm),
                    "noise_deviation": math.sqrt(noise),
                }
            )
    return rows


def budget_rows(found: Mapping[str, Any]) -> list[Row]:
    """Parts of a single draw's variance with the sample held fixed."""
    rows = []
    for model in MODELS:
        levels = found["levels"][model]
        row: Row = {"model": model}
        for name, short in (("within_level", "level"), ("within_noise", "noise"), ("between", "between")):
            value, low, high = levels[name]
            row |= {short: value, f"{short}_low": low, f"{short}_high": high}
        rows.append(row | {"level_over_noise": row["level"] / row["noise"]})
    return rows


def dimension_rows(found: Mapping[int, Mapping[str, Any]]) -> list[Row]:
    """V_level/V_noise and ECM of strata and of pairs by size of the mosaic."""
    rows = []
    for size, content in found.items():
        gains = dimension.gains(content["replicates"])
        level, noise = content["budget"]["level"][0], content["budget"]["noise"][0]
        row: Row = {
            "size": size,
            "dimension": size**2,
            "level_over_noise": level / noise,
            "replicates": len(content["replicates"]),
        }
        for (name, k), e in gains.items():
            row |= columns(f"{name}_{k}", e)
        rows.append(row)
    return rows


def retraining_rows(found: Mapping[str, Any]) -> list[Row]:
    """Linear datamodeling score of every sampler, budget and kind of score, and its difference from that of
    as many iid draws; intervals over the halves."""
    losses = torch.tensor(found["halves"], dtype=torch.float64)
    rows = []
    for arm, budgets in found["scores"].items():
        for k, content in budgets.items():
            for kind in retraining.SCORES:
                predicted = torch.tensor(content[kind], dtype=torch.float64)
                iid = torch.tensor(found["scores"]["iid"][k][kind], dtype=torch.float64)
                row: Row = {"arm": arm, "K": int(k), "score": kind}
                row |= columns("lds", retraining.lds_over_halves(predicted, losses))
                if arm != "iid":
                    row |= columns("over_iid", retraining.lds_over_halves(predicted, losses, iid))
                rows.append(row)
    return rows


def removal_rows(found: Mapping[str, Any]) -> list[Row]:
    """How much more a query's loss is, in percent, without its most influential digits than without random
    ones, of any class or of its own; one row each and query, then their means."""
    queries = list(found["top"])[: len(found["class_removed"])]
    seeds = range(len(found["random_removed"][0]))
    rows: list[Row] = []
    for against in ("random", "class"):
        gains = []
        for q in range(len(queries)):
            for s in seeds:
                if against == "random":
                    base = statistics.fmean(sets[s][q] for sets in found["random_removed"].values())
                else:
                    base = found["class_removed"][q][s][q]
                gains.append(100 * (found["top_removed"][q][s][q] / base - 1))
            mine = gains[-len(seeds) :]
            rows.append({"against": against, "query": q, "percent": statistics.fmean(mine)})
        per_query = [r["percent"] for r in rows if r["against"] == against]
        rows.append({"against": against, "query": None, **columns("percent", mean_estimate(per_query))})
    return rows


def draws_verdict(variance: Sequence[Row], ranking: Sequence[Row], budgets: Sequence[Row]) -> list[str]:
    """What variances and rankings say."""
    said = []
    for row in budgets:
        model = row["model"]

        def ecm(arm: str, k: int, model: str = model) -> Row:
            return next(r for r in variance if (r["model"], r["arm"], r["K"]) == (model, arm, k))

        strata = ", ".join(f"{show_column(ecm('Strat', k), 'ecm')} at {k}" for k in (4, 64))
        said.append(
            f"{model}: levels make {row['level_over_noise']:.2f} times the variance that noises make; strata "
            f"are worth {strata} draws (paper, on video latents: {PAPER_ECM[4]} and {PAPER_ECM[64]})."
        )
        best = [ecm("best", k) for k in BUDGETS if k >= 4]
        least = min(best, key=lambda r: r["ecm"])
        reached = all(r["ecm_low"] >= TARGETS[model] for r in best)
        met = "met with the whole interval" if reached else (
            "met by the value, not by the interval" if least["ecm"] >= TARGETS[model] else "missed"
        )  # fmt: skip
        values = ", ".join(f"{show_column(r, 'ecm')} at {r['K']}" for r in best)
        said.append(f"{model}: best is worth {values}; target {TARGETS[model]:g} from 4 to 64 {met}.")
        said.append(_needed(model, ranking))
        grid = ", ".join(_grid(ecm("fixed grid", k)) for k in (1, 4, 64))
        said.append(f"{model}: a fixed grid, by squared error with its bias: {grid}.")
    return said


def dimension_verdict(mosaics: Sequence[Row]) -> list[str]:
    """What the mosaics say."""
    said = []
    for k, paper in PAPER_ECM.items():
        above = [r[f"Strat_{k}_low"] >= paper for r in mosaics]
        first = next((i for i in range(len(above)) if all(above[i:])), None)
        where = "not reached" if first is None else f"from {mosaics[first]['dimension']:,} pixels on"
        last = mosaics[-1]
        said.append(
            f"On mosaics strata are worth {show_column(last, f'Strat_{k}')} at {k} draws and "
            f"{last['dimension']:,} pixels, {show_column(mosaics[0], f'Strat_{k}')} at "
            f"{mosaics[0]['dimension']}; the paper's {paper} (with its whole interval): {where}."
        )
    return said


def _grid(row: Row) -> str:
    """What a grid is worth, and the part of its squared error that is bias."""
    whole = row["variance"]
    share = show(*(row[f"squared_bias{end}"] / whole for end in ("", "_low", "_high")))
    return f"{show_column(row, 'ecm')} at {row['K']} (share of the bias {share})"


def _needed(model: str, ranking: Sequence[Row]) -> str:
    """Budgets at which each sampler's rankings agree with the reference to 0.95."""
    parts = []
    for arm in RANKED:
        mine = [r for r in ranking if (r["model"], r["arm"]) == (model, arm)]
        first = next((r for r in mine if r["correlation"] >= 0.95), None)
        at = next(r for r in mine if r["K"] == 4)
        reached = f"0.95 at {first['K']} draws" if first else "0.95 at none of the budgets"
        parts.append(f"{arm} {show_column(at, 'correlation')} at 4, {reached}")
    return f"{model}: rank correlation with the reference: {'; '.join(parts)}."


def retraining_verdict(rows: Sequence[Row], removal: Sequence[Row]) -> list[str]:
    """What the models trained anew say."""
    said = []
    for kind in retraining.SCORES:
        mine = [r for r in rows if r["score"] == kind]
        parts = [f"{r['arm']} {r['K']}: {show_column(r, 'lds')}" for r in mine]
        more = [f"{show_column(r, 'over_iid')} at {r['K']}" for r in mine if "over_iid" in r]
        said.append(
            f"Linear datamodeling score, {kind}: {', '.join(parts)}; best over iid: {', '.join(more)}."
        )
    for r in removal:
        if r["query"] is None:
            what = "random ones" if r["against"] == "random" else "random ones of its class"
            value = show(r["percent"], r["percent_low"], r["percent_high"])
            said.append(
                f"Without its most influential digits a query's loss is {value} percent higher than without "
                f"{what}."
            )
    return said
