"""Where the averages of a network that learns lie: beside it, or in the host's memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from .optimisation import NetworkParameters, ParameterVector, ema_update
from .sharding import network_parameters

SLICE = 2**24
"""Numbers of an average in the host's memory that are on the device at a time."""


class Averaging:
    """Averages on the device of the network."""

    def vector(self, parameters: Sequence[Parameter], world_size: int) -> NetworkParameters:
        """Takes over the parameters of an average that is a network."""
        return network_parameters(parameters, world_size)

    def kept(self, tensor: Tensor) -> Tensor:
        """An average that is no network, where it is to lie."""
        return tensor

    def update(self, average: Sequence[Tensor], parameters: Sequence[Tensor], decay: float) -> None:
        """θ̄ ← δ θ̄ + (1 − δ) θ, in place."""
        ema_update(average, parameters, decay)

    def before_step(self) -> None:
        """To be called before θ changes."""

    def finish(self) -> None:
        """To be called before averages are read."""

    def on_device(
        self, parameters: Iterable[Parameter], device: torch.device
    ) -> contextlib.AbstractContextManager[None]:
        """A block in which the network of an average can be called on a device, and nothing changes it."""
        return contextlib.nullcontext()


class HostAveraging(Averaging):
    """Averages in the host's memory of a network on a CUDA device; on a CPU the two are the same.

    The device makes them, slice by slice, by the operation that would make them there: its numbers are the
    same bit for bit, and no core has to work. It does so on a stream of its own, to and from pinned memory,
    beside what comes next; only the next change of θ waits for it, on the device, and the host never. Each
    update moves every average to the device and back. (torch rounds pinned memory up to a power of two.)
    """

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None

    def vector(self, parameters: Sequence[Parameter], world_size: int) -> NetworkParameters:
        self.finish()
        return ParameterVector(parameters, world_size, place=self.kept)

    def kept(self, tensor: Tensor) -> Tensor:
        self.finish()
        host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
        return host.copy_(tensor)

    def update(self, average: Sequence[Tensor], parameters: Sequence[Tensor], decay: float) -> None:
        if parameters[0].device.type == "cpu":
            ema_update(average, parameters, decay)
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(parameters[0].device)
        self._stream.wait_stream(torch.cuda.current_stream(parameters[0].device))
        with torch.cuda.stream(self._stream):
            for host, own in zip(average, parameters, strict=True):
                for part, like in zip(host.flatten().split(SLICE), own.flatten().split(SLICE), strict=True):
                    moved = part.to(like.device, non_blocking=True)
                    ema_update([moved], [like], decay)
                    part.copy_(moved, non_blocking=True)

    def before_step(self) -> None:
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def finish(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()

    @contextlib.contextmanager
    def on_device(self, parameters: Iterable[Parameter], device: torch.device) -> Iterator[None]:
        self.finish()
        host = [(p, p.data) for p in parameters]
        for p, data in host:
            p.data = data.to(device)
        try:
            yield
        finally:
            for p, data in host:
                p.data = data
