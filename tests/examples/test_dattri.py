"""The task for dattri, in dattri."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from carv_distill.attribution.gradients.projection import Adapted, Projector
from carv_distill.attribution.ranking.scores import GroupProducts, TrakScores
from carv_distill.variance import CountSketch
from tests.helpers.attributed_network import Network, drawn, losses, own_features, pictures
from tests.helpers.examples import load

pytest.importorskip("dattri")
TracIn: Any = pytest.importorskip("dattri.algorithm.tracin").TracInAttributor
random_project: Any = pytest.importorskip("dattri.func.projection").random_project
TRAK: Any = pytest.importorskip("dattri.algorithm.trak").TRAKAttributor
TRAIN, QUERIES = pictures(12, "train"), pictures(3, "queries")
WHOLE = {"proj_type": "identity", "proj_dim": 1}


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    """dattri's scores have torch's default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def network() -> Network:
    return Network().double()


def task(network: Network, *draws: Any, **keys: Any) -> Any:
    module = load("integrations/dattri/diffusion_task.py")
    return module.DiffusionTask(network, network.state_dict(), losses, *draws, **keys)


def loader(sample: tuple[Tensor, Tensor], rows: int) -> DataLoader:
    return DataLoader(TensorDataset(*sample), rows)


class Whole:
    """A function of whole gradients as a projector of this project."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def project(self, grads: Tensor, model_id: int) -> Tensor:
        return self.function(grads)


def products(network: Network, seeds: tuple[int, ...], projector: Projector | None = None) -> GroupProducts:
    """This project's, a group of draws for each seed."""
    query, train = (
        torch.stack([own_features(network, some, drawn(seed), projector) for seed in seeds], 1)
        for some in (QUERIES, TRAIN)
    )
    return GroupProducts.of(query, train)


def tracin(task: Any, cosine: bool = False) -> Tensor:
    """dattri's scores, [queries, training samples]."""
    attributor = TracIn(task, torch.ones(1), cosine, projector_kwargs=dict(WHOLE))
    return attributor.attribute(loader(TRAIN, 5), loader(QUERIES, 2)).T


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("cosine", [False, True])
def test_tracin(network: Network, cosine: bool) -> None:
    """Grad-Dot and Grad-Cos, to 1e-12 of the largest score in float64."""
    expected = products(network, (0,)).score(cosine, debias=False)
    assert relative(tracin(task(network, drawn(0)), cosine), expected) < 1e-12


def test_tracin_in_our_sketch(network: Network) -> None:
    sketch = CountSketch(64, seed=3)
    expected = products(network, (0,), Adapted(Whole(sketch))).inner(debias=False)
    assert relative(tracin(task(network, drawn(0), sketch=sketch)), expected) < 1e-12


def test_queries_by_draws_of_their_own_are_the_debiased_product(network: Network) -> None:
    """The mean of both ways round of two groups of draws is what the debiased product of two groups is."""
    both = [tracin(task(network, drawn(a), drawn(b))) for a, b in ((0, 1), (1, 0))]
    expected = products(network, (0, 1)).inner(debias=True)
    assert relative((both[0] + both[1]) / 2, expected) < 1e-12
    assert relative(tracin(task(network, drawn(0))), expected) > 0.01


def test_trak_in_dattris_projection(network: Network) -> None:
    """TRAK with dattri's normal projection in both, to 1e-12 of the largest score in float64; dattri's kernel
    is a sum over N samples, this project's a mean."""
    projection: dict[str, Any] = {
        "proj_dim": 32,
        "proj_max_batch_size": 8,
        "proj_seed": 5,
        "proj_type": "normal",
    }
    attributor = TRAK(
        task(network, drawn(0)),
        correct_probability_func=lambda parameters, data: torch.zeros(()),
        projector_kwargs=projection | {"device": "cpu"},
        regularization=(damping := 1e-3),
    )
    attributor.cache(loader(TRAIN, 5))
    found = attributor.attribute(loader(QUERIES, 2)).T

    def project(gradients: Tensor) -> Tensor:
        return random_project(gradients, len(gradients), **projection)(gradients, ensemble_id=0)

    queries, train = (
        own_features(network, some, drawn(0), Adapted(Whole(project)))[:, None] for some in (QUERIES, TRAIN)
    )
    trace = float(train.square().sum()) / len(train)
    relative_damping = damping * sum(p.numel() for p in network.parameters()) / len(train) * 32 / trace
    scores = TrakScores(queries, lambda: [train], relative_damping)()
    assert relative(len(train) * found, scores) < 1e-12
