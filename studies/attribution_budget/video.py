"""A text-to-video teacher's gradients: what strata, importance and pairs are worth at every K, under the four
losses of a clip, plain or weighed by motion, raw or each draw's gradient divided by its norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from carv_distill.attribution.backward import BackwardGradients
from carv_distill.attribution.batch import SampleBatch
from carv_distill.attribution.loss import SampleLoss
from carv_distill.attribution.models import AttributedModel
from carv_distill.attribution.options import ModelOptions
from carv_distill.attribution.projection import SumWithNorm, build_projector
from carv_distill.attribution.prompted import prompted_model
from carv_distill.carv import stream
from carv_distill.data.clips.options import ClipOptions
from carv_distill.data.stored import spread
from carv_distill.variance import Estimate
from studies.attribution_budget.strata import Moments, averaged, gains, variances
from studies.cached import Compute
from studies.sentences import estimate, sentence
from studies.study import Row, columns

TEACHER = "checkpoints/clips-teacher"
WEIGHTS = {"plain": "none", "motion": "flow"}
NORMS = ("raw", "normalised")
MOTIVE = ("motion", "normalised")
PAPER = {4: 2.44, 64: 3.82}
"""ECM of strata over iid draws on Wan2.1, arXiv 2605.21489, table 4."""
PROJECTED = 8192
"""Numbers of a sketch: an inner product of two unit gradients is off by 1.1 %, without bias."""

FULL = SimpleNamespace(clips=24, strata=64)
QUICK = SimpleNamespace(clips=3, strata=8)
Setting = tuple[str, str]
"""Weights and norms."""
Pair = tuple[Moments, Moments]
"""Of draws, and of pairs of opposite noises."""


@cache
def model_of(teacher: str, size: tuple[int, int, int], weights: str) -> AttributedModel:
    """The teacher with its training clips; once per process."""
    options = ModelOptions(motion=WEIGHTS[weights], workers=0)
    return prompted_model(teacher, ClipOptions(size=size), "cpu", options)


def moments(
    teacher: str, size: tuple[int, int, int], weights: str, number: int, seed: int, strata: int
) -> dict[str, Pair]:
    """Of one training clip, by norms: two draws in each stratum of u, uniform there, each with its noise and
    the opposite one."""
    model = model_of(teacher, size, weights)
    clip = model.training.batch(torch.tensor([number]))
    g = stream(seed, "video", "strata", number)
    u = (torch.arange(strata)[:, None] + torch.rand(strata, 2, generator=g)) / strata
    eps = torch.randn(strata, 2, *model.training.shape, generator=g)
    plus, minus = (_gradients(model, clip, u.flatten(), sign * eps.flatten(0, 1)) for sign in (1, -1))
    found = {}
    for norms in NORMS:
        a, b = (_scaled(t, norms).view(strata, 2, -1) for t in (plus, minus))
        found[norms] = (Moments.of(a), Moments.of((a + b) / 2))
    return found


def _gradients(model: AttributedModel, clip: SampleBatch, u: Tensor, eps: Tensor) -> Tensor:
    """Of single draws, [n, m + 1], the last their norms."""
    gradients = BackwardGradients(SampleLoss(model.denoiser, model.schedule))
    projector, layout = build_projector("countsketch", PROJECTED, 0), gradients.loss.layout
    many = clip[torch.zeros(len(u), dtype=torch.long)]
    return gradients.of_draws(many, u, eps, lambda rows: SumWithNorm(projector.begin(layout, rows)))


def _scaled(features: Tensor, norms: str) -> Tensor:
    return features[:, :-1] / features[:, -1:] if norms == "normalised" else features[:, :-1]


def measure(
    compute: Compute, o: SimpleNamespace, teacher: str, size: tuple[int, int, int], seed: int
) -> dict[Setting, list[Pair]]:
    """Moments of every clip in every setting."""
    numbers = spread(len(model_of(teacher, size, "motion").training), o.clips)
    calls = {
        weights: [partial(moments, teacher, size, weights, n, seed, o.strata) for n in numbers]
        for weights in WEIGHTS
    }
    results = compute(calls)
    return {
        (weights, norms): [clip[norms] for clip in results[weights]]
        for weights, norms in product(WEIGHTS, NORMS)
    }


def gains_of(clips: Sequence[Pair]) -> dict[tuple[str, int], Estimate]:
    """ECM of every arm and K over the clips; each clip's proposals are made of the others."""
    measured = []
    for i, (single, pair) in enumerate(clips):
        others = [c for j, c in enumerate(clips) if j != i]
        pilot = averaged([c[0] for c in others]), averaged([c[1] for c in others])
        measured.append(variances(single, pair, pilot))
    return gains(measured)


def level_over_noise(clips: Sequence[Pair]) -> float:
    """V_level/V_noise of a single draw, means over the clips."""
    return sum(c.level for c, _ in clips) / sum(c.noise for c, _ in clips)


def rows_of(measured: Mapping[Setting, Sequence[Pair]], dimension: int) -> list[Row]:
    """A row for each setting, arm and K."""
    table: list[Row] = []
    for (weights, norms), clips in measured.items():
        about: Row = {
            "dimension": dimension, "weights": weights, "norms": norms, "clips": len(clips),
            "level_over_noise": level_over_noise(clips),
        }  # fmt: skip
        table += [about | {"arm": arm, "K": k} | columns("ecm", e) for (arm, k), e in gains_of(clips).items()]
    return table


def profile_rows(measured: Mapping[Setting, Sequence[Pair]], dimension: int) -> list[Row]:
    """Second moment of a draw, and of its mean at the level, over the levels; of mean 1 in each setting."""
    table: list[Row] = []
    for (weights, norms), clips in measured.items():
        mean = averaged([c for c, _ in clips])
        scale = float(mean.square.mean())
        for s, (square, level) in enumerate(zip(mean.square, mean.inner.diagonal(), strict=True)):
            table.append(
                {
                    "dimension": dimension, "weights": weights, "norms": norms,
                    "u": (s + 0.5) / len(mean.square),
                    "square": float(square) / scale, "of_mean": float(level) / scale,
                }
            )  # fmt: skip
    return table


def verdict(rows: Sequence[Row]) -> list[str]:
    """V_level/V_noise of each setting; ECM of strata and of the best arm in MOTIVE's."""
    settings: dict[str, Any] = {
        f"{r['weights']}, {r['norms']}": r["level_over_noise"] for r in rows if r["K"] == rows[0]["K"]
    }
    said = ["V_level/V_noise: " + "; ".join(f"{name} {value:.2f}" for name, value in settings.items())]
    motive = [r for r in rows if (r["weights"], r["norms"]) == MOTIVE]
    for k, paper in PAPER.items():
        arms = {r["arm"]: estimate(r, "ecm") for r in motive if r["K"] == k}
        what = f"ECM over iid draws at K = {k}, weighed by motion and normalised (paper, of strata: {paper})"
        said.append(sentence(what, arms, paper, "below", "as much"))
    return said
