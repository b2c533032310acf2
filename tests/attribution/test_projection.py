"""Projections of per-sample gradients."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measure import peak_bytes
from carv_distill.attribution.projection import PROJECTIONS, NoProjector, Projector, build_projector
from carv_distill.carv import stream

RANDOM = [kind for kind in PROJECTIONS if kind != "none"]


def gradients(n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=stream("gradients"), dtype=torch.float64)


@pytest.mark.parametrize("kind", RANDOM)
def test_inner_products_are_kept(kind: str) -> None:
    """Over 1,000 checkpoints at m = 16: mean within 4 SE of ⟨x, y⟩, variance at most 2‖x‖²‖y‖²/m,
    within 4 SE of the mean squared deviation.
    """
    x = gradients(2, 60)
    x[1] += x[0]
    projector: Projector = build_projector(kind, 16, seed=1)
    found = torch.stack([projector.project(x, model).prod(0).sum() for model in range(1000)])
    assert abs(found.mean() - x[0] @ x[1]) < 4 * found.std() / 1000**0.5
    spread = (found - found.mean()).square()
    bound = 2 * x[0].square().sum() * x[1].square().sum() / 16
    assert spread.mean() < bound + 4 * spread.std() / 1000**0.5


@pytest.mark.parametrize("kind", RANDOM)
def test_one_projection_keeps_all_pairs(kind: str) -> None:
    """Eight vectors at m = 4096: each of the 36 inner products within 4 SE, √(2/m)‖x‖‖y‖ being one."""
    x = gradients(8, 6000)
    features = build_projector(kind, 4096).project(x, 0)
    norms = x.norm(dim=1)
    error = (features @ features.T - x @ x.T) / (norms[:, None] * norms)
    assert error.abs().max() < 4 * (2 / 4096) ** 0.5


@pytest.mark.parametrize("kind", RANDOM)
def test_seed_and_checkpoint_name_the_projection(kind: str) -> None:
    """The same twice; with another seed or checkpoint, features that are independent: over 500, the mean of
    their product is within 4 SE of 0.
    """
    x = gradients(1, 60)
    first = build_projector(kind, 16, seed=1)
    assert torch.equal(first.project(x, 3), build_projector(kind, 16, seed=1).project(x, 3))
    assert not torch.equal(first.project(x, 3), build_projector(kind, 16, seed=2).project(x, 3))
    features = torch.cat([first.project(x, model) for model in range(501)])
    product = (features[1:] * features[:-1]).sum(1)
    assert abs(product.mean()) < 4 * product.std() / 500**0.5


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_rows_do_not_depend_on_their_batch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of rows, the last not full."""
    monkeypatch.setattr("carv_distill.attribution.projection.BLOCK", 320)
    x = gradients(7, 103)
    projector = build_projector(kind, 16)
    parts = torch.cat([projector.project(part, 0) for part in x.split(3)])
    torch.testing.assert_close(parts, projector.project(x, 0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", RANDOM)
def test_a_lower_precision_projects_alike(kind: str) -> None:
    x = gradients(2, 500)
    projector = build_projector(kind, 32)
    for dtype, error in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        found = projector.project(x.to(dtype), 0)
        assert found.dtype == torch.float32
        assert (found - projector.project(x, 0)).norm() < error * x.norm()


@pytest.mark.parametrize("kind", RANDOM)
def test_the_matrix_is_never_whole(kind: str) -> None:
    """16,384 × 4,096 float32 would be 256 MB; one block of 2²² entries stays below 32 MB."""
    x = gradients(1, 16_384).float()
    projector = build_projector(kind, 4096)
    assert peak_bytes(lambda: projector.project(x, 0)) < 32 * 2**20


def test_none_gives_the_gradients() -> None:
    x = gradients(2, 5)
    assert build_projector("none", 16).project(x, 0) is x
    assert NoProjector().describe() == {"kind": "none"}


def test_a_description_names_kind_size_and_seed() -> None:
    for kind in RANDOM:
        assert build_projector(kind, 16, 5).describe() == {"kind": kind, "size": 16, "seed": 5}


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of none, countsketch, gaussian, rademacher; found 'fjlt'$"):
        build_projector("fjlt", 16)
    for kind in RANDOM:
        with pytest.raises(ValueError, match="at least 1, found 0"):
            build_projector(kind, 0)
