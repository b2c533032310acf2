"""Variance of a text-to-3D gradient at one checkpoint, under every sampler of draws and of cameras."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from carv_distill.carv import NoiseCoefficient, NoiseLevelSampler, Proposal, stream
from carv_distill.commands.target import load_target
from carv_distill.files import write_json
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.variance import (
    Arm,
    CostModel,
    Estimate,
    NoiseLevelProfile,
    NoiseParity,
    PairedVariance,
    VarianceBudget,
    compare,
    mean_estimate,
    measure_pairs,
    standard_arms,
)

DEFENSIVE = 0.1
DRAWS = (1, 2, 4, 8, 16)
"""K of every sampler of draws, at R = 2 and with iid cameras."""
RENDERS = (2, 4, 8, 16)
"""R of every sampler of cameras, at K = 4."""
CAMERAS = ("stratified", "antipodal", "sobol")
PARTS = ("total", "within", "between")
"""Of a variance, see :class:`Measurement`."""


@dataclass(frozen=True)
class Measurement:
    """The gradient's variance at (R, K): traces of covariances."""

    arm: str
    cameras: str
    upstream: int
    draws: int
    total: Estimate
    within: Estimate
    """With the renders held fixed."""
    between: Estimate
    """tr Cov E[g | renders]."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON: the terms of the estimates, from which all else follows."""
        parts = {name: list(getattr(self, name).terms) for name in PARTS}
        place = {"arm": self.arm, "cameras": self.cameras, "upstream": self.upstream, "draws": self.draws}
        return place | parts

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Measurement:
        """From :meth:`to_dict`."""
        parts = {name: mean_estimate(row[name], positive=name != "between") for name in PARTS}
        return cls(**{k: v for k, v in row.items() if k not in PARTS} | parts)


@dataclass(frozen=True)
class State:
    """A checkpoint and what was measured at it."""

    prompt: str
    step: int
    noise: str
    """The coupling of the noises that the parity gate let into the arm `best`."""
    budget: Mapping[str, float]
    rows: tuple[Measurement, ...]

    def row(self, arm: str, upstream: int, draws: int, cameras: str = "iid") -> Measurement:
        """One measurement."""
        key = (arm, upstream, draws, cameras)
        return next(r for r in self.rows if (r.arm, r.upstream, r.draws, r.cameras) == key)


def read_state(path: Path) -> State:
    """What :func:`measure_state` kept."""
    kept = json.loads(path.read_text())
    rows = tuple(Measurement.from_dict(row) for row in kept["rows"])
    return State(kept["prompt"], kept["step"], kept["noise"], kept["budget"], rows)


def measure_state(
    run: Path,
    step: int,
    pairs: int,
    kept: Path,
    draws: Sequence[int] = DRAWS,
    renders: Sequence[int] = RENDERS,
) -> None:
    """Measures everything at one checkpoint and keeps it as JSON; what is kept already stays.

    Args:
        pairs: of gradients that share their renders, for each measurement.
        draws: K of the samplers of draws.
        renders: R of the samplers of cameras; at the last one, Sobol cameras get all K up to 8.

    The pilots (profile, parity, coefficient) have random streams of their own, so that no arm knows the
    draws it is judged on. All arms at one R and sampling of cameras see the same renders.
    """
    if kept.is_file() and json.loads(kept.read_text())["pairs"] == pairs:
        return
    torch.set_num_threads(1)
    target = load_target(run, "cpu", step)
    module, parameters = target.module, target.parameters
    assert isinstance(module, SDSModule)
    assert target.importance is not None

    def own(name: str) -> torch.Generator:
        return stream(module.seed, step, "frontier", name)

    budget = VarianceBudget.measure(module.pipeline, parameters, own("budget"), upstreams=32)
    profile = _profile(module)
    weight, neyman = target.importance(DEFENSIVE), profile.neyman(DEFENSIVE)
    parity = NoiseParity.measure(
        module.pipeline, parameters, own("parity"), proposal=neyman, upstreams=32, draws=4
    )
    noise = parity.gate()
    arms = [
        *standard_arms(weight, neyman, noise),
        Arm("oracle", NoiseLevelSampler(profile.importance(DEFENSIVE), "iid")),
        Arm("IW+global", NoiseLevelSampler(weight, "global")),
    ]
    # The costs come with the tables: here only variances matter.
    compared = compare(
        module.pipeline, parameters, arms, 2, draws, pairs, CostModel.declared(1.0), budget, module.seed
    )
    rows = [
        Measurement(r.arm, "iid", r.upstream, r.draws, r.total, r.within, r.between) for r in compared.rows
    ]
    uniform, best = arms[0].sampler, next(arm.sampler for arm in arms if arm.name == "best")
    with _learned(module, own("coefficient")):
        found = measure_pairs(module.pipeline, parameters, uniform, 2, 1, pairs, module.seed)
        rows.append(_measurement("uniform, learned c", "iid", 2, 1, found))
    iid = module.camera_sampler
    for cameras in CAMERAS:
        module.camera_sampler = replace(iid, sampling=cameras)
        places = [(r, 4) for r in renders]
        if cameras == "sobol":
            places += [(renders[-1], k) for k in draws if k <= 8 and k != 4]
        for r, k in places:
            found = measure_pairs(module.pipeline, parameters, best, r, k, pairs, module.seed)
            rows.append(_measurement("best", cameras, r, k, found))
    content = {
        "prompt": module.options.prompt,
        "step": step,
        "pairs": pairs,
        "noise": noise,
        "budget": {name: getattr(budget, name).value for name in ("between", "within_level", "within_noise")},
        "rows": [row.to_dict() for row in rows],
    }
    write_json(kept, content)


@dataclass(frozen=True)
class Confirmation:
    """Two settings at one checkpoint, measured once more with random numbers of their own."""

    base: Estimate
    """Variance of uniform (2, 1)."""
    best: Estimate
    """Variance of the setting of `best` that looked best."""


def confirm(run: Path, step: int, noise: str, place: tuple[int, int, str], pairs: int, kept: Path) -> None:
    """Measures uniform (2, 1) and one setting of `best` anew, and keeps it as JSON.

    The highest of many settings is too high by chance: what is claimed of it is measured apart from what it
    was chosen by. The random numbers differ between checkpoints, too.

    Args:
        noise: the coupling that the checkpoint's pilot chose.
        place: R, K and sampling of cameras.
        pairs: of `best`; uniform (2, 1), cheaper and noisier, gets four times as many.
    """
    upstream, draws, cameras = place
    if kept.is_file():
        there = json.loads(kept.read_text())
        if there["place"] == list(place) and len(there["best"]) == pairs - 1:
            return
    torch.set_num_threads(1)
    target = load_target(run, "cpu", step)
    module, parameters = target.module, target.parameters
    assert isinstance(module, SDSModule)
    neyman = _profile(module).neyman(DEFENSIVE)
    seed = int(torch.randint(2**31, (), generator=stream(module.options.prompt, step, "confirm")))
    base = measure_pairs(
        module.pipeline, parameters, NoiseLevelSampler(Proposal.uniform(), "iid"), 2, 1, 4 * pairs, seed
    ).total()
    module.camera_sampler = replace(module.camera_sampler, sampling=cameras)
    best = measure_pairs(
        module.pipeline,
        parameters,
        NoiseLevelSampler(neyman, "nested", noise),
        upstream,
        draws,
        pairs,
        seed + 1,
    ).total()
    write_json(kept, {"place": list(place), "base": list(base.terms), "best": list(best.terms)})


def read_confirmation(path: Path) -> Confirmation:
    """What :func:`confirm` kept."""
    kept = json.loads(path.read_text())
    return Confirmation(*(mean_estimate(kept[name], positive=True) for name in ("base", "best")))


def _profile(module: SDSModule) -> NoiseLevelProfile:
    """Of the pilot, whose random stream is its own."""
    own = stream(module.seed, module.present, "frontier", "profile")
    return NoiseLevelProfile.measure(module.pipeline, module.measured_parameters, own, 16, 32)


def _measurement(arm: str, cameras: str, upstream: int, draws: int, v: PairedVariance) -> Measurement:
    return Measurement(arm, cameras, upstream, draws, v.total(), v.within(), v.between())


@contextmanager
def _learned(
    module: SDSModule, generator: torch.Generator, renders: int = 32, draws: int = 16
) -> Iterator[None]:
    """The module with c learned from draws of its own, at renders of its own; without it again afterwards."""
    module.coefficient = NoiseCoefficient()
    step = module.present
    for number in range(renders):
        cameras = module.camera_sampler.sample(1, generator)
        with torch.no_grad():
            x = module.encoded(module.rendered(cameras, generator), generator).expand(draws, -1, -1, -1)
            residual = module.residual(module.conditions(cameras), step + number, learn=True)
            u = torch.rand(draws, generator=generator)
            eps = torch.randn(x.shape, generator=generator)
            residual(x, u, eps, torch.zeros(draws, dtype=torch.long))
    module.step_measured = step + renders
    try:
        yield
    finally:
        module.coefficient, module.step_measured = None, step
