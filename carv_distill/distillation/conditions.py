"""What student samples are conditioned on: numbers [n], drawn anew for each, and what stands behind them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from carv_distill.teachers.condition import Cond, Condition
from carv_distill.teachers.pipelines.encoder import PromptEncoder
from carv_distill.teachers.pipelines.table import PromptTable


class Conditions(nn.Module, ABC):
    """Class labels, or numbers of prompts."""

    count: int
    """Different numbers: 0 … count − 1."""

    @abstractmethod
    def draw(self, count: int, g: torch.Generator) -> Tensor:
        """Numbers of independent samples, [n]."""

    @abstractmethod
    def forward(self, numbers: Tensor) -> Cond:
        """What the network takes for them."""


class Labels(Conditions):
    """Class labels, uniform over 0 … classes − 1: the numbers themselves."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.count = classes

    def draw(self, count: int, g: torch.Generator) -> Tensor:
        return torch.randint(max(self.count, 1), (count,), generator=g, device=g.device)

    def forward(self, numbers: Tensor) -> Cond:
        return numbers


class Prompts(Conditions):
    """Prompts of a table, of which some are drawn uniformly.

    Args:
        texts: the prompt of each number: first the captions of the data set, whose labels are their numbers.
        table: their conditions.
        drawn: numbers that a student sample may have, [P]; one that is there twice comes twice as often.
        encoder: adds what the network is told beside the prompt.
    """

    drawn: Tensor

    def __init__(
        self, texts: Sequence[str], table: PromptTable, drawn: Tensor, encoder: PromptEncoder
    ) -> None:
        super().__init__()
        self.texts, self.table, self.count = list(texts), table, len(texts)
        self.register_buffer("drawn", drawn, persistent=False)
        self._complete = encoder.complete

    def draw(self, count: int, g: torch.Generator) -> Tensor:
        return self.drawn[torch.randint(len(self.drawn), (count,), generator=g, device=g.device)]

    def forward(self, numbers: Tensor) -> Condition:
        return self._complete(self.table(numbers))


def number_prompts(
    captions: Sequence[str], prompts: Sequence[str], labels: Tensor | None = None
) -> tuple[list[str], Tensor]:
    """All distinct texts, captions first in their order, and the number of each prompt, int64 [P]; without
    prompts the captions are, as often as the images have them.

    Args:
        captions: the distinct ones of the images.
        labels: the caption of each image, [N].
    """
    numbers = {text: i for i, text in enumerate(captions)}
    drawn = [numbers.setdefault(text, len(numbers)) for text in prompts]
    if not drawn:
        return list(numbers), torch.arange(len(captions)) if labels is None else labels.clone()
    return list(numbers), torch.tensor(drawn, dtype=torch.int64)
