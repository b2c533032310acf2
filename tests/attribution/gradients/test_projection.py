"""Projections of per-sample gradients."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measure import peak_bytes
from carv_distill.attribution.gradients.projection import (
    KEPT,
    PROJECTIONS,
    Adapted,
    Layout,
    NoProjector,
    Projector,
    SketchProjector,
    build_projector,
)
from carv_distill.carv import stream

RANDOM = [kind for kind in PROJECTIONS if kind != "none"]


def gradients(n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=stream("gradients"), dtype=torch.float64)


def layout_of(x: torch.Tensor) -> Layout:
    """Three parameters, the middle one with half of the entries."""
    quarter = x.shape[1] // 4
    sizes = {"first": quarter, "second": x.shape[1] // 2, "third": 0}
    sizes["third"] = x.shape[1] - sum(sizes.values())
    return Layout(sizes, torch.promote_types(x.dtype, torch.float32), x.device)


def project(projector: Projector, x: torch.Tensor, model_id: int = 0, turned: bool = False) -> torch.Tensor:
    """Gradients [n, d] → [n, m], parameter by parameter, from the last to the first if `turned`."""
    layout = layout_of(x)
    total = projector.begin(layout, len(x), model_id)
    parts = dict(zip(layout.sizes, x.split([*layout.sizes.values()], 1), strict=True))
    for name in reversed(layout.sizes) if turned else layout.sizes:
        total.add(name, parts[name])
    return total.features()


@pytest.mark.parametrize("kind", RANDOM)
def test_inner_products_are_kept(kind: str) -> None:
    """Over 1,000 checkpoints at m = 16: mean within 4 SE of ⟨x, y⟩, variance at most 2‖x‖²‖y‖²/m,
    within 4 SE of the mean squared deviation.
    """
    x = gradients(2, 60)
    x[1] += x[0]
    projector: Projector = build_projector(kind, 16, seed=1)
    found = torch.stack([project(projector, x, model).prod(0).sum() for model in range(1000)])
    assert abs(found.mean() - x[0] @ x[1]) < 4 * found.std() / 1000**0.5
    spread = (found - found.mean()).square()
    bound = 2 * x[0].square().sum() * x[1].square().sum() / 16
    assert spread.mean() < bound + 4 * spread.std() / 1000**0.5


@pytest.mark.parametrize("kind", RANDOM)
def test_one_projection_keeps_all_pairs(kind: str) -> None:
    """Eight vectors at m = 4096: each of the 36 inner products within 4 SE, √(2/m)‖x‖‖y‖ being one."""
    x = gradients(8, 6000)
    features = project(build_projector(kind, 4096), x)
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
    assert torch.equal(project(first, x, 3), project(build_projector(kind, 16, seed=1), x, 3))
    assert not torch.equal(project(first, x, 3), project(build_projector(kind, 16, seed=2), x, 3))
    features = torch.cat([project(first, x, model) for model in range(501)])
    product = (features[1:] * features[:-1]).sum(1)
    assert abs(product.mean()) < 4 * product.std() / 500**0.5


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_rows_do_not_depend_on_their_batch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of rows, the last not full."""
    monkeypatch.setattr("carv_distill.attribution.gradients.projection.BLOCK", 320)
    x = gradients(7, 103)
    projector = build_projector(kind, 16)
    parts = torch.cat([project(projector, part) for part in x.split(3)])
    torch.testing.assert_close(parts, project(projector, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", RANDOM)
def test_a_lower_precision_projects_alike(kind: str) -> None:
    x = gradients(2, 500)
    projector = build_projector(kind, 32)
    for dtype, error in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        found = project(projector, x.to(dtype))
        assert found.dtype == torch.float32
        assert (found - project(projector, x)).norm() < error * x.norm()


@pytest.mark.parametrize("kind", RANDOM)
def test_the_matrix_is_never_whole(kind: str) -> None:
    """16,384 × 4,096 float32 would be 256 MB; one block of 2²² entries stays below 32 MB."""
    x = gradients(1, 16_384).float()
    projector = build_projector(kind, 4096)
    assert peak_bytes(lambda: project(projector, x)) < 32 * 2**20


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_a_sum_over_parameters_in_any_order(kind: str) -> None:
    """A subset's feature is what it adds to the whole's; another name is another projection."""
    x, projector = gradients(3, 101), build_projector(kind, 16)
    whole = project(projector, x)
    torch.testing.assert_close(project(projector, x, turned=True), whole, rtol=0, atol=1e-12)
    layout, parts = layout_of(x), {}
    for name, part in zip(layout.sizes, x.split([*layout.sizes.values()], 1), strict=True):
        alone = projector.begin(layout, 3)
        alone.add(name, part)
        parts[name] = alone.features()
    torch.testing.assert_close(sum(parts.values()), whole, rtol=0, atol=1e-12)
    if kind != "none":
        own = Layout({"second": layout.sizes["second"]}, layout.dtype, layout.device)
        renamed = Layout({"else": layout.sizes["second"]}, layout.dtype, layout.device)
        middle = x[:, 25:75]
        totals = [projector.begin(one, 3) for one in (own, renamed)]
        totals[0].add("second", middle)
        totals[1].add("else", middle)
        assert torch.equal(totals[0].features(), parts["second"])
        assert (totals[1].features() - parts["second"]).norm() > 0.5 * parts["second"].norm()


def test_kept_signs_are_those_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more than the room for them: of 20 + 40 + 20 entries the first and the last, or all."""
    x = gradients(2, 80)
    found = []
    for room, kept in ((KEPT, 3), (45, 2), (0, 0)):
        monkeypatch.setattr("carv_distill.attribution.gradients.projection.KEPT", room)
        projector = SketchProjector(16)
        twice = [project(projector, x) for _ in range(2)]
        assert torch.equal(*twice)
        found.append(twice[0])
        assert sum(sketch.keeps for sketch in projector._sketches.values()) == kept
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_none_gives_the_gradients() -> None:
    x = gradients(2, 5)
    assert torch.equal(project(build_projector("none", 16), x), x)
    assert NoProjector().describe() == {"kind": "none"}


def test_someone_elses_projector_gets_whole_gradients() -> None:
    class First:
        def project(self, grads: torch.Tensor, model_id: int) -> torch.Tensor:
            return grads[:, : 2 + model_id]

    x = gradients(3, 9)
    assert torch.equal(project(Adapted(First()), x, turned=True), x[:, :2])
    assert torch.equal(project(Adapted(First()), x, model_id=2), x[:, :4])


def test_a_description_names_kind_size_and_seed() -> None:
    """And that names are of parameters: features of before, of whole gradients, are others."""
    for kind in RANDOM:
        described = {"kind": kind, "size": 16, "seed": 5, "by": "parameter"}
        assert build_projector(kind, 16, 5).describe() == described


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of none, countsketch, gaussian, rademacher; found 'fjlt'$"):
        build_projector("fjlt", 16)
    for kind in RANDOM:
        with pytest.raises(ValueError, match="at least 1, found 0"):
            build_projector(kind, 0)
