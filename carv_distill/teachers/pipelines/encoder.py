"""Prompts as a network's condition, by the pipeline's own code; the text models can be let go afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from carv_distill.errors import UserError
from carv_distill.teachers.condition import Condition
from carv_distill.teachers.prompts import cut_text, unknown_words

from .family import Family

_BATCH = 64
"""Prompts of one call of the text models: thousands at once would take gigabytes."""


class PromptEncoder(nn.Module):
    """Prompts → their :class:`Condition`, each once.

    Args:
        family: of the pipeline.
        parts: its tokenizers and text models by folder.
        size: of the picture, for a family that is told it.
        guidance: for a network that imitates guidance of a given scale; None for others.
    """

    def __init__(
        self,
        family: Family,
        parts: Mapping[str, Any],
        size: Sequence[int] = (),
        guidance: float | None = None,
    ) -> None:
        super().__init__()
        self.family, self.size, self.guidance = family, tuple(size), guidance
        self.tokenizers: dict[str, PreTrainedTokenizerBase] = {
            name: part for name, part in parts.items() if not isinstance(part, nn.Module)
        }
        self.text_models: nn.ModuleDict | None = nn.ModuleDict(
            {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        )
        self.lengths = {name: self._limit(name) for name in self.tokenizers}
        """Most tokens of a prompt that each text model takes, start and end included."""
        for name, tokenizer in self.tokenizers.items():
            tokenizer.model_max_length = min(self.lengths[name], tokenizer.model_max_length)
        self._rows: dict[str, Condition] = {}

    def _limit(self, name: str) -> int:
        if (limit := self.family.lengths.get(name)) is not None:
            return limit
        assert self.text_models is not None
        longest: int = self.tokenizers[name].model_max_length
        model: Any = self.text_models[name.replace("tokenizer", "text_encoder")]
        # a tokenizer that was saved without its length has an astronomical one
        return min(longest, getattr(model.config, "max_position_embeddings", longest))

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Condition:
        """A row for each prompt; those seen before need no text model.

        Raises:
            UserError: a prompt that was not encoded before :meth:`release`.
        """
        new = [p for p in dict.fromkeys(prompts) if p not in self._rows]
        for start in range(0, len(new), _BATCH):
            some = new[start : start + _BATCH]
            encoded = self.encode(some)
            self._rows |= {p: encoded[i : i + 1] for i, p in enumerate(some)}
        return stacked([self._rows[p] for p in prompts])

    @torch.no_grad()
    def null(self, negative: str = "") -> Condition:
        """The one row that stands for no prompt, or for a negative one."""
        if not negative:
            key = "\0none"  # no prompt, as none can be typed
            if key not in self._rows:
                made = self._with_sizes(self.family.null(self._pipeline(""), self._device()))
                self._rows[key] = self([""]) if made is None else made
            return self._rows[key]
        return self([negative])

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """What the text models give."""
        found = self._with_sizes(self.family.encode(self._pipeline(prompts[0]), prompts, self._device()))
        assert found is not None
        return found

    def _with_sizes(self, cond: Condition | None) -> Condition | None:
        """With what is told beside the prompt."""
        if cond is None:
            return None
        if self.family.told_size:  # of a picture that was neither enlarged nor cropped
            ids = torch.tensor([*self.size, 0, 0, *self.size], dtype=torch.float32)
            cond = replace(cond, time_ids=ids.to(cond.embeddings.device).expand(len(cond), 6))
        if self.guidance is not None:
            scale = torch.full((len(cond),), self.guidance, device=cond.embeddings.device)
            cond = replace(cond, guidance=scale)
        return cond

    def seen(self, prompts: Sequence[str]) -> int:
        """How many of the prompts differ in what the text models see of them."""
        tokens = [
            [tuple(t(self.family.normal(p), verbose=False).input_ids[: self.lengths[name]]) for p in prompts]
            for name, t in self.tokenizers.items()
        ]
        return len(set(zip(*tokens, strict=True)))

    @property
    def length(self) -> int:
        """Tokens of the text model that takes most."""
        return max(self.lengths.values())

    def cut_text(self, prompt: str) -> str:
        """The end of a prompt that no text model sees; mostly empty."""
        text = self.family.normal(prompt)
        cut = (cut_text(t, text, self.lengths[name]) for name, t in self.tokenizers.items())
        return min(cut, key=len)

    def unknown_words(self, prompt: str) -> list[str]:
        """Words that no text model can have learned."""
        first, *others = (unknown_words(t, prompt) for t in self.tokenizers.values())
        return [word for word in first if all(word in other for other in others)]

    def release(self) -> None:
        """Frees the text models; what they gave stays."""
        self.text_models = None

    def _apply(self, fn: Any, recurse: bool = True) -> PromptEncoder:
        super()._apply(fn, recurse)
        self._rows = {prompt: row.map(fn) for prompt, row in self._rows.items()}
        return self

    def _device(self) -> torch.device:
        assert self.text_models is not None
        return next(self.text_models.parameters()).device

    def _pipeline(self, prompt: str) -> Any:
        """The pipeline, with nothing but its text parts."""
        if self.text_models is None:
            raise UserError(f"prompt {prompt!r} was not encoded before the text encoder was freed")
        parts = dict.fromkeys(self._absent())
        return self.family.pipeline(**parts, **self.family.arguments, **self.tokenizers, **self.text_models)

    def _absent(self) -> list[str]:
        """Parts of the pipeline that encoding does without."""
        families = [self.family.part, "scheduler", *(["vae"] if self.family.autoencoder else [])]
        assert self.text_models is not None
        there = [*self.tokenizers, *self.text_models]
        return [*families, *(name for name in self.family.texts if name not in there)]


def stacked(rows: Sequence[Condition]) -> Condition:
    """Conditions of one row each as one."""
    parts: dict[str, Any] = {}
    for name, first in vars(rows[0]).items():
        parts[name] = None if first is None else torch.cat([getattr(row, name) for row in rows])
    return Condition(**parts)
