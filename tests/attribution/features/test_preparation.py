"""Features of a training set in a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from carv_distill.attribution.features import preparation
from carv_distill.attribution.features.preparation import FeatureJob, fill_store, pilot_pipeline
from carv_distill.attribution.features.store import FeatureStore
from carv_distill.attribution.gradients.backward import BackwardGradients
from carv_distill.attribution.gradients.projection import build_projector
from carv_distill.attribution.options import InfluenceOptions
from carv_distill.attribution.samples.sets import TrainingSet
from carv_distill.carv import Draws, stream
from carv_distill.errors import UserError
from carv_distill.processes import Processes
from tests.helpers.attributed import training_set
from tests.helpers.linear import linear_gradients


def test_a_gradient_that_is_not_finite_is_named_and_what_is_in_the_store_stays(tmp_path: Path) -> None:
    x = torch.ones(10, 3, dtype=torch.float64)
    x[6, 1] = torch.nan
    draws = Draws(torch.rand(2, 1), torch.ones(2, 1), torch.randn(2, 1, 3))
    job = FeatureJob(linear_gradients(), build_projector("none", 1), draws, chunk=4)
    store = FeatureStore(tmp_path / "half", 10, 2, 9, {"model": "m"}, block=4)
    with pytest.raises(UserError, match=r"^training sample 6: its gradient holds NaN or infinity$"):
        fill_store(InfluenceOptions(chunk=4), job, store, training_set(x), Processes())
    assert store.missing() == [1, 2]


@pytest.mark.parametrize("normalise", ["mean", "draw"])
def test_a_pilot_sees_what_the_store_will_hold(normalise: str) -> None:
    """Two samples of other norms: their directions' are 1."""
    x = torch.randn(2, 3, generator=stream("x"), dtype=torch.float64) * torch.tensor([[1.0], [5.0]])
    options = InfluenceOptions(normalise=normalise)
    pipeline = pilot_pipeline(options, linear_gradients(), training_set(x))
    x, residual = pipeline(6, stream("pilot"))
    eps = torch.randn(6, 3, generator=stream("eps"), dtype=torch.float64)
    norms = residual(x, torch.full((6,), 0.5, dtype=torch.float64), eps, torch.arange(6)).norm(dim=1)
    assert torch.allclose(norms, torch.ones_like(norms)) == (normalise == "draw")


def backward_job(draws: int, normalise: bool = False) -> tuple[FeatureJob, TrainingSet]:
    """Two groups of draws of a linear denoiser, ten samples."""
    x = torch.randn(10, 3, generator=stream("x"), dtype=torch.float64)
    eps = torch.randn(2, draws, 3, generator=stream("eps"))
    drawn = Draws(torch.full((2, draws), 0.5), torch.ones(2, draws), eps)
    gradients = BackwardGradients(linear_gradients().loss)
    job = FeatureJob(gradients, build_projector("none", 1), drawn, 1, normalise)
    return job, training_set(x)


@pytest.mark.parametrize("normalise", [False, True])
def test_backward_tries_draws_and_advances_by_samples(
    tmp_path: Path, normalise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each draw that is normalised goes by itself, so there is nothing to try."""
    job, training = backward_job(6, normalise)
    tried: list[int] = []
    found = preparation.find_chunk

    def watched(work: Callable[[int], object], row_bytes: int, largest: int, *more: Any) -> int:
        assert more == (torch.device("cpu"), "draws")
        tried.append(largest)
        return found(work, row_bytes, largest, *more)

    monkeypatch.setattr(preparation, "find_chunk", watched)
    store = FeatureStore(tmp_path / "store", 10, 2, 9, {"model": "m"}, block=4)
    filled = fill_store(InfluenceOptions(), job, store, training, Processes())
    assert tried == ([] if normalise else [6])
    assert filled.chunk == 1 if normalise else filled.chunk in range(1, 7)
    assert filled.samples_at_once == 1
    made = torch.cat([block for _, block in store.blocks()])
    torch.testing.assert_close(made, job.features(training.batch(torch.arange(10))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "chunk", "said"),
    [
        ({}, 3, "^--chunk: 3 draws do not fit into memory; take fewer, or --gradient-checkpointing; what"),
        ({}, 1, "^--chunk: a single draw does not fit into memory; take --gradient-checkpointing; what"),
        (
            {"gradient_checkpointing": True},
            1,
            "^--chunk: a single draw .*; take less by --parameters, or of a transformer --offload; what",
        ),
    ],
)
def test_memory_that_ends_says_what_takes_less(
    tmp_path: Path, options: dict[str, Any], chunk: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, training = backward_job(6)
    store = FeatureStore(tmp_path / "store", 10, 2, 9, {"model": "m"}, block=4)

    def full(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(BackwardGradients, "__call__", full)
    chosen = InfluenceOptions(chunk=chunk, **options)
    with pytest.raises(UserError, match=said):
        fill_store(chosen, replace(job, chunk=chunk), store, training, Processes())
