"""Score distillation of a synthesiser: any expensive differentiable renderer before a diffusion model.

    python examples/integrations/renderer/synthesiser.py

Notes of random pitch are rendered to waveforms, and a diffusion model of recordings of an instrument says how
to change the synthesiser's partials. The model here is exact, recordings N(instrument's note, s² I), so that
what is reached is known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal, Residual, stream
from carv_distill.variance import CostModel, StageTimer, VarianceBudget, advise, estimate_loss, time_stages

SAMPLES, RATE, OVERSAMPLING = 512, 4000, 8
R, K, STEPS, NOISE = 2, 8, 200, 0.3  # renders, re-noisings of each, updates, s of the recordings
INSTRUMENT = torch.tensor([[1.0, 0.5, 0.33, 0.25, 0.2, 0.1], [0.5, 0.6, 0.8, 1.0, 1.3, 1.6]])
START = torch.tensor([[0.3] * 6, [1.0] * 6])


def render(partials: Tensor, pitch: Tensor, phase: Tensor) -> Tensor:
    """Amplitudes and decays (in 10/s) of partials [2, P], pitches [R] in Hz, phases [R, P] → waveforms
    [R, SAMPLES], oversampled against aliases."""
    time = torch.arange(SAMPLES * OVERSAMPLING) / (RATE * OVERSAMPLING)
    number = torch.arange(1, partials.shape[1] + 1)[:, None]
    swing = torch.sin(2 * torch.pi * pitch[:, None, None] * number * time + phase[..., None])
    envelope = partials[0, :, None] * torch.exp(-10 * partials[1, :, None] * time)
    return (envelope * swing).sum(1).unflatten(1, (SAMPLES, OVERSAMPLING)).mean(2)


def signal_and_noise(u: Tensor) -> tuple[Tensor, Tensor]:
    """α and σ of x_t = α x + σ ε, at u in [0, 1)."""
    return torch.cos(torch.pi / 2 * u), torch.sin(torch.pi / 2 * u)


def note_pipeline(partials: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Residual]:
    """R notes, and w (ε̂ − ε) of their re-noisings, w = σ²."""
    pitch = 110 * 2 ** torch.rand(count, generator=generator)
    phase = 2 * torch.pi * torch.rand(count, partials.shape[1], generator=generator)
    recorded = render(INSTRUMENT, pitch, phase)

    def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        alpha, sigma = (t[:, None] for t in signal_and_noise(u))
        x_t = alpha * x + sigma * eps
        predicted = sigma * (x_t - alpha * recorded[index]) / (alpha.square() * NOISE**2 + sigma.square())
        return sigma.square() * (predicted - eps)

    return render(partials, pitch, phase), residual


def main() -> tuple[Tensor, tuple[int, int]]:
    """Fits the partials; returns them, and the advised (R, K)."""
    weights = signal_and_noise((torch.arange(1000) + 0.5) / 1000)[1].square()
    sampler = NoiseLevelSampler(Proposal.from_weights(weights), "stratified")
    partials = START.clone().requires_grad_()
    optimizer = torch.optim.Adam([partials], 0.05)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

    def pipeline(count: int, generator: torch.Generator) -> tuple[Tensor, Residual]:
        return note_pipeline(partials, count, generator)

    budget = VarianceBudget.measure(pipeline, [partials], stream("budget"), sampler.proposal)
    timed = {size: StageTimer() for size in ((R, 1), (R, K), (4 * R, 1))}
    for size, timer in timed.items():
        time_stages(pipeline, [partials], sampler, *size, timer)
    for step in range(STEPS):
        optimizer.zero_grad()
        estimate_loss(pipeline, sampler, R, K, stream("notes", step), stream("draws", step)).backward()
        optimizer.step()
        decay.step()
    for name, *both in zip(("amplitudes", "decays"), partials.tolist(), INSTRUMENT.tolist(), strict=True):
        print(name, *(f"{a:.2f} ({b:.2f})" for a, b in zip(*both, strict=True)))

    cost = CostModel.fitted(timed)
    advice = advise(budget, cost, max_cost=cost(R, K), baseline=(R, 1))
    print(
        f"a render costs {cost.kappa:.0f} re-noisings; for the cost of R = {R}, K = {K} use R = "
        f"{advice.upstream}, K = {advice.draws}: {advice.ecm:.1f} times the compute of K = 1"
    )
    return partials.detach(), (advice.upstream, advice.draws)


if __name__ == "__main__":
    main()
