"""The page that goes with a student's weights."""

from __future__ import annotations

from collections.abc import Mapping

from carv_distill.teachers.edm.network import EDMNetwork
from carv_distill.teachers.network import RawNetwork

_CARD = """\
---
library_name: diffusers
tags:
- one-step
- distillation
- dmd
- carv-distill
# license: yours to choose; the teacher's may bind it
---

# One-step student

A one-step generator of {channels} × {size} × {size} images, distilled from a diffusion teacher with
carv-distill: x = D(σ_max z; σ_max{label}), z ~ N(0, I). The network is a `{network}`{needs}.

## Use

```python
from diffusers import DiffusionPipeline

# pipeline.py in this folder is the pipeline's code
pipeline = DiffusionPipeline.from_pretrained(".", custom_pipeline="./pipeline.py", trust_remote_code=True)
images = pipeline({arguments}).images
```

`output_type="raw"` gives the generator's x itself, a tensor in [-1, 1] up to its error.

## Figures

| | |
|---|---|
{rows}
"""
_NEEDS = " of `carv_distill.diffusion.edm`;\ncarv-distill must be installed beside diffusers"


def student_card(network: RawNetwork, classes: int, figures: Mapping[str, str | float]) -> str:
    """How to use the student, and the run's numbers as a table.

    Args:
        classes: that there are labels of; a network may have one more for "no label".
        figures: name → text or number, in the order of the rows.
    """
    labelled = network.labels > 0
    return _CARD.format(
        channels=network.channels,
        size=network.size,
        label=", y" if labelled else "",
        network=type(network.unet).__name__,
        needs=_NEEDS if isinstance(network, EDMNetwork) else "; nothing but diffusers is needed",
        arguments=f"class_labels={list(range(min(classes, 4)))}" if labelled else "batch_size=4",
        rows="\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in figures.items()),
    )


def _cell(value: str | float) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
