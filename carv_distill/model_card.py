"""What the pages of all that a run makes have in common: README.md, a model card for the hub."""

from __future__ import annotations

from collections.abc import Mapping

from huggingface_hub import ModelCardData

CARD = "README.md"
THIS_PATH = "path/to/this/folder"
"""What stands in a page for the folder that it lies in."""
THIS_FOLDER = f'folder = "{THIS_PATH}"  # the one that this page lies in'
"""What a page begins its example with, which then runs from anywhere."""

AS_TEACHER = f"`teacher.path={THIS_PATH}` makes it the teacher of a run of carv-distill."


def card_head(pipeline_tag: str, *tags: str, library: str | None = "diffusers") -> str:
    """The block of metadata that a page begins with, from one line of dashes to the other.

    Args:
        pipeline_tag: what the model does, as the hub names it: unconditional-image-generation, text-to-3d, …
        library: that reads the folder.
    """
    data = ModelCardData(library_name=library, pipeline_tag=pipeline_tag, tags=[*tags, "carv-distill"])
    return f"---\n{data.to_yaml()}\n# license: yours to choose; the teacher's or the data's may bind it\n---"


def table_rows(figures: Mapping[str, str | float]) -> str:
    """Numbers by name as the rows of a Markdown table."""
    return "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in figures.items())


def _cell(value: str | float) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
