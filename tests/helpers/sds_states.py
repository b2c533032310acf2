"""Variances of a text-to-3D gradient, made up to known answers."""

from __future__ import annotations

import random

import pandas as pd

from carv_distill.variance import Estimate, mean_estimate
from studies.sds_frontier.prices import Prices
from studies.sds_frontier.states import CAMERAS, DRAWS, RENDERS
from studies.sds_frontier.worth import ARMS

BETWEEN, WITHIN = 1.0, 4.0
LEFT = dict(zip(ARMS, (1.0, 0.8, 0.7, 0.5, 0.6, 0.75, 0.2), strict=True))
"""Share of the variance within renders that each arm leaves."""
PRICES = Prices(3.0, 3.0, 0.1, {f"{r},{k}": float(r * (3 + k)) for r in (1, 2, 4) for k in (1, 2, 4, 8, 16)})


def made_up_state(step: int, seed: int) -> pd.DataFrame:
    """V = V_B/R (halved by Sobol cameras) + left · V_W/(R K), in terms that scatter by a tenth."""

    def terms(value: float, key: str, count: int = 19) -> Estimate:
        rng = random.Random(f"{seed} {key}")
        scatter = [rng.gauss(0, 0.1) for _ in range(count)]
        return mean_estimate([value * (1 + s - sum(scatter) / count) for s in scatter], positive=True)

    def row(arm: str, r: int, k: int, cameras: str = "iid") -> dict[str, object]:
        between = BETWEEN / r * (0.5 if cameras == "sobol" else 1)
        within = LEFT[arm.split(",")[0]] * WITHIN / (r * k)
        place = {"prompt": "a red ball", "step": step, "arm": arm, "cameras": cameras, "R": r, "K": k}
        return place | {
            "total": terms(between + within, cameras),
            "within": terms(within, cameras, 20),
            "between": terms(between, cameras),
        }

    rows = [row(arm, 2, k) for arm in ARMS for k in DRAWS]
    rows.append(row("uniform, learned c", 2, 1))
    for cameras in CAMERAS:
        rows += [row("best", r, 4, cameras) for r in RENDERS]
    rows += [row("best", RENDERS[-1], k, "sobol") for k in (1, 2, 8)]
    return pd.DataFrame(rows)


STATES = pd.concat([made_up_state(25, 0), made_up_state(400, 1)], ignore_index=True)
