"""Networks larger than a GPU: blocks keep their weights in the host's memory and come one at a time."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from carv_distill.errors import UserError
from carv_distill.teachers.pipelines.network import PromptNetwork, PromptTransformer


class BlockOffload:
    """Brings a block's weights to the device when it is about to compute, and takes those of the block before
    back: of all blocks one is there.

    Backward works as forward does where blocks are checkpointed: then a block computes again, and so is
    brought back, right before its own gradients are made. Weights on the device are copies; those of the host
    are never written to.

    Args:
        blocks: modules that compute one after the other.
        device: where they compute.
    """

    def __init__(self, blocks: list[nn.Module], device: str | torch.device) -> None:
        self.device = torch.device(device)
        self._there: list[tuple[Tensor, Tensor]] = []
        self._block: nn.Module | None = None
        for block in blocks:
            block.register_forward_pre_hook(self._bring)

    def _bring(self, block: nn.Module, _: object) -> None:
        if block is self._block:
            return
        for tensor, host in self._there:
            tensor.data = host
        held = _tensors(block)
        self._there, self._block = [(tensor, tensor.data) for tensor in held], block
        for tensor, host in self._there:
            tensor.data = host.to(self.device, copy=True)


def offload_blocks(network: nn.Module, device: str | torch.device) -> BlockOffload:
    """Moves a network to the device but for its blocks, which come one at a time; for good.

    Raises:
        UserError: it is no transformer, whose blocks follow each other.
    """
    lists: list[nn.ModuleList] = []
    if isinstance(network, PromptTransformer):
        lists = [part for part in network.model.children() if isinstance(part, nn.ModuleList)]
    if not lists:
        named = type(network.model if isinstance(network, PromptNetwork) else network).__name__
        raise UserError(
            f"--offload: {named} is no transformer of blocks that follow each other; leave it out"
        )
    blocks = list(chain.from_iterable(lists))
    staying = {id(tensor) for block in blocks for tensor in _tensors(block)}
    for tensor in _tensors(network):
        if id(tensor) not in staying:
            tensor.data = tensor.data.to(device)
    return BlockOffload(blocks, device)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
