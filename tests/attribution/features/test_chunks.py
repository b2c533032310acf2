"""The size of a chunk."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from carv_distill.attribution.features import chunks
from carv_distill.attribution.features.chunks import find_chunk

CPU = torch.device("cpu")


class Clock:
    """Seconds that pass where a test says so, whatever else the machine does."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(chunks, "time", SimpleNamespace(perf_counter=made.perf_counter))
    return made


def test_doubles_while_it_pays(clock: Clock) -> None:
    """10 ms a call whatever its size up to 16, then 5 ms a sample: no more than 32 is worth it."""
    sizes: list[int] = []

    def work(count: int) -> None:
        sizes.append(count)
        clock.sleep(0.01 + 0.005 * max(0, count - 16))

    assert find_chunk(work, 4, 1000, CPU) == 16
    assert max(sizes) == 64


def test_stays_within_memory_and_the_number_of_samples(clock: Clock) -> None:
    sizes: list[int] = []

    def work(count: int) -> None:
        sizes.append(count)
        clock.sleep(0.002)

    assert find_chunk(work, 4, 6, CPU) == 6
    assert sorted(set(sizes)) == [1, 2, 4, 6]
    assert find_chunk(work, 2**50, 1000, CPU) == 1


def test_goes_back_when_memory_ran_out(clock: Clock) -> None:
    def work(count: int) -> None:
        if count > 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        clock.sleep(0.002)

    assert find_chunk(work, 4, 1000, CPU) == 8

    def hopeless(count: int) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        find_chunk(hopeless, 4, 1000, CPU)

    def broken(count: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        find_chunk(broken, 4, 1000, CPU)
