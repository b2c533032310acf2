"""A text-to-video teacher's gradients: what strata, importance and pairs are worth at every K, for the loss
of a clip plain or weighed by motion, for gradients raw or each draw's divided by its norm, by all parameters
or attention's alone, and for several laws of the level."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache, partial
from itertools import product
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from carv_distill.attribution.gradients.backward import BackwardGradients
from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.parameters import matching
from carv_distill.attribution.gradients.projection import Sum, SumWithNorm, build_projector
from carv_distill.attribution.models.attributed import AttributedModel
from carv_distill.attribution.models.prompted import prompted_model
from carv_distill.attribution.options import ModelOptions
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import stream
from carv_distill.data.clips.options import ClipOptions
from carv_distill.data.stored import spread
from carv_distill.teachers.schedule import NoiseSchedule
from carv_distill.variance import Estimate, mean_estimate, paired_ratio
from studies.attribution_budget.strata import Moments, averaged, gains, refined, variances
from studies.cached import Compute
from studies.sentences import estimate, sentence, show
from studies.study import Row, columns

SIZE = (17, 128, 128)
"""Frames, height and width that are measured; it was trained at 80 pixels."""
WEIGHTS = {"plain": "none", "motion": "flow"}
NORMS = ("raw", "normalised")
PARAMETERS = ("all", "attention")
TRAINED, DECIDING = "as trained", "t uniform"
"""Laws of the level: the model's own, and the one by which MOTIVE and the paper measure."""
PAPER = {4: 2.44, 64: 3.82}
"""ECM of strata over iid draws on Wan2.1, arXiv 2605.21489, table 4."""
LEAST = {4: 2.0, 64: 3.0}
"""Lower ends that strata's intervals are to have."""
LEVELS = 1000
"""Of the flow."""
GATE = 2.8
"""V_level/V_noise from which a model lies in the paper's regime."""
PROJECTED = 8192
"""Numbers of a sketch: an inner product of two unit gradients is off by 1.1 %, without bias."""

FULL = SimpleNamespace(clips={"motion": 24, "plain": 8}, strata=64)
QUICK = SimpleNamespace(clips={"motion": 4, "plain": 2}, strata=4)


class Setting(NamedTuple):
    """Whose gradients."""

    weights: str
    norms: str
    parameters: str


MOTIVE = Setting("motion", "normalised", "all")
Pair = tuple[Moments, Moments]
"""Of draws, and of pairs of opposite noises."""


@cache
def model_of(teacher: str, size: tuple[int, int, int], weights: str) -> AttributedModel:
    """The teacher with its training clips; once per process."""
    options = ModelOptions(motion=WEIGHTS[weights], workers=0)
    return prompted_model(teacher, ClipOptions(size=size), "cpu", options)


def moments(
    teacher: str, size: tuple[int, int, int], weights: str, number: int, seed: int, strata: int
) -> dict[tuple[str, str], Pair]:
    """Of one training clip, by norms and parameters: two draws in each stratum of u, uniform there, each with
    its noise and the opposite one."""
    model = model_of(teacher, size, weights)
    clip = model.training.batch(torch.tensor([number]))
    g = stream(seed, "video", "strata", number)
    u = (torch.arange(strata)[:, None] + torch.rand(strata, 2, generator=g)) / strata
    eps = torch.randn(strata, 2, *model.training.shape, generator=g)
    plus, minus = (gradients_of(model, clip, u.flatten(), sign * eps.flatten(0, 1)) for sign in (1, -1))
    found = {}
    for norms, parameters in product(NORMS, PARAMETERS):
        a, b = (_features(t, norms, parameters).view(strata, 2, -1) for t in (plus, minus))
        found[norms, parameters] = (Moments.of(a), Moments.of((a + b) / 2))
    return found


def gradients_of(model: AttributedModel, clip: SampleBatch, u: Tensor, eps: Tensor) -> Tensor:
    """Of single draws of one clip: a sketch of what is not attention's with its norm, and the same of what
    is, [n, 2 (m + 1)]."""
    gradients = BackwardGradients(SampleLoss(model.denoiser, model.schedule))
    projector, layout = build_projector("countsketch", PROJECTED, 0), gradients.loss.layout
    attention = set(matching([*layout.sizes], ["attention"]))
    many = clip[torch.zeros(len(u), dtype=torch.long)]

    def begin(rows: int) -> _Parts:
        return _Parts(projector.begin(layout, rows), projector.begin(layout, rows), attention)

    return gradients.of_draws(many, u, eps, begin)


def feature_rows(model: AttributedModel, clip: SampleBatch, u: Tensor, eps: Tensor) -> Tensor:
    """Of single draws of one clip, by all parameters, each divided by its norm, [n, m]."""
    return _features(gradients_of(model, clip, u, eps), "normalised", "all")


class _Parts:
    """Sketches with their norms of attention's parameters and of the others."""

    def __init__(self, others: Sum, attention: Sum, names: Collection[str]) -> None:
        self._parts, self._names = (SumWithNorm(others), SumWithNorm(attention)), names

    def add(self, name: str, gradient: Tensor) -> None:
        self._parts[name in self._names].add(name, gradient)

    def features(self) -> Tensor:
        return torch.cat([part.features() for part in self._parts], 1)


def _features(parts: Tensor, norms: str, parameters: str) -> Tensor:
    others, attention = parts.chunk(2, 1)
    sketch, norm = attention[:, :-1], attention[:, -1:]
    if parameters == "all":
        sketch, norm = sketch + others[:, :-1], torch.hypot(norm, others[:, -1:])
    return sketch / norm if norms == "normalised" else sketch


Laws = Mapping[str, Tensor | None]


def laws_of(schedule: NoiseSchedule, strata: int) -> Laws:
    """Laws of a flow's level t as densities over the model's own u, [S] with mean 1, or None for u itself,
    uniform.

    DECIDING: t itself uniform; logit-normal: u = sigmoid of a normal number, as SD3 trains.
    """
    edges = torch.linspace(0, 1, strata + 1, dtype=torch.float64)
    masses = {DECIDING: _t(schedule, edges), "logit-normal": torch.special.ndtr(torch.logit(edges))}
    return {TRAINED: None} | {
        name: strata * mass.diff() / (mass[-1] - mass[0]) for name, mass in masses.items()
    }


def _t(schedule: NoiseSchedule, u: Tensor) -> Tensor:
    """t = σ/(1 + σ) at u, a line between the flow's levels."""
    ends = np.arange(LEVELS + 1) / LEVELS
    levels = 1 / (1 + 1 / schedule.sigma(torch.from_numpy(ends[:-1] + 0.5 / LEVELS)))
    return torch.from_numpy(np.interp(u, ends, [0.0, *levels.tolist()]))


def measure(
    compute: Compute, o: SimpleNamespace, teacher: str, size: tuple[int, int, int], seed: int
) -> dict[Setting, list[Pair]]:
    """Moments of every clip in every setting; fewer clips are some of the more ones."""
    most = max(o.clips.values())
    numbers = spread(len(model_of(teacher, size, "motion").training), most)
    calls = {
        weights: [partial(moments, teacher, size, weights, n, seed, o.strata) for n in numbers[:: most // c]]
        for weights, c in o.clips.items()
    }
    results = compute(calls)
    return {
        Setting(weights, norms, parameters): [clip[norms, parameters] for clip in results[weights]]
        for weights, norms, parameters in product(WEIGHTS, NORMS, PARAMETERS)
    }


def gains_of(clips: Sequence[Pair], law: Tensor | None = None) -> dict[tuple[str, int], Estimate]:
    """ECM of every arm and K over the clips; each clip's proposals are made of the others."""
    measured = []
    for i, (single, pair) in enumerate(clips):
        others = [c for j, c in enumerate(clips) if j != i]
        pilot = averaged([c[0] for c in others]), averaged([c[1] for c in others])
        measured.append(variances(single, pair, pilot, law))
    return gains(measured)


def refined_clips(clips: Sequence[Pair]) -> list[Pair]:
    """All moments interpolated within their strata."""
    return [(refined(single), refined(pair)) for single, pair in clips]


def level_over_noise(clips: Sequence[Pair], law: Tensor | None = None) -> Estimate:
    """V_level/V_noise of a single draw: ratio of means over the clips, with an interval over them."""
    level, noise = (
        mean_estimate([part(c, law) for c, _ in clips]) for part in (Moments.level, Moments.noise)
    )
    return paired_ratio(level, noise)


def rows_of(measured: Mapping[Setting, Sequence[Pair]], laws: Laws, finer: Laws, dimension: int) -> list[Row]:
    """A row for each setting, law, arm and K; `ecm_refined` by interpolated moments and the finer laws."""
    table: list[Row] = []
    for setting, clips in measured.items():
        fine = refined_clips(clips)
        for law, density in laws.items():
            about: Row = {"dimension": dimension, **setting._asdict(), "law": law, "clips": len(clips)}
            about |= columns("level_over_noise", level_over_noise(clips, density))
            within = gains_of(fine, finer[law])
            for (arm, k), e in gains_of(clips, density).items():
                row = about | {"arm": arm, "K": k} | columns("ecm", e)
                table.append(row | columns("ecm_refined", within[arm, k]))
    return table


def profile_rows(measured: Mapping[Setting, Sequence[Pair]], dimension: int) -> list[Row]:
    """Second moment of a draw, and of its mean at the level, over the levels; of mean 1 in each setting."""
    table: list[Row] = []
    for setting, clips in measured.items():
        mean = averaged([c for c, _ in clips])
        scale = float(mean.square.mean())
        for s, (square, level) in enumerate(zip(mean.square, mean.inner.diagonal(), strict=True)):
            about: Row = {"dimension": dimension, **setting._asdict(), "u": (s + 0.5) / len(mean.square)}
            table.append(about | {"square": float(square) / scale, "of_mean": float(level) / scale})
    return table


def chosen_arm(clips: Sequence[Pair], law: Tensor | None = None) -> tuple[str, dict[int, Estimate]]:
    """The arm beside strata whose ECM on the even clips is the most times the paper's at every K of it, and
    its ECM on the odd ones."""
    first = gains_of(clips[::2], law)
    arms = {arm for arm, _ in first if arm not in ("Strat", "fixed grid", "systematic")}
    best = max(sorted(arms), key=lambda arm: min(first[arm, k].value / paper for k, paper in PAPER.items()))
    second = gains_of(clips[1::2], law)
    return best, {k: second[best, k] for k in PAPER}


def verdict(rows: Sequence[Row], measured: Mapping[Setting, Sequence[Pair]], laws: Laws) -> list[str]:
    """Under the deciding law V_level/V_noise of each setting and the gate; in MOTIVE's the ECM of every arm,
    what the design asks of strata, and the arm that was chosen on half of the clips."""
    mine = [r for r in rows if r["law"] == DECIDING]
    settings = {
        Setting(r["weights"], r["norms"], r["parameters"]): estimate(r, "level_over_noise")
        for r in mine
        if (r["arm"], r["K"]) == ("Strat", 4)
    }
    named = {", ".join(setting): e for setting, e in settings.items()}
    said = [sentence(f"V_level/V_noise, {DECIDING}", named)]
    gate = settings[MOTIVE]
    said.append(f"Gate, {', '.join(MOTIVE)}: {show(gate)}, {_met(gate.value >= GATE)} (at least {GATE}).")
    motive = [r for r in mine if Setting(r["weights"], r["norms"], r["parameters"]) == MOTIVE]
    for k, paper in PAPER.items():
        arms = {r["arm"]: r for r in motive if r["K"] == k}
        what = f"ECM over iid draws at K = {k}, weighed by motion and normalised"
        said.append(sentence(what, {arm: estimate(r, "ecm") for arm, r in arms.items()}))
        strata = estimate(arms["Strat"], "ecm")
        met = _met(strata.value >= paper and strata.low >= LEAST[k])
        said.append(
            f"Strata at K = {k}: {show(strata)}, {met} (at least the paper's {paper}, lower end {LEAST[k]}); "
            f"with levels interpolated within fine strata {show(estimate(arms['Strat'], 'ecm_refined'))}."
        )
    arm, found = chosen_arm(measured[MOTIVE], laws[DECIDING])
    for k, e in found.items():
        what = f"K = {k}, the arm that was chosen on the other half of the clips"
        said.append(sentence(what, {arm: e}, PAPER[k], "below the paper's", "above the paper's"))
    return said


def _met(is_so: bool) -> str:
    return "met" if is_so else "not met"
