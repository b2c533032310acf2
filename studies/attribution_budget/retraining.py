"""What rankings are worth: models trained anew without half of the digits, or the most influential ones."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from safetensors.torch import load, save
from torch import Tensor

from carv_distill.attribution.gradients import SampleGradients, sample_features
from carv_distill.attribution.latents import digest
from carv_distill.attribution.projection import build_projector
from carv_distill.attribution.ranking import spearman
from carv_distill.attribution.scores import GroupProducts
from carv_distill.attribution.trak import GramMatrix
from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.data.images import load_images
from carv_distill.data.spec import LabelledImages
from carv_distill.files import atomic_file
from carv_distill.teacher_training.image_module import PretrainModule, build_teacher
from carv_distill.teacher_training.image_options import PretrainOptions
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.schedule import LogNormalSchedule
from carv_distill.variance import Estimate
from carv_distill.variance.estimate import t_quantile
from studies.attribution_budget.arms import draws_of

POOL = 1500
"""Digits that may be trained on; queries come from the others."""
QUERIES = 32
OPTIONS = PretrainOptions(
    channels=[16, 32], sigma_min=0.02, sigma_max=20.0, sigma_data=0.75, p_mean=-0.5, p_std=1.6, batch=64,
    learning_rate=2e-3, warmup=50, ema=0.99, label_dropout=0.0, head_channels=16,
)  # fmt: skip
LEVELS = LogNormalSchedule(OPTIONS.p_mean, OPTIONS.p_std, OPTIONS.sigma_min, OPTIONS.sigma_max)
SCORES = ("inner", "cosine", "trak")
SIZE = 2048
"""Numbers that a gradient is projected to."""
DAMPING = 0.1
LOSS_DRAWS = 256


@cache
def data() -> tuple[LabelledImages, Tensor, Tensor]:
    """(digits, numbers of the pool, numbers of the queries)."""
    digits = load_images("digits")
    order = torch.randperm(len(digits), generator=stream("attribution_budget", "pool"))
    return digits, order[:POOL], order[POOL : POOL + QUERIES]


def half(number: int, seed: int) -> list[int]:
    """A random half of the pool, as places in it, sorted."""
    g = stream(seed, "halves", number)
    found: list[int] = torch.randperm(POOL, generator=g)[: POOL // 2].sort().values.tolist()
    return found


def _train(places: list[int], steps: int, seed: int) -> NetworkDenoiser:
    """The averaged network of a training on some of the pool."""
    digits, pool, _ = data()
    rows = pool[torch.tensor(places)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = build_teacher(OPTIONS, 1, 8, 10)
    chosen = LabelledImages(*digits.batch(rows), digits.spec)
    module = PretrainModule(untrained, chosen, OPTIONS, steps, seed)
    Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(module)  # fmt: skip
    return module.ema.requires_grad_(False).eval()


@torch.no_grad()
def query_losses(denoiser: NetworkDenoiser) -> Tensor:
    """Denoising loss of every query over the same 256 stratified draws for all models, [32]."""
    digits, _, rows = data()
    sampler = NoiseLevelSampler(Proposal.uniform())
    draws = sampler.draw(1, LOSS_DRAWS, (1, 8, 8), stream("attribution_budget", "losses"))
    gradients = SampleGradients(denoiser, LEVELS)
    return gradients.losses(
        digits.images[rows], digits.labels[rows], draws.u[0], draws.weight[0], draws.eps[0]
    )


def train_on_all(path: str, steps: int, seed: int) -> dict[str, Any]:
    """The model that is attributed: trained on the whole pool, its weights kept."""
    denoiser = _train(list(range(POOL)), steps, seed)
    with atomic_file(Path(path)) as file:
        file.write(save({k: v.contiguous() for k, v in denoiser.state_dict().items()}))
    return {"losses": query_losses(denoiser).tolist(), "weights": digest(denoiser.state_dict().values())}


def train_on_half(number: int, steps: int, seed: int) -> dict[str, Any]:
    """Losses of the queries under a model of a random half."""
    return {"losses": query_losses(_train(half(number, seed), steps, seed + 1000 + number)).tolist()}


def train_without(removed: list[int], steps: int, seed: int) -> dict[str, Any]:
    """Losses of the queries under a model that never saw some of the pool."""
    gone = set(removed)
    places = [i for i in range(POOL) if i not in gone]
    return {"losses": query_losses(_train(places, steps, seed)).tolist()}


@cache
def _attributed(path: str) -> SampleGradients:
    denoiser = build_teacher(OPTIONS, 1, 8, 10).denoiser
    denoiser.load_state_dict(load(Path(path).read_bytes()))
    return SampleGradients(denoiser.requires_grad_(False).eval(), LEVELS)


def scores(
    path: str,
    weights: str,
    best: dict[str, Any],
    arm: str,
    draws: int,
    halves: int,
    top: int,
    seed: int,
) -> dict[str, Any]:
    """By one set of draws and every kind of score: the predicted outcome of each half for each query, Σ over
    its samples of their scores, [32][halves]; and the `top` places of each query by trak.

    `weights` is the digest of the file: scores of another model are others.
    """
    digits, pool, rows = data()
    drawn = draws_of(arm, best, draws, (1, 8, 8), seed, "retraining")
    projector, gradients = build_projector("countsketch", SIZE, 0), _attributed(path)

    def features(numbers: Tensor) -> Tensor:
        return sample_features(
            gradients, projector, digits.images[numbers], digits.labels[numbers], drawn, max(1, 512 // draws)
        )

    query, train = features(rows), features(pool)
    gram = GramMatrix(SIZE, DAMPING)
    gram.update(train)
    plain = GroupProducts.of(query, train)
    found = {
        "inner": plain.inner(False),
        "cosine": plain.cosine(False),
        "trak": GroupProducts.of(gram.whiten(query), train).inner(False),
    }
    members = torch.zeros(POOL, halves, dtype=torch.float64)
    for m in range(halves):
        members[half(m, seed), m] = 1
    result: dict[str, Any] = {kind: (s @ members).tolist() for kind, s in found.items()}
    result["top"] = found["trak"].argsort(dim=1, descending=True)[:, :top].tolist()
    return result


def lds(predicted: Tensor, losses: Tensor, keep: Tensor | None = None) -> float:
    """Linear datamodeling score: Spearman's correlation over the halves of the predicted outcome with minus
    the loss, mean over the queries.

    Args:
        predicted: [32, halves].
        losses: [halves, 32].
        keep: of the halves; all by default.

    Source: Park et al. 2023 (TRAK), definition 2.3.
    """
    rows = torch.arange(len(losses)) if keep is None else keep
    return float(spearman(predicted[:, rows], -losses.T[:, rows]).mean())


def lds_over_halves(predicted: Tensor, losses: Tensor, base: Tensor | None = None) -> Estimate:
    """The score, or its difference from that of other predictions, with an interval by the jackknife over the
    halves: all queries share these, so that they are no independent measurements."""

    def value(keep: Tensor | None = None) -> float:
        own = lds(predicted, losses, keep)
        return own if base is None else own - lds(base, losses, keep)

    n = len(losses)
    left = [value(torch.tensor([m for m in range(n) if m != out])) for out in range(n)]
    mean = math.fsum(left) / n
    se = math.sqrt((n - 1) / n * math.fsum((v - mean) ** 2 for v in left))
    half_width = t_quantile(0.975, n - 1) * se
    full = value()
    return Estimate(full, se, full - half_width, full + half_width)


def same_class(query: int, count: int, seed: int) -> list[int]:
    """Random places of the query's class in the pool."""
    digits, pool, rows = data()
    places = (digits.labels[pool] == digits.labels[rows[query]]).nonzero()[:, 0]
    g = stream(seed, "same class", query)
    found: list[int] = places[torch.randperm(len(places), generator=g)[:count]].tolist()
    return found


def anything(number: int, count: int, seed: int) -> list[int]:
    """Random places of the pool."""
    g = stream(seed, "anything", number)
    found: list[int] = torch.randperm(POOL, generator=g)[:count].tolist()
    return found
