"""Objectives beside SDS: their formulas, and their means over all noise levels and noises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from carv_distill.carv import (
    NoiseCoefficient,
    NoiseLevelSampler,
    Proposal,
    StepStatistics,
    average_residual,
    stream,
)
from carv_distill.errors import UserError
from carv_distill.tasks import load_config
from carv_distill.teachers.denoiser import GuidedDenoiser
from carv_distill.text_to_3d.guidance.csd import ClassifierScore
from carv_distill.text_to_3d.guidance.nfsd import NoiseFreeScore
from carv_distill.text_to_3d.guidance.residual import guided_residual
from carv_distill.text_to_3d.guidance.timesteps import TimestepRange, timestep_weight
from carv_distill.text_to_3d.guidance.vsd import VariationalScore
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.text_to_3d.preparation import build_module
from tests.helpers.gaussian_network import (
    DIM,
    F64,
    FAKE,
    NEGATIVE,
    NONE,
    OWN,
    SCHEDULE,
    FakeNetwork,
    gaussian_teacher,
    mean_prediction,
)
from tests.helpers.loops import fit
from tests.helpers.runs import sds_words
from tests.helpers.tiny_pipelines import save_flux

Make = Callable[..., SDSModule]
SCALE = 7.5
COND = torch.full((3,), OWN)


def denoiser_of(objective: str) -> GuidedDenoiser:
    none, negative = torch.tensor(NONE), torch.tensor(NEGATIVE)
    match objective:
        case "csd":
            return ClassifierScore(gaussian_teacher(), SCALE, none)
        case "nfsd":
            return NoiseFreeScore(gaussian_teacher(), SCALE, none, negative, SCHEDULE)
        case "vsd":
            guided = GuidedDenoiser(gaussian_teacher(), SCALE, none)
            return VariationalScore(guided, gaussian_teacher(FakeNetwork()))
    return GuidedDenoiser(gaussian_teacher(), SCALE, none)


def written_out(
    objective: str, own: Tensor, none: Tensor, negative: Tensor, fake: Tensor, t: Tensor
) -> Tensor:
    """What is multiplied by w(t), but for SDS's ε, from predictions [n, …] at timesteps t [n] of 100."""
    match objective:
        case "csd":
            return SCALE * (own - none)
        case "nfsd":
            small = (t < 20).view(-1, *[1] * (own.ndim - 1))
            return torch.where(small, none, none - negative) + SCALE * (own - none)
        case "vsd":
            return none + SCALE * (own - none) - fake
    return none + SCALE * (own - none)


@pytest.mark.parametrize("objective", ["csd", "nfsd", "vsd"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_every_timestep_has_the_formula(objective: str, dtype: torch.dtype) -> None:
    """At all 100 timesteps, 19, 20 and 21 among them, in both precisions, from ε̂ of the teacher itself."""
    t, g = torch.arange(100), stream("formula")
    sigma = SCHEDULE.sigma((t + 0.5) / 100).to(dtype)
    x, eps = (torch.randn(100, DIM, generator=g, dtype=F64).to(dtype) for _ in range(2))
    teacher = gaussian_teacher()
    predictions = (
        teacher.predict_noise(x, sigma, eps, torch.full((100,), label))
        for label in (OWN, NONE, NEGATIVE, FAKE)
    )
    found = denoiser_of(objective).predict_noise(x, sigma, eps, torch.full((100,), OWN))
    exact = written_out(objective, *predictions, t)
    tolerance = 1e-11 if dtype == F64 else 2e-5
    torch.testing.assert_close(found, exact, rtol=tolerance, atol=tolerance * float(exact.abs().max()))


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("by_weight", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("strategy", [pytest.param("iid", marks=pytest.mark.slow), "stratified"])
@pytest.mark.parametrize(
    "objective", ["sds", *(pytest.param(o, marks=pytest.mark.slow) for o in ("csd", "nfsd")), "vsd"]
)
def test_every_objective_has_the_exact_mean(
    objective: str, strategy: str, by_weight: bool, learned: bool
) -> None:
    """1/M Σ_t w(t) E_ε[…] from E_ε ε̂ = σ (x − μ)/(s² + σ²), t of 10 … 90; 600 steps of (3, 4), within 4 SE in
    every coordinate (18 of them: 1e-3 for a false alarm). With a learned c steps depend on those before;
    their errors are uncorrelated all the same."""
    levels = TimestepRange.of_shares(SCHEDULE, 0.1, 0.9)
    q = levels.proposal("sds", 0.1) if by_weight else Proposal.uniform(levels.count)
    sampler = NoiseLevelSampler(q, strategy)
    g, x = stream("mean", objective), torch.randn(3, DIM, generator=stream("x"), dtype=F64)
    coefficient, statistics = NoiseCoefficient(10) if learned else None, StepStatistics()
    constant, found = float(objective == "sds"), []
    for step in range(600):
        residual = guided_residual(
            denoiser_of(objective), levels, "sds", COND, step, coefficient, statistics, constant
        )
        found.append(average_residual(residual, x, sampler.draw(3, 4, (DIM,), g, dtype=F64)))
        statistics.commit(step, lambda rows: rows)
    sigma, t = levels.levels[:, None, None], torch.arange(levels.first, levels.last + 1)
    predictions = (mean_prediction(x, sigma, label) for label in (OWN, NONE, NEGATIVE, FAKE))
    exact = (timestep_weight(sigma, "sds") * written_out(objective, *predictions, t)).mean(0)
    estimates = torch.stack(found)
    se = estimates.std(0) / 600**0.5
    assert ((estimates.mean(0) - exact).abs() < 4 * se).all()
    assert (exact.abs() > 8 * se).any()


@pytest.mark.parametrize("objective", ["csd", "nfsd"])
def test_a_pipelines_prompts_stand_where_the_formula_has_them(make_module: Make, objective: str) -> None:
    """With a tiny Stable Diffusion, whose 50 timesteps change at 10: the residual of the UNet's own calls."""
    module = make_module(objective=objective, guidance=SCALE, negative_prompt="blue cube")
    o, teacher = module.objective, module.objective.teacher
    levels, g = o.levels.range_at(0), stream("pipeline")
    t = torch.tensor([3, 9, 10, 30])
    u = (t - levels.first + 0.5) / levels.count
    x, eps = (torch.randn(4, 4, 4, 4, generator=g) for _ in range(2))
    cond = o.prompts.value
    found = o.residual(cond, 0)(x, u, eps, torch.arange(4))  # type: ignore[arg-type]
    kept = (1 / (1 + teacher.schedule.table[t] ** 2)).float().view(-1, 1, 1, 1)
    x_t = kept.sqrt() * x + (1 - kept).sqrt() * eps
    others = ({"guidance": SCALE}, {"guidance": SCALE, "negative_prompt": "blue cube"})
    null, negative = (
        make_module(**other).objective.denoiser.null.value.embeddings.expand(4, -1, -1) for other in others
    )
    with torch.no_grad():
        own, none, unwanted = (
            teacher.network.model(x_t, t, encoder_hidden_states=words).sample
            for words in (cond.embeddings, null, negative)  # type: ignore[union-attr]
        )
    if objective == "csd":  # a negative prompt stands in the place of none
        exact = SCALE * (own - unwanted)
    else:
        exact = torch.where(t.view(-1, 1, 1, 1) < 10, none, none - unwanted) + SCALE * (own - none)
    torch.testing.assert_close(found, (1 - kept) * exact, rtol=1e-4, atol=1e-5)
    assert ((none - unwanted) * (1 - kept)).abs().amax((1, 2, 3)).min() > 3e-5


@pytest.mark.parametrize(
    "given",
    [
        {"objective": "csd"},
        {"objective": "csd", "coefficient": "learned"},
        {"objective": "nfsd"},
        {"objective": "nfsd", "coefficient": "learned"},
        {"objective": "vsd"},
        {"objective": "vsd", "coefficient": "learned", "perp_neg": True},
        {"objective": "ism"},
        {"objective": "ism", "perp_neg": True},
        {"objective": "sds", "perp_neg": True},
        {"objective": "sds", "coefficient": "learned", "perp_neg": True},
    ],
)
def test_a_field_learns_by_every_objective(make_module: Make, given: dict[str, Any]) -> None:
    """Three steps with a guidance that changes; the scale is that of the step."""
    more = {"guidance": [0, 2.0, 8.0, 3], "negative_prompt": "blue cube", **given}
    module = make_module(**more)
    before = [p.detach().clone() for p in module.scene.parameters()]
    fit(module, 3)
    for old, p in zip(before, module.scene.parameters(), strict=True):
        assert p.isfinite().all()
        assert not torch.equal(old, p)


def test_classifier_score_grows_with_its_scale(make_module: Make) -> None:
    x, eps = (torch.randn(2, 4, 4, 4, generator=stream(i)) for i in range(2))
    module = make_module(objective="csd", guidance=[0, 2.0, 8.0, 3])
    u, index, cond = torch.tensor([0.2, 0.7]), torch.arange(2), module.objective.prompts.value
    low, high = (module.objective.residual(cond, step)(x, u, eps, index) for step in (0, 3))  # type: ignore[arg-type]
    torch.testing.assert_close(high, 4 * low)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sds.objective=nfsd"], "sds.negative_prompt: sds.objective=nfsd needs one"),
        (
            ["sds.objective=nfsd", "sds.negative_prompt= "],
            "sds.negative_prompt: sds.objective=nfsd needs one",
        ),
        (["sds.objective=sjc"], "sds.objective: 'sjc' is not one of sds, csd, nfsd, vsd, ism"),
        (["sds.objective=csd", "sds.perp_neg=true"], "sds.perp_neg: true goes with .*, found csd"),
        (
            ["sds.objective=nfsd", "sds.negative_prompt=a", "sds.perp_neg=true"],
            "sds.perp_neg: true goes with .* or ism, found nfsd",
        ),
        (["sds.objective=ism", "sds.coefficient=learned"], "sds.coefficient: learned .* sds.coefficient=one"),
        (["sds.vsd.lr=0.1"], "sds.vsd.lr: 0.1 goes with sds.objective=vsd, found sds"),
        (
            ["sds.vsd.adapters.rank=2", "sds.objective=ism"],
            "sds.vsd.adapters.rank: 2 goes with .*=vsd, found",
        ),
        (["sds.ism.stride=0.1"], "sds.ism.stride: 0.1 goes with sds.objective=ism, found sds"),
        (["sds.ism.interval=0", "sds.objective=ism"], "sds.ism.interval: 0.0 is not above 0"),
        (["sds.ism.stride=1.5", "sds.objective=ism"], "sds.ism.stride: 1.5 is above the greatest .*, 1"),
        (["sds.vsd.draws=0", "sds.objective=vsd"], "sds.vsd.draws: 0 is below the least"),
        (
            ["sds.objective=vsd", "sds.vsd.draws=3", "sds.vsd.strategy=paired"],
            "sds.vsd.draws: 3 is odd, and sds.vsd.strategy",
        ),
        (["sds.vsd.lora=2"], "sds.vsd.lora"),
    ],
)
def test_what_an_objective_lacks_is_said(tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_config("configs/sds_carv.yaml", words)


@pytest.mark.parametrize("objective", ["csd", "nfsd", "vsd", "ism"])
def test_a_teacher_that_is_told_its_guidance_has_no_pair(tmp_path: Path, objective: str) -> None:
    flux = save_flux(tmp_path / "flux")
    words = sds_words(
        flux, tmp_path, f"sds.objective={objective}", "sds.negative_prompt=blue", "teacher.size=8"
    )
    with pytest.raises(UserError, match=f"sds.objective: {objective} compares .* use sds.objective=sds"):
        build_module(load_config("configs/sds_carv.yaml", words), "cpu")


def test_perp_neg_needs_a_pair_too(tmp_path: Path) -> None:
    words = sds_words(save_flux(tmp_path / "flux"), tmp_path, "sds.perp_neg=true", "teacher.size=8")
    with pytest.raises(UserError, match=r"sds.perp_neg: it compares .* use sds.perp_neg=false"):
        build_module(load_config("configs/sds_carv.yaml", words), "cpu")
