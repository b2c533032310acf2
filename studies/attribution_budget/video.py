"""A text-to-video teacher's gradients: what strata, importance and pairs are worth at every K, for the loss
of a clip plain or weighed by motion, for gradients raw or each draw's divided by its norm, by all parameters
or attention's alone, and for several laws of the level."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache, partial
from itertools import product
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

from carv_distill.attribution.backward import BackwardGradients
from carv_distill.attribution.batch import SampleBatch
from carv_distill.attribution.loss import SampleLoss
from carv_distill.attribution.models import AttributedModel
from carv_distill.attribution.options import ModelOptions
from carv_distill.attribution.parameters import matching
from carv_distill.attribution.projection import Sum, SumWithNorm, build_projector
from carv_distill.attribution.prompted import prompted_model
from carv_distill.carv import stream
from carv_distill.data.clips.options import ClipOptions
from carv_distill.data.stored import spread
from carv_distill.teachers.schedule import NoiseSchedule
from carv_distill.variance import Estimate, mean_estimate, paired_ratio
from studies.attribution_budget.strata import Moments, averaged, gains, variances
from studies.cached import Compute
from studies.sentences import estimate, sentence
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
PROJECTED = 8192
"""Numbers of a sketch: an inner product of two unit gradients is off by 1.1 %, without bias."""

FULL = SimpleNamespace(clips={"motion": 24, "plain": 8}, strata=64)
QUICK = SimpleNamespace(clips={"motion": 3, "plain": 2}, strata=4)


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


def laws_of(schedule: NoiseSchedule, strata: int) -> dict[str, Tensor | None]:
    """Laws of a flow's level t as densities over the model's own u, [S] with mean 1, or None for u itself,
    uniform.

    DECIDING: t itself uniform; logit-normal: u = sigmoid of a normal number, as SD3 trains.
    """
    edges = torch.linspace(0, 1, strata + 1, dtype=torch.float64)
    masses = {
        DECIDING: 1 / (1 + 1 / schedule.sigma(edges)),
        "logit-normal": torch.special.ndtr(torch.logit(edges)),
    }
    return {TRAINED: None} | {
        name: strata * mass.diff() / (mass[-1] - mass[0]) for name, mass in masses.items()
    }


def measure(
    compute: Compute, o: SimpleNamespace, teacher: str, size: tuple[int, int, int], seed: int
) -> dict[Setting, list[Pair]]:
    """Moments of every clip in every setting."""
    count = len(model_of(teacher, size, "motion").training)
    calls = {
        weights: [partial(moments, teacher, size, weights, n, seed, o.strata) for n in spread(count, clips)]
        for weights, clips in o.clips.items()
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


def level_over_noise(clips: Sequence[Pair], law: Tensor | None = None) -> Estimate:
    """V_level/V_noise of a single draw: ratio of means over the clips, with an interval over them."""
    level, noise = (
        mean_estimate([part(c, law) for c, _ in clips]) for part in (Moments.level, Moments.noise)
    )
    return paired_ratio(level, noise)


def rows_of(
    measured: Mapping[Setting, Sequence[Pair]], laws: Mapping[str, Tensor | None], dimension: int
) -> list[Row]:
    """A row for each setting, law, arm and K."""
    table: list[Row] = []
    for (setting, clips), (law, density) in product(measured.items(), laws.items()):
        about: Row = {"dimension": dimension, **setting._asdict(), "law": law, "clips": len(clips)}
        about |= columns("level_over_noise", level_over_noise(clips, density))
        for (arm, k), e in gains_of(clips, density).items():
            table.append(about | {"arm": arm, "K": k} | columns("ecm", e))
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


def chosen_arm(clips: Sequence[Pair], k: int, law: Tensor | None = None) -> tuple[str, Estimate]:
    """The arm of greatest ECM at K on the even clips beside strata, and its ECM on the odd ones."""
    first = {arm: e.value for (arm, draws), e in gains_of(clips[::2], law).items() if draws == k}
    best = max((arm for arm in first if arm not in ("Strat", "fixed grid")), key=first.__getitem__)
    return best, gains_of(clips[1::2], law)[best, k]


def verdict(
    rows: Sequence[Row],
    measured: Mapping[Setting, Sequence[Pair]],
    laws: Mapping[str, Tensor | None],
) -> list[str]:
    """Under the deciding law: V_level/V_noise of each setting; ECM of every arm in MOTIVE's, and of the arm
    that was chosen on half of the clips."""
    mine = [r for r in rows if r["law"] == DECIDING]
    settings = {
        f"{r['weights']}, {r['norms']}, {r['parameters']}": estimate(r, "level_over_noise")
        for r in mine
        if (r["arm"], r["K"]) == ("Strat", 4)
    }
    said = [sentence(f"V_level/V_noise, {DECIDING}", settings)]
    motive = [r for r in mine if Setting(r["weights"], r["norms"], r["parameters"]) == MOTIVE]
    for k, paper in PAPER.items():
        arms = {r["arm"]: estimate(r, "ecm") for r in motive if r["K"] == k}
        what = f"ECM over iid draws at K = {k}, weighed by motion and normalised (paper, of strata: {paper})"
        said.append(sentence(what, arms, paper, "below", "as much"))
        arm, gain = chosen_arm(measured[MOTIVE], k, laws[DECIDING])
        said.append(
            sentence(f"K = {k}, chosen on the other half of the clips", {arm: gain}, paper, "below", "above")
        )
    return said
