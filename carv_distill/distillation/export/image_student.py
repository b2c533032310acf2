"""A student as a diffusers pipeline: network, scheduler, the pipeline's code, a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import diffusers

from carv_distill.files import saved_folder, write_json
from carv_distill.model_card import CARD, THIS_FOLDER, card_head, table_rows
from carv_distill.teachers.edm.unet import EDMNetwork
from carv_distill.teachers.network import ImageNetwork, RawNetwork

_PIPELINE, _EDM = "pipeline.py", "edm_network"
_OF_EDM = f"unet/{_EDM}.py"
_EDM_SOURCE = '''\
"""The class of these weights; it is part of carv-distill."""

from carv_distill.teachers.edm import DhariwalUNet, SongUNet

__all__ = ["DhariwalUNet", "SongUNet"]
'''
CODE = {_PIPELINE: Path(__file__).with_name("one_step_pipeline.py").read_text("utf-8"), _OF_EDM: _EDM_SOURCE}
"""What a student's folder has of code, which diffusers runs where `trust_remote_code` is given."""
TAGS = "one-step", "distillation", "dmd"
_CARD = """\
{head}

# One-step student

A one-step generator of {channels} × {size} × {size} images, distilled from a diffusion teacher with
carv-distill: x = D(σ_max z; σ_max{label}), z ~ N(0, I). The network is a `{network}`{needs}.

## Use

```python
from diffusers import DiffusionPipeline

{folder}
pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)  # its pipeline.py is run
images = pipeline({arguments}).images
```

`output_type="raw"` gives the generator's x itself, a tensor in [-1, 1] up to its error.

## Figures

| | |
|---|---|
{rows}
"""
_NEEDS = " of `carv_distill.teachers.edm`;\ncarv-distill must be installed beside diffusers"


class Product(Protocol):
    """How a student is written."""

    def save(
        self,
        folder: Path,
        network: RawNetwork,
        figures: Mapping[str, str | float],
        averages: Iterable[tuple[str, RawNetwork]],
    ) -> None:
        """As a pipeline that diffusers reads.

        Args:
            figures: the run's numbers for its page, by name.
            averages: further averages of the student, by name.
        """


@dataclass(frozen=True)
class ImageProduct:
    """A student of labelled images, or of images alone.

    Args:
        scheduler_config: the teacher's scheduler.
        classes: that there are labels of.
    """

    scheduler_config: dict[str, Any]
    classes: int

    def save(
        self,
        folder: Path,
        network: RawNetwork,
        figures: Mapping[str, str | float],
        averages: Iterable[tuple[str, RawNetwork]],
    ) -> None:
        """See :func:`save_student`."""
        assert isinstance(network, ImageNetwork)
        card = student_card(network, self.classes, figures)
        save_student(folder, network, self.scheduler_config, card, averages)


def save_student(
    folder: Path,
    network: ImageNetwork,
    scheduler_config: dict[str, Any],
    card: str,
    averages: Iterable[tuple[str, RawNetwork]] = (),
) -> None:
    """Writes `model_index.json`, `unet/`, `scheduler/`, `pipeline.py` and README.md, each file atomically;
    every further average, by its name, as a pipeline of its own in `averages/<name>/`.

    A UNet2DModel student needs diffusers alone. The class of EDM's networks is this package's: diffusers
    finds it through a small file in `unet/`, where carv-distill is installed.
    """
    with saved_folder(folder) as scratch:
        _write_pipeline(scratch, network, scheduler_config)
        (scratch / CARD).write_text(card, "utf-8")
        for name, average in averages:
            assert isinstance(average, ImageNetwork)
            _write_pipeline(scratch / "averages" / name, average, scheduler_config)


def _write_pipeline(folder: Path, network: ImageNetwork, scheduler_config: dict[str, Any]) -> None:
    of_edm = isinstance(network, EDMNetwork)
    index = {
        "_class_name": ["pipeline", "OneStepPipeline"],
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", scheduler_config.get("_class_name", "DDPMScheduler")],
        "unet": [_EDM if of_edm else "diffusers", type(network.model).__name__],
    }
    network.save(folder / "unet")
    if of_edm:
        (folder / _OF_EDM).write_text(CODE[_OF_EDM], "utf-8")
    write_json(folder / "scheduler" / "scheduler_config.json", dict(sorted(scheduler_config.items())))
    write_json(folder / "model_index.json", index)
    (folder / _PIPELINE).write_text(CODE[_PIPELINE], "utf-8")


def student_card(network: ImageNetwork, classes: int, figures: Mapping[str, str | float]) -> str:
    """How to use the student, and the run's numbers, by name, as a table; `classes`: that there are labels
    of, as a network may have one more for "no label"."""
    labelled = network.labels > 0
    return _CARD.format(
        folder=THIS_FOLDER,
        head=card_head("unconditional-image-generation", *TAGS),
        channels=network.channels,
        size=network.size,
        label=", y" if labelled else "",
        network=type(network.model).__name__,
        needs=_NEEDS if isinstance(network, EDMNetwork) else "; nothing but diffusers is needed",
        arguments=f"class_labels={list(range(min(classes, 4)))}" if labelled else "batch_size=4",
        rows=table_rows(figures),
    )
