"""Functions that several processes run together, in a group of gloo."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from tests.helpers.forked import forked


class Processes:
    """So many processes that wait for work: starting them and loading torch takes most of a test's time.

    Args:
        count: of them.
        seconds: that one call may take.
    """

    def __init__(self, count: int, seconds: float = 120) -> None:
        self.count, self.seconds = count, seconds
        self._workers: list[tuple[Any, Connection]] = []

    def run(self, function: Callable[..., None], *arguments: Any) -> None:
        """`function(mesh, *arguments)` in each; what fails in any of them fails here. The function must be at
        the top of its module."""
        if not self._workers:
            self._start()
        for _, connection in self._workers:
            connection.send((function, arguments))
        end, waiting = time.monotonic() + self.seconds, [connection for _, connection in self._workers]
        while waiting:
            for connection in [c for c in waiting if c.poll(0.02)]:
                waiting.remove(connection)
                if fault := connection.recv():
                    self.close()
                    raise AssertionError(fault)
            if time.monotonic() > end:
                self.close()
                raise TimeoutError(f"{function.__name__}: no answer within {self.seconds} s")

    def close(self) -> None:
        """Ends them; the next call starts new ones."""
        for process, _ in self._workers:
            process.kill()
            process.join()
        self._workers = []

    def _start(self) -> None:
        store = str(Path(tempfile.mkdtemp(), "store"))
        for rank in range(self.count):
            here, there = multiprocessing.Pipe()
            process = forked(_work, rank, self.count, store, there, daemon=True)
            there.close()
            self._workers.append((process, here))


def _work(rank: int, count: int, store: str, connection: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=count)
    mesh: DeviceMesh = init_device_mesh("cpu", (count,))
    while True:
        function, arguments = connection.recv()
        try:
            function(mesh, *arguments)
            dist.barrier()
            connection.send("")
        except BaseException:  # pytest's own failures too: all are told to the test, which raises
            connection.send(f"in process {rank}:\n{traceback.format_exc()}")
