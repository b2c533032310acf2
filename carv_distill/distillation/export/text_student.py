"""How a text-to-image student is written: a complete pipeline of its teacher's kind, and its adapters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carv_distill.teachers.adapters import AdapterView, SharedNetwork
from carv_distill.teachers.network import RawNetwork
from carv_distill.teachers.pipelines.folder import PipelineFolder
from carv_distill.teachers.pipelines.network import PromptNetwork

from .adapter_files import save_adapter
from .text_card import text_student_card
from .text_pipeline import one_step_scheduler, save_text_student

LORA = "lora"
"""Sub-folder of a student for its adapter."""


@dataclass(frozen=True)
class TextProduct:
    """A text-to-image student.

    Args:
        pipeline: the teacher's, whose other parts the student's has too.
        scheduler_config: the teacher's scheduler.
        timestep: τ of the student; None is the last one.
        size: of its pictures, in pixels.
        prompt: of the example on its page.
        guidance: what a network that is told its scale is told.
        shared: where its adapters lie, if it is one.
    """

    pipeline: PipelineFolder
    scheduler_config: dict[str, Any]
    timestep: int | None
    size: tuple[int, ...]
    prompt: str
    guidance: float | None = None
    shared: SharedNetwork | None = None

    def check(self, network: PromptNetwork) -> None:
        """That the student can be written, before it is trained.

        Raises:
            UserError: no stock scheduler takes its step.
        """
        self._scheduler(network)

    def _scheduler(self, network: PromptNetwork) -> dict[str, Any]:
        place, family = self.pipeline.folder, self.pipeline.family
        return one_step_scheduler(network, place, family, self.scheduler_config, self.timestep)

    def save(
        self,
        folder: Path,
        network: RawNetwork,
        figures: Mapping[str, str | float],
        averages: Iterable[tuple[str, RawNetwork]],
    ) -> None:
        """The whole pipeline with merged weights, and an adapter's own file in `lora/`."""
        place, family = self.pipeline.folder, self.pipeline.family
        left_out = family.left_out(self.pipeline.index)
        others = ((name, merged(each)) for name, each in averages)
        config, whole = self.scheduler_config, merged(network)
        scheduler = None if self.shared is None else str(self._scheduler(whole)["_class_name"])
        card = text_student_card(family, self.size, self.prompt, figures, self.guidance, left_out, scheduler)
        save_text_student(folder, whole, place, family, config, self.timestep, card, others)
        if self.shared is not None:
            assert isinstance(network, AdapterView)
            save_adapter(folder / LORA, self.shared, str(network.name))


def merged(network: RawNetwork) -> PromptNetwork:
    """The network itself, or with its adapter merged into its own weights."""
    whole = network.shared.merged(network.name) if isinstance(network, AdapterView) else network
    assert isinstance(whole, PromptNetwork)
    return whole
