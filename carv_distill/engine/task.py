"""What a task hands to the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback


def save_product(module: Any, folder: Path) -> None:
    """As the module itself does it."""
    module.save(folder)


@dataclass(frozen=True)
class Task:
    """A module, and what is to happen beside its updates."""

    module: LightningModule
    callbacks: Callable[[Path], list[Callback]]
    """The task's own, given the run's folder."""
    product: str
    """Sub-folder of the run that the module is exported to."""
    shown: dict[str, str] = field(default_factory=dict)
    """Metrics that the progress line shows, with their format."""
    periods: tuple[int, ...] = ()
    """Steps between the measurements, at which the host waits for the device anyway."""
    fid_every: int = 0
    """Steps between two values of the metric `fid`, by which the best checkpoints are kept."""
    accumulate: int = 1
    """Shares of the batch that each process works through in an update."""
    strategy: str = "ddp"
    """Lightning's strategy where there are several processes."""
    save: Callable[[Any, Path], None] = save_product
    """Writes the module's product into its folder."""
