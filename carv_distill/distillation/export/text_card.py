"""The page of a text student's folder: how it is used, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from carv_distill.model_card import THIS_FOLDER, card_head, table_rows
from carv_distill.teachers.pipelines.family import Family

from .image_student import TAGS

_CARD = """\
{head}

# One-step student

A one-step generator of {what}, distilled from a `{pipeline}` with carv-distill: a pipeline of
that kind, for which diffusers alone is needed. {guidance}

## Use

```python
from diffusers import DiffusionPipeline

{folder}
pipeline = DiffusionPipeline.from_pretrained({loading})
{result} = pipeline(
    {arguments},
).{result}
```

Another number of steps is not what it was trained for.
{adapters}
## Figures

| | |
|---|---|
{rows}
"""
_ADAPTERS = """
What it learned is in this folder's weights. `lora/` has it alone, for its teacher with this folder's
scheduler and the arguments below; loaded into this pipeline it would count twice.

```python
from diffusers import DiffusionPipeline, {scheduler}

{folder}
pipeline = DiffusionPipeline.from_pretrained({loading})
pipeline.scheduler = {scheduler}.from_pretrained(folder, subfolder="scheduler")
pipeline.load_lora_weights(folder, subfolder="lora")
{result} = pipeline(
    {arguments},
).{result}
```
"""
_NO_GUIDANCE = "Its guidance is built in: `guidance_scale` has no\neffect."
_GUIDANCE_OFF = "Its guidance is built in: it is called without more,\n`guidance_scale=1.0`."
_GUIDANCE_TOLD = "It is told the guidance scale that it was distilled\nwith."


def text_student_card(
    family: Family,
    size: Sequence[int],
    prompt: str,
    figures: Mapping[str, str | float],
    guidance: float | None = None,
    left_out: Sequence[str] = (),
    adapters_scheduler: str | None = None,
) -> str:
    """How to use the student, and the run's numbers, by name, as a table.

    Args:
        size: of a picture in pixels, [height, width], or of a video, [frames, height, width].
        prompt: of the example.
        guidance: what a network that is told its scale was told; None for others.
        left_out: text parts that the folder goes without, see :meth:`~.family.Family.left_out`.
        adapters_scheduler: class of the folder's scheduler, where there is a file of adapters beside the
            weights.
    """
    *frames, height, width = size
    arguments: dict[str, Any] = {"num_inference_steps": 1, "height": height, "width": width}
    if frames:
        arguments["num_frames"] = frames[0]
    arguments |= family.call
    about = _GUIDANCE_OFF if "guidance_scale" in family.call else _NO_GUIDANCE
    if guidance is not None:
        arguments["guidance_scale"], about = guidance, _GUIDANCE_TOLD
    sides = " × ".join(map(str, size))
    result = "frames" if frames else "images"
    without = [f"{part}=None" for part in left_out]
    adapters = ""
    if adapters_scheduler is not None:
        adapters = _ADAPTERS.format(
            folder=THIS_FOLDER,
            scheduler=adapters_scheduler,
            loading=", ".join([repr(str(figures.get("teacher", "its/teacher"))), *without]),
            result=result,
            arguments=_call(prompt, {"guidance_scale": 1.0, **arguments}),
        )
    return _CARD.format(
        folder=THIS_FOLDER,
        head=card_head("text-to-video" if frames else "text-to-image", *TAGS),
        what=f"videos of {sides}" if frames else f"pictures of {sides}",
        pipeline=family.pipeline.__name__,
        guidance=about,
        loading=", ".join(["folder", *without]),
        result=result,
        arguments=_call(prompt, arguments),
        adapters=adapters,
        rows=table_rows(figures),
    )


def _call(prompt: str, arguments: Mapping[str, Any]) -> str:
    return ",\n    ".join([repr(prompt), *(f"{key}={value!r}" for key, value in arguments.items())])
