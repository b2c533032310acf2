"""Work of several processes: batches dealt out, gradients averaged."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Self, TypeVar

import torch
from torch import Tensor

from carv_distill.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """One part of an update's batch; what happens in it depends on its number alone.

    A process works through one share, or accumulates the gradient of several, one after the other: two
    processes and one that works through both shares make the same update.
    """

    index: int
    count: int
    """Shares of the whole batch."""

    @classmethod
    def of_process(cls, rank: int, world_size: int, accumulate: int) -> list[Share]:
        """The shares of one process: `accumulate` consecutive ones."""
        first = rank * accumulate
        return [cls(i, world_size * accumulate) for i in range(first, first + accumulate)]


def average_over_ranks(vector: Tensor, world_size: int) -> None:
    """Averages a tensor in place over all processes."""
    if world_size > 1:
        torch.distributed.all_reduce(vector)
        vector /= world_size


def gather_over_ranks(tensor: Tensor, world_size: int) -> Tensor:
    """The tensors of all processes, joined along the first axis in the order of their ranks."""
    if world_size == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size)]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def leave_group(status: int, together: bool) -> None:
    """Ends the process groups of one of several processes, before the interpreter ends.

    Their threads may still hold a tensor of their last exchange; one that lets go of it while Python is taken
    down aborts the process, and its exit status is lost. Who leaves alone does so without the interpreter's
    own end: nothing that is registered for it is called.

    Args:
        status: with which a process leaves at once that leaves alone: its groups may wait for the others.
        together: all processes of the groups leave now.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    if torch.distributed.get_world_size() == 1:
        return
    if together:
        torch.distributed.destroy_process_group()
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@dataclass(frozen=True)
class Processes:
    """Several processes that share a list of batches, each with a device of its own.

    Batches, not their members, are dealt out: what a network makes of an image may depend in its last bits on
    the others of the batch, and so does not depend on the number of processes.

    Not accelerate's PartialState, which has ranks from the environment alone: in a group made without it, it
    takes itself for the only process, and waits for no one.

    Attributes:
        rank: of this process.
        world_size: number of processes; above 1 a process group must be up.
        device: of this process.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device | str = "cpu"

    @classmethod
    def launched(cls, device: str) -> Self:
        """As torchrun says, with a gloo group for them; or this process alone.

        Raises:
            UserError: there are fewer GPUs than processes.
        """
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls(device=device)
        if not torch.distributed.is_initialized():
            # gloo: what goes through it is small or rare; a slow rank may take long
            torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
        if device == "cuda":
            number, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if number >= there:
                raise UserError(
                    f"torchrun started more processes than this machine has GPUs, {there}; start so many "
                    "(--nproc-per-node), or say --device cpu"
                )
            device = f"cuda:{number}"
            torch.cuda.set_device(device)
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), device)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world_size > 1:
            torch.distributed.barrier()

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """The first process goes through the block before the others: what it keeps on disk they find."""
        if self.rank:
            self.wait()
        yield
        if not self.rank:
            self.wait()

    def batches(self, count: int, size: int, rank: int | None = None) -> list[range]:
        """This rank's (or another's) share of 0..count-1, cut in batches of `size` (the last: the rest)."""
        rank = self.rank if rank is None else rank
        starts = range(0, count, size)[rank :: self.world_size]
        return [range(start, min(start + size, count)) for start in starts]

    def join(self, rows: Tensor, count: int, size: int) -> Tensor:
        """The rows [n, …] that every rank made of its batches, [count, …] in order on the CPU of rank 0; no
        rows on the others."""
        if self.world_size == 1:
            return rows.cpu()
        shares = [self.batches(count, size, rank) for rank in range(self.world_size)]
        lengths = [sum(map(len, share)) for share in shares]
        sent = torch.zeros(max(lengths), *rows.shape[1:], dtype=rows.dtype, device=self._transport)
        sent[: len(rows)] = rows
        parts = [torch.empty_like(sent) for _ in shares] if self.rank == 0 else None
        torch.distributed.gather(sent, parts)
        if parts is None:
            return rows[:0].cpu()
        joined = torch.empty(count, *rows.shape[1:], dtype=rows.dtype)
        for part, share in zip(parts, shares, strict=True):
            for batch in share:
                joined[batch.start : batch.stop] = part[: len(batch)].cpu()
                part = part[len(batch) :]
        return joined

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, on each of them."""
        if self.world_size == 1:
            return tensor
        sent = tensor.to(self._transport, copy=True)
        torch.distributed.all_reduce(sent)
        return sent.to(tensor.device)

    def tell(self, value: T) -> T:
        """What rank 0 has, on every process."""
        if self.world_size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values)
        return values[0]

    @property
    def _transport(self) -> torch.device | str:
        """Where tensors must lie to be sent."""
        return self.device if torch.distributed.get_backend() == "nccl" else "cpu"
