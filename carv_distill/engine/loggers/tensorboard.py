"""TensorBoard, in the run's tensorboard/."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from carv_distill.engine.config import to_dict
from carv_distill.engine.options import RunConfig
from carv_distill.engine.yaml_files import yaml_text

from .face import RunLogger

FOLDER = "tensorboard"


class TensorBoard(TensorBoardLogger, RunLogger):
    """Scalars, pictures, and films as GIFs; it has no place for a mesh.

    Args:
        resume_step: what an earlier attempt has logged after it is hidden.
    """

    def __init__(self, run: Path, resume_step: int) -> None:
        super().__init__(run, name=FOLDER, version="", purge_step=resume_step + 1)

    @rank_zero_only
    def log_config(self, config: RunConfig) -> None:
        self.experiment.add_text("config", f"```yaml\n{yaml_text(to_dict(config))}```")

    @rank_zero_only
    def log_picture(self, name: str, path: Path, step: int) -> None:
        with Image.open(path) as picture:
            self.experiment.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    @rank_zero_only
    def log_result(self, name: str, path: Path, step: int) -> None:
        if path.suffix == ".png":
            self.log_picture(name, path, step)
        elif path.suffix == ".mp4":
            self._log_film(name, path, step)

    @rank_zero_only
    def log_summary(self, figures: Mapping[str, float]) -> None:
        """Nothing: it has no place for figures without a step."""

    def _log_film(self, name: str, path: Path, step: int) -> None:
        # add_video does the same by moviepy, from an array of all frames
        from tensorboard.compat.proto.summary_pb2 import Summary

        gif, (width, height) = as_gif(path)
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self.experiment.file_writer.add_summary(summary, step)


def as_gif(path: Path) -> tuple[bytes, tuple[int, int]]:
    """A film as an endless GIF, with its width and height."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        milliseconds = round(1000 / (stream.average_rate or 20))
        frames = [frame.to_image() for frame in container.decode(stream)]
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    return content.getvalue(), frames[0].size
