"""The size of a chunk."""

from __future__ import annotations

import time

import pytest
import torch

from carv_distill.attribution.chunks import find_chunk

CPU = torch.device("cpu")


def test_doubles_while_it_pays() -> None:
    """10 ms a call whatever its size up to 16, then 5 ms a sample: no more than 32 is worth it."""
    sizes: list[int] = []

    def work(count: int) -> None:
        sizes.append(count)
        time.sleep(0.01 + 0.005 * max(0, count - 16))

    assert find_chunk(work, 4, 1000, CPU) in (16, 32)
    assert max(sizes) <= 64


def test_stays_within_memory_and_the_number_of_samples() -> None:
    sizes: list[int] = []

    def work(count: int) -> None:
        sizes.append(count)
        time.sleep(0.002)

    assert find_chunk(work, 4, 6, CPU) == 6
    assert sorted(set(sizes)) == [1, 2, 4, 6]
    assert find_chunk(work, 2**50, 1000, CPU) == 1


def test_goes_back_when_memory_ran_out() -> None:
    def work(count: int) -> None:
        if count > 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        time.sleep(0.002)

    assert find_chunk(work, 4, 1000, CPU) == 8

    def hopeless(count: int) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        find_chunk(hopeless, 4, 1000, CPU)

    def broken(count: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        find_chunk(broken, 4, 1000, CPU)
