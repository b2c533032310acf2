"""Copies of the reference, told from new images of its distribution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from carv_distill.evaluation import copies
from carv_distill.evaluation.copies import CHANCE, copied_share


def normal(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dim", [1, 3, 32])
@pytest.mark.parametrize("heavy", [False, True])
def test_new_images_are_copies_by_chance_alone(dim: int, heavy: bool) -> None:
    """0.05 of 60 sets of 200 against 400, within 4 standard errors, whatever the law of the features."""

    def drawn(n: int, seed: int) -> Tensor:
        x = normal(n, dim, seed)
        return x.exp() if heavy else x

    shares = torch.tensor([copied_share(drawn(200, 2 * i), drawn(400, 2 * i + 1)) for i in range(60)])
    assert abs(shares.mean() - CHANCE) < 4 * shares.std() / 60**0.5


def test_repeated_images_are_copies() -> None:
    """All of them, half of them, and those that are only nearly the same."""
    reference, new = normal(300, 8, 0), normal(300, 8, 1)
    by_chance = copied_share(new[:150], reference)
    assert copied_share(reference, reference) == 1
    assert copied_share(reference + 1e-3 * new, reference) == 1
    half = torch.cat([reference[150:], new[:150]])
    assert copied_share(half, reference) == pytest.approx((1 + by_chance) / 2)


def test_one_in_twenty_of_the_reference_lies_so_near() -> None:
    """On a line with gaps 1, 2, 3, … the nearest other one of point i lies i away, of the first two 1."""
    reference = torch.arange(40, dtype=torch.float64).cumsum(0)[:, None]
    assert copied_share(reference[-1:] + 1, reference) == 1  # 2 of 40 are 1 from another, so that q is 1
    assert copied_share(reference[-1:] + 1.01, reference) == 0


def test_blocks_do_not_move_it(monkeypatch: pytest.MonkeyPatch) -> None:
    generated, reference = normal(70, 4, 0), normal(90, 4, 1)
    whole = copied_share(generated, reference)
    monkeypatch.setattr(copies, "ROWS", 32)
    assert copied_share(generated, reference) == whole


def test_pictures_that_are_there_twice_leave_exact_copies_alone() -> None:
    reference = normal(60, 4, 0).repeat(2, 1)
    assert copied_share(reference[:10], reference) == 1
    assert copied_share(normal(60, 4, 1), reference) == 0
