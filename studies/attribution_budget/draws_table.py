"""Tables of the draws that both models need, and what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence

from carv_distill.variance import Estimate, mean_estimate, scaled
from studies.attribution_budget.arms import ARMS, BUDGETS, MODELS
from studies.attribution_budget.draws import RANKED, Measured, correlations, ecm_over_iid, variances
from studies.sentences import estimate, sentence
from studies.study import Row, columns

PAPER_ECM = {4: 2.44, 64: 3.82}
"""Of stratified over iid draws on video latents, arXiv 2605.21489, table 4."""
HOPED_FOR = {"digits": 1.5, "latents": 2.0}
"""ECM that the best arm should reach at every budget from 4 to 64."""


def variance_rows(measured: Measured) -> list[Row]:
    """Variance and ECM over iid of every model, arm and K."""
    rows = []
    for model in MODELS:
        replicates = measured[model]["variance"]
        own = variances(replicates)
        gains = ecm_over_iid(own)
        for arm in ARMS:
            for k in BUDGETS:
                row: Row = {"model": model, "arm": arm, "K": k, **columns("variance", own[arm, k])}
                if arm == "fixed grid":
                    row |= columns("squared_bias", mean_estimate([r["bias", k] for r in replicates]))
                if arm != "iid":
                    row |= columns("ecm", gains[arm, k])
                rows.append(row)
    return rows


def ranking_rows(measured: Measured) -> list[Row]:
    """Rank correlation with the reference of every model, arm and K."""
    return [
        {"model": model, "arm": arm, "K": k, **columns("correlation", e)}
        for model in MODELS
        for arm in RANKED
        for k, e in correlations(measured[model]["ranking"][arm], measured[model]["reference"]).items()
    ]


def level_rows(measured: Measured) -> list[Row]:
    """Gradient norm and noise by bin of u."""
    rows = []
    for model in MODELS:
        _, profile = measured[model]["levels"]
        of_bins = (profile.second_moment, profile.second_moment_se, profile.noise_variance)
        for b, (square, se, noise) in enumerate(zip(*(values.tolist() for values in of_bins), strict=True)):
            norm = math.sqrt(square)
            row = {"model": model, "u": (b + 0.5) / len(profile.second_moment), "norm": norm}
            rows.append({**row, "norm_se": se / (2 * norm), "noise_deviation": math.sqrt(noise)})
    return rows


def budget_rows(measured: Measured) -> list[Row]:
    """Parts of a single draw's variance with the sample held fixed."""
    rows = []
    for model in MODELS:
        budget, _ = measured[model]["levels"]
        row: Row = {"model": model}
        for name, e in (
            ("level", budget.within_level),
            ("noise", budget.within_noise),
            ("between", budget.between),
        ):
            row |= columns(name, e)
        rows.append(row | {"level_over_noise": row["level"] / row["noise"]})
    return rows


def verdict(variance: Sequence[Row], ranking: Sequence[Row], budgets: Sequence[Row]) -> list[str]:
    """What variances and rankings say."""
    by_place = {(r["model"], r["arm"], r["K"]): r for r in variance}

    def ecm(model: str, arm: str, draws: Sequence[int]) -> dict[str, Estimate]:
        return {f"K = {k}": estimate(by_place[model, arm, k], "ecm") for k in draws}

    sentences = []
    for row in budgets:
        model, wanted = row["model"], HOPED_FOR[row["model"]]
        sentences.append(f"{model}: levels make {row['level_over_noise']:.2f} times the variance of noises.")
        paper = f"(paper, on video latents: {PAPER_ECM[4]} and {PAPER_ECM[64]})"
        sentences.append(sentence(f"{model}, ECM of strata {paper}", ecm(model, "Strat", (4, 64))))
        best = ecm(model, "best", [k for k in BUDGETS if k >= 4])
        sentences.append(
            sentence(f"{model}, ECM of best", best, wanted, f"below {wanted}", f"above {wanted}")
        )
        of_arm = {arm: [r for r in ranking if (r["model"], r["arm"]) == (model, arm)] for arm in RANKED}
        at_4 = {arm: estimate(r, "correlation") for arm in RANKED for r in of_arm[arm] if r["K"] == 4}
        sentences.append(sentence(f"{model}, rank correlation with the reference at K = 4", at_4))
        enough = {arm: [r["K"] for r in of_arm[arm] if r["correlation"] >= 0.95] for arm in RANKED}
        first = "; ".join(f"{arm} {ks[0] if ks else 'none of the budgets'}" for arm, ks in enough.items())
        sentences.append(f"{model}, K from which it is 0.95: {first}.")
        grid = [by_place[model, "fixed grid", k] for k in (1, 4, 64)]
        bias = {f"K = {r['K']}": scaled(estimate(r, "squared_bias"), 1 / r["variance"]) for r in grid}
        by_error = ecm(model, "fixed grid", (1, 4, 64))
        sentences.append(sentence(f"{model}, ECM of a fixed grid, by squared error", by_error))
        sentences.append(sentence(f"{model}, share of the bias in that error", bias))
    return sentences
