"""The synthesiser before an exact diffusion model."""

from __future__ import annotations

from functools import partial
from types import ModuleType

import pytest
import torch

from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.variance import estimate_gradient
from tests.helpers.examples import load


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load("integrations/renderer/synthesiser.py")


def test_it_ends_on_the_instrument(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Amplitudes to 0.01 of up to 1, decays to 0.05 of up to 1.6. A render costs more than a re-noising, so
    several of these are advised."""
    partials, (_, draws) = script.main()
    error = (partials - script.INSTRUMENT).abs()
    assert error[0].max() < 0.01
    assert error[1].max() < 0.05
    assert (script.START - script.INSTRUMENT).abs().max(1).values.min() > 0.5
    assert draws > 1
    assert "a render costs" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("strategy", ["iid", "stratified"])
def test_the_gradient_is_that_of_the_squared_distance(script: ModuleType, strategy: str) -> None:
    """With the notes held fixed, E ĝ = c/R Σ_r J(x_r)ᵀ (x_r − recorded_r), c = ∫ σ³ α/(α² s² + σ²) du: the
    mean of 500 estimates, within four standard errors in each of the twelve coordinates."""
    partials = script.START.clone().requires_grad_()
    sampler = NoiseLevelSampler(Proposal.from_weights(torch.linspace(0.1, 1, 1000)), strategy)
    pipeline = partial(script.note_pipeline, partials)
    estimates = torch.stack(
        [
            estimate_gradient(pipeline, [partials], sampler, 2, 4, stream("notes"), stream("draws", i))
            for i in range(500)
        ]
    )
    g = stream("notes")
    pitch, phase = 110 * 2 ** torch.rand(2, generator=g), 2 * torch.pi * torch.rand(2, 6, generator=g)
    x, recorded = (script.render(p, pitch, phase) for p in (partials, script.INSTRUMENT))
    alpha, sigma = script.signal_and_noise((torch.arange(10**5, dtype=torch.float64) + 0.5) / 10**5)
    c = (sigma**3 * alpha / (alpha**2 * script.NOISE**2 + sigma**2)).mean()
    distance = 0.5 * c * (x - recorded).square().sum(1).mean()
    exact = torch.autograd.grad(distance, partials)[0].flatten()
    se = estimates.std(0) / len(estimates) ** 0.5
    assert ((estimates.mean(0) - exact).abs() < 4 * se).all()
    assert (se < 0.2 * exact.abs().max()).all()
