"""Batches are a function of seed, share and step."""

from __future__ import annotations

import os
import signal
import time
from itertools import islice
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.data.batches import ordered_loader, step_loader
from carv_distill.data.images import load_images
from carv_distill.errors import UserError
from tests.helpers.image_files import LAST, as_folder, as_zip, pictures, stored


def test_a_batch_is_the_first_draw_of_its_stream() -> None:
    data = load_images("digits")
    loader = step_loader(data, 5, 7, "teacher", [2], 3, workers=2)
    assert loader.num_workers == 0  # nothing to decode
    for step, (x, labels) in zip((3, 4), loader, strict=False):
        pick = torch.randint(len(data), (5,), generator=stream(7, 2, step, "teacher"))
        assert torch.equal(x, data.images[pick])
        assert torch.equal(labels, data.labels[pick])


def test_shares_and_starts_change_nothing() -> None:
    data = load_images("digits")

    def labels(shares: list[int], start: int, count: int) -> list[torch.Tensor]:
        loader = step_loader(data, 4, 0, "k", shares, start, 0)
        return [y for _, y in islice(loader, count)]

    both, first, second = labels([0, 1], 0, 4), labels([0], 0, 4), labels([1], 0, 4)
    assert all(torch.equal(b, torch.cat(pair)) for b, *pair in zip(both, first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(labels([0, 1], 2, 2), both[2:], strict=True))
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize("write", [as_folder, as_zip])
def test_worker_processes_read_what_this_one_does(write: object, tmp_path: Path) -> None:
    data = load_images(stored(write(tmp_path, pictures()), flip=True))  # type: ignore[operator]
    data.batch(torch.tensor([0]))  # the zip's descriptor is open before the workers fork
    alone, others = (islice(step_loader(data, 8, 0, "k", [0], 5, w), 4) for w in (0, 2))
    for (x, a), (y, b) in zip(alone, others, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(a, b)
    parts = list(ordered_loader(data, [range(5), range(5, 12)], 2))
    assert torch.equal(torch.cat([x for x, _ in parts]), data.batch(torch.arange(12))[0])


def test_a_mistake_in_a_worker_is_one_line(tmp_path: Path) -> None:
    path = as_folder(tmp_path, pictures())
    loader = step_loader(load_images(stored(path)), 32, 0, "k", [0], 0, 2)
    Path(path, LAST).write_bytes(b"no image")  # sets of more than 64 images are not looked through
    with pytest.raises(UserError, match=f"{LAST} is no whole image") as caught:
        next(iter(loader))
    assert "\n" not in str(caught.value)


def test_workers_go_on_after_a_signal_to_all_processes_of_a_run(tmp_path: Path) -> None:
    """One of each kind; a second SIGTERM ends them."""
    data = load_images(stored(as_folder(tmp_path, pictures())))
    alone = list(islice(step_loader(data, 8, 0, "k", [0], 0, 0), 12))
    before = set(active_children())
    others = iter(step_loader(data, 8, 0, "k", [0], 0, 2))
    found = [next(others), next(others)]  # one of each worker, which has begun by then
    workers = set(active_children()) - before
    assert len(workers) == 2
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        for worker in workers:
            assert worker.pid is not None
            os.kill(worker.pid, number)
    time.sleep(0.2)
    found += islice(others, 10)
    assert all(torch.equal(x, y) for (x, _), (y, _) in zip(alone, found, strict=True))
    assert all(worker.is_alive() for worker in workers)

    def end(worker: BaseProcess) -> None:
        worker.terminate()
        time.sleep(5)  # until the loader is told

    with pytest.raises(RuntimeError, match="exited unexpectedly with exit code 143"):
        end(workers.pop())
