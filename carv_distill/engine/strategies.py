"""How several processes that have whole networks train them: Lightning's DDP, as far as a module needs it."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy


class UnwrappedStrategy(DDPStrategy):
    """Several processes with one module, which averages its own gradients.

    Of DDPStrategy the processes are taken, and no wrapper: its buckets would take 4 to 8 bytes for each
    parameter that learns, and its forward send all buffers round, a table of prompts among them. Processes
    begin alike because what they build follows from the configuration alone.
    """

    def configure_ddp(self) -> None:
        """There is nothing to wrap."""


def whole_strategy(module: LightningModule, staged: bool) -> DDPStrategy:
    """Of a module whose networks are whole in each process.

    Args:
        staged: whether it has one stage's gradients at a time.
    """
    if not module.automatic_optimization:
        return UnwrappedStrategy()
    # buffers are training sets, the same in all processes
    return DDPStrategy(find_unused_parameters=staged, broadcast_buffers=False)
