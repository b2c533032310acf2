"""What rankings are worth: models trained anew without half of the digits, or the most influential ones."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.projection import build_projector
from carv_distill.attribution.gradients.sample_gradients import sample_features
from carv_distill.attribution.ranking.scores import GroupProducts, TrakScores
from carv_distill.attribution.retrained.lds import lds_over
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.data.images import load_images
from carv_distill.data.sets import LabelledImages
from carv_distill.teacher_training.image_module import PretrainModule, build_teacher
from carv_distill.teacher_training.options import PretrainOptions
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.schedule import LogNormalSchedule
from carv_distill.variance import mean_estimate
from studies.attribution_budget.arms import Weights, draws_of
from studies.cached import Compute
from studies.sentences import estimate, sentence
from studies.study import Row, columns

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
TESTED = ("iid", "best")
"""Samplers whose scores are held against models trained anew."""


FULL = SimpleNamespace(
    steps=500, halves=32, removed=100, queries=6, seeds=2, draws=(1, 4, 16, 64), sets=5
)  # fmt: skip
QUICK = SimpleNamespace(steps=20, halves=4, removed=50, queries=2, seeds=2, draws=(1, 4), sets=2)
"""Of a training; models of halves; digits left out of a training, for so many queries and seeds; K;
independent sets of K draws for each sampler."""


@cache
def data() -> tuple[LabelledImages, Tensor, Tensor]:
    """(digits, numbers of the pool, numbers of the queries)."""
    digits = load_images("digits")
    order = torch.randperm(len(digits), generator=stream("attribution_budget", "pool"))
    return digits, order[:POOL], order[POOL : POOL + QUERIES]


def some_of(places: Tensor, count: int, *key: int | str) -> list[int]:
    """Random ones of these places in the pool, from the stream of that key."""
    chosen: list[int] = places[torch.randperm(len(places), generator=stream(*key))[:count]].tolist()
    return chosen


def half(number: int, seed: int) -> list[int]:
    """A random half of the pool, as places in it, sorted."""
    return sorted(some_of(torch.arange(POOL), POOL // 2, seed, "halves", number))


def same_class(query: int, count: int, seed: int) -> list[int]:
    """Random places of the query's class."""
    digits, pool, rows = data()
    places = (digits.labels[pool] == digits.labels[rows[query]]).nonzero()[:, 0]
    return some_of(places, count, seed, "same class", query)


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
def _losses(denoiser: NetworkDenoiser) -> list[float]:
    """Denoising loss of every query over the same 256 stratified draws for all models, [32]."""
    digits, _, rows = data()
    sampler = NoiseLevelSampler(Proposal.uniform())
    draws = sampler.draw(1, LOSS_DRAWS, (1, 8, 8), stream("attribution_budget", "losses"))
    samples = SampleBatch(digits.images[rows], digits.labels[rows])
    return SampleLoss(denoiser, LEVELS).of_samples(samples, draws.row(0)).tolist()


def train_on_all(steps: int, seed: int) -> Weights:
    """The model that is attributed: trained on the whole pool."""
    return Weights.of(_train(list(range(POOL)), steps, seed))


def train_on_half(number: int, steps: int, seed: int) -> list[float]:
    """Losses of the queries under a model of a random half."""
    return _losses(_train(half(number, seed), steps, seed + 1000 + number))


def train_without(removed: Sequence[int], steps: int, seed: int) -> list[float]:
    """Losses of the queries under a model that never saw some of the pool."""
    return _losses(_train(sorted(set(range(POOL)) - set(removed)), steps, seed))


def scores(
    weights: Weights,
    best: dict[str, Any],
    arm: str,
    draws: int,
    halves: int,
    top: int,
    seed: int,
    number: int = 0,
) -> dict[str, Tensor]:
    """By the set of draws of that number and every kind of score: the predicted outcome of each half for each
    query, Σ over its samples of their scores, [32, halves]; and the `top` places of each by trak, [32, top].
    """
    digits, pool, rows = data()
    drawn = draws_of(arm, best, draws, (1, 8, 8), seed, "retraining", number)
    gradients = weights.gradients(build_teacher(OPTIONS, 1, 8, 10).denoiser, LEVELS)
    projector, chunk = build_projector("countsketch", SIZE, 0), max(1, 512 // draws)

    def features(n: Tensor) -> Tensor:
        samples = SampleBatch(digits.images[n], digits.labels[n])
        return sample_features(gradients, projector, samples, drawn, chunk)

    query, train = features(rows), features(pool)
    plain, trak = GroupProducts.of(query, train), TrakScores(query, lambda: [train], DAMPING)()
    members = torch.zeros(POOL, halves, dtype=torch.float64)
    for m in range(halves):
        members[half(m, seed), m] = 1
    by_kind = {"inner": plain.inner(False), "cosine": plain.cosine(False), "trak": trak}
    predicted = {kind: s @ members for kind, s in by_kind.items()}
    return predicted | {"top": trak.argsort(dim=1, descending=True)[:, :top]}


def measure(compute: Compute, o: SimpleNamespace, best: dict[str, Any], seed: int) -> dict[str, Any]:
    """Losses of models of halves [halves, 32]; scores by arm and K, for each set of draws; most influential
    places of each query, by the first set; losses [32] of models without the most influential digits, without
    random ones of the query's class, and without random ones: {kind: [by query or number: [by seed]]}."""
    weights = compute(partial(train_on_all, o.steps, seed))
    results = compute(
        {
            "halves": [partial(train_on_half, m, o.steps, seed) for m in range(o.halves)],
            "scores": {
                (arm, k): [
                    partial(scores, weights, best, arm, k, o.halves, o.removed, seed, number)
                    for number in range(o.sets)
                ]
                for arm, k in product(TESTED, o.draws)
            },
        }
    )
    top = results["scores"]["best", o.draws[-1]][0]["top"].tolist()
    removals = {
        "top": top[: o.queries],
        "class": [same_class(q, o.removed, seed) for q in range(o.queries)],
        "random": [some_of(torch.arange(POOL), o.removed, seed, "anything", i) for i in range(o.queries)],
    }
    without = partial(train_without, steps=o.steps)
    removed = {
        kind: [[partial(without, places, seed=seed + 1 + s) for s in range(o.seeds)] for places in sets]
        for kind, sets in removals.items()
    }
    return {**results, "top": top, "removed": compute(removed)}


def score_rows(trained: Mapping[str, Any]) -> list[Row]:
    """Linear datamodeling score of every sampler, budget and kind of score, and its difference from that of
    as many iid draws; means over sets of draws, intervals over halves and sets."""
    losses = torch.tensor(trained["halves"], dtype=torch.float64)
    rows = []
    for (arm, k), sets in trained["scores"].items():
        for kind in SCORES:
            predicted = [one[kind] for one in sets]
            row: Row = {"arm": arm, "K": k, "score": kind, "sets": len(sets)}
            row |= columns("lds", lds_over(predicted, losses))
            if arm != "iid":
                iid = [one[kind] for one in trained["scores"]["iid", k]]
                row |= columns("over_iid", lds_over(predicted, losses, iid))
            rows.append(row)
    return rows


def removal_rows(removed: Mapping[str, Sequence[Sequence[Sequence[float]]]]) -> list[Row]:
    """How much more a query's loss is, in percent, without its most influential digits than without random
    ones, of any class or of its own; one row each and query, then their means."""
    rows: list[Row] = []
    for against in ("random", "class"):
        per_query = []
        for q, by_seed in enumerate(removed["top"]):
            gains = []
            for s, losses in enumerate(by_seed):
                others = removed["random"] if against == "random" else [removed["class"][q]]
                gains.append(100 * (losses[q] / statistics.fmean(other[s][q] for other in others) - 1))
            per_query.append(statistics.fmean(gains))
            rows.append({"against": against, "query": q, "percent": per_query[-1]})
        rows.append({"against": against, "query": None, **columns("percent", mean_estimate(per_query))})
    return rows


def verdict(rows: Sequence[Row], removal: Sequence[Row]) -> list[str]:
    """What the models trained anew say."""
    sentences = []
    for kind in SCORES:
        own = [r for r in rows if r["score"] == kind]
        sets = ", ".join(sorted({str(r["sets"]) for r in own}))
        of = f"{kind} (one model; each number the mean of {sets} sets of draws)"
        by_place = {f"{r['arm']}, K = {r['K']}": estimate(r, "lds") for r in own}
        more = {f"K = {r['K']}": estimate(r, "over_iid") for r in own if "over_iid" in r}
        sentences.append(sentence(f"Linear datamodeling score, {of}", by_place))
        sentences.append(sentence(f"The same, best less iid, {kind}", more, 0, "lower", "higher"))
    means = [r for r in removal if r["query"] is None]
    names = {"random": "than without random ones", "class": "than without random ones of its class"}
    higher = {names[r["against"]]: estimate(r, "percent") for r in means}
    what = "Percent by which a query's loss is higher without its most influential digits"
    return [*sentences, sentence(what, higher, 0, "lower", "higher")]
