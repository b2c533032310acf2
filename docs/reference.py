"""Writes docs/configuration.md from the dataclasses of every task: python docs/reference.py"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from carv_distill.options import field_texts
from carv_distill.tasks import TASKS

PAGE = Path(__file__).with_name("configuration.md")
HEAD = """\
# Configuration

Every key of every task, its default and what is allowed; made from the dataclasses by
`python docs/reference.py`. Units of other codes are converted in [Published recipes](recipes.md#conversions).
An override on the command line is `section.key=value`. A resumed run keeps its values, but for those marked
with ↻.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for task in TASKS.values():
        example = f"[`configs/{task.example}`](../configs/{task.example})"
        parts.append(f"\n## Task `{task.name}`\n\n{_summary(task.config)} As in {example}.\n")
        parts += _sections(task.config(), "", False)
    return "".join(parts)


def _sections(options: Any, prefix: str, resume: bool) -> Iterator[str]:
    leaves = [spec for spec in fields(options) if not is_dataclass(getattr(options, spec.name))]
    texts = field_texts(type(options))
    if leaves:
        title = f"### `{prefix.rstrip('.')}`\n\n{_summary(type(options))}" if prefix else "### At the top"
        yield f"\n{title}\n\n| key | default | allowed | |\n|---|---|---|---|\n"
    for spec in leaves:
        free = " ↻" if resume or spec.metadata.get("resume") else ""
        cells = (f"`{prefix}{spec.name}`{free}", _default(spec), _allowed(spec), texts.get(spec.name, ""))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    for spec in fields(options):
        value = getattr(options, spec.name)
        if is_dataclass(value):
            yield from _sections(value, f"{prefix}{spec.name}.", resume or bool(spec.metadata.get("resume")))


def _default(spec: Field[Any]) -> str:
    value = spec.default_factory() if spec.default_factory is not MISSING else spec.default
    if value is None:
        return "empty"
    return "to be given" if value is MISSING or value == "???" else f"`{value}`"


def _allowed(spec: Field[Any]) -> str:
    limits = spec.metadata
    if "choices" in limits:
        several = "any of " if str(spec.type).startswith("list") else ""
        return several + ", ".join(limits["choices"])
    if limits.get("place"):
        return "file, folder" + (" or hub id" if limits["hub"] else "")
    kind = str(spec.type).removesuffix(" | None")
    if "schedule" in limits or "stages" in limits:
        kind = "float or list" if "schedule" in limits else "int or list"
    low = (
        f"from {limits['low']:g}"
        if "low" in limits
        else f"above {limits['above']:g}"
        if "above" in limits
        else ""
    )
    high = f"to {limits['high']:g}" if "high" in limits else ""
    return " ".join(filter(None, (kind, low, high)))


def _summary(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"written to {PAGE.name}")
