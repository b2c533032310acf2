"""Lightning's loop and nothing else."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

Module = TypeVar("Module", bound=LightningModule)


def fit(
    module: Module,
    steps: int,
    *callbacks: Callback,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    accelerator: Literal["cpu", "gpu"] = "cpu",
) -> Module:
    """The module after so many steps on one device."""
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        max_steps=steps,
        max_epochs=-1,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)
    return module


def fit_without_waiting(module: LightningModule) -> None:
    """Four training steps on a CUDA device in bf16, the last two under torch's synchronisation check."""
    step = module.training_step

    def checked(batch: object, batch_idx: int) -> None:
        if module.global_step < 2:  # tables and optimiser states are made
            step(batch, batch_idx)
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(batch, batch_idx)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    module.training_step = checked  # type: ignore[method-assign]
    fit(module, 4, precision="bf16-mixed", accelerator="gpu")
