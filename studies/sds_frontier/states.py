"""Variance of a text-to-3D gradient at checkpoints, under every sampler of draws and of cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.text_to_3d.options import SDSConfig
from carv_distill.variance import (
    Arm,
    CostModel,
    Estimate,
    MeasuredGradient,
    NoiseLevelProfile,
    NoiseParity,
    VarianceBudget,
    compare,
    measure_pairs,
    standard_arms,
)
from studies.cached import compute, once
from studies.gradient import load_gradient, load_timesteps
from studies.runs import TrainingRun, plain_name, train_all
from studies.sds_frontier.coefficient import with_learned_coefficient
from studies.sds_frontier.prices import Prices, measure_prices
from studies.sds_frontier.quality import ARMS, CONFIG, FIELD
from studies.study import Row

DEFENSIVE = 0.1
DRAWS = (1, 2, 4, 8, 16)
"""K of every sampler of draws, at R = 2 and with iid cameras."""
RENDERS = (2, 4, 8, 16)
"""R of every sampler of cameras, at K = 4."""
CAMERAS = ("stratified", "antipodal", "sobol")
PARTS = ("total", "within", "between")
"""Of a variance: all of it, with the renders held fixed, and tr Cov E[g | renders]."""

Setting = tuple[int, int, str]
"""R, K and sampling of cameras."""


@dataclass(frozen=True)
class Objects:
    """The runs whose checkpoints are measured: of the default settings, with an early checkpoint."""

    folder: Path
    quick: bool
    workers: int

    @property
    def steps(self) -> tuple[int, int]:
        """Early, when the object takes shape, and late."""
        return (25, 50) if self.quick else (25, 400)

    @property
    def runs(self) -> dict[str, TrainingRun]:
        """By prompt."""
        early, late = self.steps
        ends = (f"trainer.max_steps={late}", f"checkpoint.every={early}", "checkpoint.keep_newest=99")
        words = (*ends, *FIELD, "sds.colour_lr=0.05", "clip.every=0", "preview.every=0")
        prompts = ("a red ball", "a green cube", "a blue snowman")[: 1 if self.quick else None]
        return {p: TrainingRun(f"state-{plain_name(p)}", (f"sds.prompt={p}", *words)) for p in prompts}

    @property
    def states(self) -> list[tuple[str, Path, int]]:
        """(prompt, folder of the run, step) of every checkpoint that is measured."""
        return [(prompt, self.folder / run.name, s) for prompt, run in self.runs.items() for s in self.steps]

    def train(self, only_first: bool = False) -> None:
        """Trains what is not trained yet; `only_first`: the one that is timed."""
        train_all(list(self.runs.values())[: 1 if only_first else None], CONFIG, self.folder, self.workers)

    def prices(self) -> Prices:
        """Of the first run, as timed once; remove `prices.json` to time anew, on a quiet machine."""
        draws = [*((2, k) for k in DRAWS), *((RENDERS[-1], k) for k in (1, 2, 4, 8)), (1, 8)]
        places = [*draws, *((arm.upstream, arm.draws) for arm in ARMS)]
        _, run, _ = self.states[0]
        return once(self.folder / "prices.json", Prices, lambda: measure_prices(load_gradient(run), places))

    def measure(self, pairs: int) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
        """(variances, parts of a single draw's variance, noise coupling of `best`), by state.

        The variances have a row for each state (prompt and step) and setting (arm, cameras, R, K): its
        PARTS, as estimates.

        Args:
            pairs: of gradients that share their renders, for each measurement.
        """
        sizes = ((1, 8), (2, 8)) if self.quick else (DRAWS, RENDERS)
        calls = [partial(measure_state, str(run), step, pairs, *sizes) for _, run, step in self.states]
        results = compute(calls, self.folder / "cache", self.workers)
        places = [{"prompt": prompt, "step": step} for prompt, _, step in self.states]
        rows = [place | row for place, state in zip(places, results, strict=True) for row in state["rows"]]
        budgets = pd.DataFrame([state["budget"] for state in results])
        return pd.DataFrame(rows), budgets, [state["noise"] for state in results]

    def confirm(self, best: Setting, noises: Sequence[str], pairs: int) -> list[tuple[Estimate, Estimate]]:
        """Variance of uniform (2, 1) and of a setting of `best`, by state, measured anew.

        The highest of many settings is too high by chance: what is said of it is measured apart from what it
        was chosen by. The random numbers differ between checkpoints, too.

        Args:
            noises: the couplings that the pilots chose.
            pairs: of `best`; uniform (2, 1), cheaper and noisier, gets four times as many.
        """
        states = zip(self.states, noises, strict=True)
        calls = [
            partial(confirm_state, str(r), s, prompt, noise, best, pairs) for (prompt, r, s), noise in states
        ]
        confirmed: list[tuple[Estimate, Estimate]] = compute(calls, self.folder / "cache", self.workers)
        return confirmed


def measure_state(
    run: str, step: int, pairs: int, draws: Sequence[int] = DRAWS, renders: Sequence[int] = RENDERS
) -> Mapping[str, Any]:
    """Measures everything at one checkpoint.

    Args:
        draws: K of the samplers of draws.
        renders: R of the samplers of cameras; at the last one, Sobol cameras get all K up to 8.

    The pilots (profile, parity, coefficient) have random streams of their own, so that no arm knows the
    draws it is judged on. All arms at one R and sampling of cameras see the same renders.
    """
    gradient = load_gradient(Path(run), step)
    assert gradient.importance is not None
    face = gradient.pipeline, gradient.parameters

    def own(name: str) -> torch.Generator:
        return stream(gradient.seed, step, "frontier", name)

    budget = VarianceBudget.measure(*face, own("budget"), upstreams=32)
    profile = _profile(gradient)
    weight, neyman = gradient.importance(DEFENSIVE), profile.neyman(DEFENSIVE)
    noise = NoiseParity.measure(*face, own("parity"), proposal=neyman, upstreams=32, draws=4).gate()
    arms = [
        *standard_arms(weight, neyman, noise),
        Arm("oracle", NoiseLevelSampler(profile.importance(DEFENSIVE), "iid")),
        Arm("IW+global", NoiseLevelSampler(weight, "global")),
    ]
    # The costs come with the tables: here only variances matter.
    compared = compare(*face, arms, 2, draws, pairs, CostModel.declared(1.0), budget, seed=gradient.seed)
    rows: list[Row] = [
        {"arm": r.arm, "cameras": "iid", "R": r.upstream, "K": r.draws}
        | {part: getattr(r, part) for part in PARTS}
        for r in compared.rows
    ]

    def measure(
        arm: str, of: MeasuredGradient, cameras: str, r: int, k: int, sampler: NoiseLevelSampler
    ) -> None:
        v = measure_pairs(of.pipeline, of.parameters, sampler, r, k, pairs, seed=of.seed)
        parts = {"total": v.total(), "within": v.within(), "between": v.between()}
        rows.append({"arm": arm, "cameras": cameras, "R": r, "K": k} | parts)

    uniform, best = arms[0].sampler, next(arm.sampler for arm in arms if arm.name == "best")
    learned = with_learned_coefficient(gradient, *load_timesteps(Path(run)), own("coefficient"))
    measure("uniform, learned c", learned, "iid", 2, 1, uniform)
    for cameras in CAMERAS:
        spread = load_gradient(Path(run), step, partial(_use_cameras, cameras))
        more = [k for k in draws if k <= 8 and k != 4] if cameras == "sobol" else []
        for r, k in [*((r, 4) for r in renders), *((renders[-1], k) for k in more)]:
            measure("best", spread, cameras, r, k, best)
    parts = {name: getattr(budget, name).value for name in ("between", "within_level", "within_noise")}
    return {"noise": noise, "budget": parts, "rows": rows}


def confirm_state(
    run: str, step: int, prompt: str, noise: str, best: Setting, pairs: int
) -> tuple[Estimate, Estimate]:
    """See :meth:`Objects.confirm`."""
    upstream, draws, cameras = best
    gradient = load_gradient(Path(run), step)
    spread = load_gradient(Path(run), step, partial(_use_cameras, cameras))
    neyman = NoiseLevelSampler(_profile(gradient).neyman(DEFENSIVE), "nested", noise)
    uniform = NoiseLevelSampler(Proposal.uniform(), "iid")
    seed = int(torch.randint(2**31, (), generator=stream(prompt, step, "confirm")))
    plain = measure_pairs(gradient.pipeline, gradient.parameters, uniform, 2, 1, 4 * pairs, seed=seed)
    chosen = measure_pairs(spread.pipeline, spread.parameters, neyman, upstream, draws, pairs, seed=seed + 1)
    return plain.total(), chosen.total()


def _use_cameras(sampling: str, config: SDSConfig) -> None:
    config.camera.sampling = sampling


def _profile(gradient: MeasuredGradient) -> NoiseLevelProfile:
    """Of the pilot, whose random stream is its own."""
    own = stream(gradient.seed, gradient.step, "frontier", "profile")
    return NoiseLevelProfile.measure(gradient.pipeline, gradient.parameters, own, 16, 32)
