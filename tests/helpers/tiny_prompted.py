"""A distillation of the tiny Stable Diffusion from two prompts."""

from __future__ import annotations

from pathlib import Path

from .tiny_latent import save_tiny_pipeline


def save_prompted(folder: Path) -> None:
    """Teacher, prompts and a place for their embeddings."""
    save_tiny_pipeline(folder / "sd")
    (folder / "prompts.txt").write_text("a red torus\na blue cube")
    (folder / "cache").mkdir()


def words(folder: Path) -> list[str]:
    """Overrides of dmd_shapes.yaml."""
    return [
        f"teacher.path={folder / 'sd'}",
        f"prompts.path={folder / 'prompts.txt'}",
        f"prompts.cache={folder / 'cache'}",
        f"folder={folder / 'runs'}",
        "dmd.student_timestep=null",
        "estimator.upstream=3",
        "estimator.draws=2",
        "dmd.fake_batch=4",
        "fid.every=0",
        "variance.every=0",
        "trainer.max_steps=1",
    ]
