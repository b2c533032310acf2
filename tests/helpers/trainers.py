"""Lightning's trainer and nothing else."""

from __future__ import annotations

from lightning.pytorch import Trainer


def bare_trainer(max_steps: int, precision: str = "32-true") -> Trainer:
    """On a CPU, without files and bars."""
    return Trainer(
        max_steps=max_steps,
        max_epochs=-1,
        precision=precision,  # type: ignore[arg-type]
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
