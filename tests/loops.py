"""Lightning's loop and nothing else."""

from __future__ import annotations

from typing import TypeVar

from lightning.pytorch import LightningModule, Trainer

Module = TypeVar("Module", bound=LightningModule)


def fit(module: Module, steps: int) -> Module:
    """The module after so many steps on a CPU."""
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)
    return module
