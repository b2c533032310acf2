"""Prompts as a network's condition, by the pipeline's own code; the text models can be freed afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from carv_distill.errors import UserError
from carv_distill.teachers.condition import Condition
from carv_distill.teachers.prompts import cut_text, listed_words, unknown_words

from .family import Family

_BATCH = 64
"""Prompts of one call of the text models: thousands at once would take gigabytes."""

_NONE = "\0none"
"""No prompt, as none can be typed."""


@dataclass(frozen=True)
class _Network:
    """Of a network all that a pipeline reads as it encodes."""

    config: SimpleNamespace


class PromptEncoder(nn.Module):
    """Prompts → their :class:`Condition`, each once.

    Args:
        family: of the pipeline.
        parts: its tokenizers and text models by folder; without text models it knows what it is given by
            :meth:`remember`.
        network: the configuration of the network that the conditions are for.
        settings: of the pipeline, beside its parts.
        size: of the picture, for a family that is told it.
        guidance: for a network that imitates guidance of a given scale; None for others.
    """

    def __init__(
        self,
        family: Family,
        parts: Mapping[str, Any],
        network: Mapping[str, Any],
        settings: Mapping[str, Any],
        size: Sequence[int] = (),
        guidance: float | None = None,
    ) -> None:
        super().__init__()
        self.family, self.size, self.guidance = family, tuple(size), guidance
        self._network = _Network(SimpleNamespace(**network))
        self._settings = {**settings, **family.arguments}
        self.tokenizers: dict[str, PreTrainedTokenizerBase] = {
            name: part for name, part in parts.items() if not isinstance(part, nn.Module)
        }
        models = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        self.text_models: nn.ModuleDict | None = nn.ModuleDict(models) if models else None
        self.lengths = {name: self._limit(name) for name in self.tokenizers}
        """Most tokens of a prompt that each text model takes, start and end included."""
        for name, tokenizer in self.tokenizers.items():
            tokenizer.model_max_length = min(self.lengths[name], tokenizer.model_max_length)
        self._rows: dict[str, Condition] = {}

    def _limit(self, name: str) -> int:
        if (limit := self.family.lengths.get(name)) is not None:
            return limit
        longest: int = self.tokenizers[name].model_max_length
        if self.text_models is None:
            return longest
        model: Any = self.text_models[name.replace("tokenizer", "text_encoder")]
        # a tokenizer that was saved without its length has an astronomical one
        return min(longest, getattr(model.config, "max_position_embeddings", longest))

    def forward(self, prompts: Sequence[str]) -> Condition:
        """A row for each prompt; those seen before need no text model.

        Raises:
            UserError: a prompt that was not encoded before :meth:`release`.
        """
        if new := [p for p in dict.fromkeys(prompts) if p not in self._rows]:
            encoded = self.complete(self.encode(new))
            self._rows |= {p: encoded[i : i + 1] for i, p in enumerate(new)}
        return stacked([self._rows[p] for p in prompts])

    def null(self, negative: str = "") -> Condition:
        """The one row that stands for no prompt, or for a negative one."""
        if negative:
            return self([negative])
        if _NONE not in self._rows:
            self._rows[_NONE] = self.complete(self.encode_null())
        return self._rows[_NONE]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], place: str | None = None) -> Condition:
        """What the text models give, without what is told beside.

        Args:
            place: a device to which each batch's rows go as they are made; None: they stay with the models.
        """
        starts = range(0, len(prompts), _BATCH)
        parts = (prompts[i : i + _BATCH] for i in starts)
        with _quiet():
            made = (self.family.encode(self._pipeline(part[0]), part, self._device()) for part in parts)
            encoded = [batch if place is None else batch.to(place) for batch in made]
        return stacked(encoded)

    @torch.no_grad()
    def encode_null(self) -> Condition:
        """What stands for no prompt, one row, without what is told beside."""
        made = self.family.null(self._pipeline(""), self._device())
        return self.encode([""]) if made is None else made

    def complete(self, cond: Condition) -> Condition:
        """With what is told beside the prompt: the picture's size, the scale of guidance."""
        device, count = cond.embeddings.device, len(cond)
        if self.family.told_size:  # of a picture that was neither enlarged nor cropped
            ids = torch.tensor([*self.size, 0, 0, *self.size], dtype=torch.float32)
            cond = replace(cond, time_ids=ids.to(device, non_blocking=True).expand(count, 6))
        if self.guidance is not None:
            cond = replace(cond, guidance=torch.full((count,), self.guidance, device=device))
        return cond

    def alike(self, prompts: Sequence[str]) -> list[list[int]]:
        """Places of the prompts, in groups that the text models see as one."""
        # The last token of a prompt that is cut is the end's own.
        tokens = [
            [
                tuple(t(self.family.normal(p), verbose=False).input_ids[: self.lengths[name] - 1])
                for p in prompts
            ]
            for name, t in self.tokenizers.items()
        ]
        groups: dict[tuple[Any, ...], list[int]] = {}
        for place, seen in enumerate(zip(*tokens, strict=True)):
            groups.setdefault(seen, []).append(place)
        return list(groups.values())

    @property
    def length(self) -> int:
        """Tokens of the text model that takes most."""
        return max(self.lengths.values())

    def cut_text(self, prompt: str) -> str:
        """The end of a prompt that no text model sees; mostly empty."""
        text = self.family.normal(prompt)
        cut = (cut_text(t, text, self.lengths[name]) for name, t in self.tokenizers.items())
        return min(cut, key=len)

    def longer(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which no text model sees the end."""
        left = list(prompts)
        for name, tokenizer in self.tokenizers.items():
            tokens = tokenizer([self.family.normal(p) for p in left], verbose=False).input_ids if left else []
            left = [p for p, ids in zip(left, tokens, strict=True) if len(ids) > self.lengths[name]]
        return left

    def unknown_words(self, prompt: str) -> list[str]:
        """Words that no text model can have learned."""
        first, *others = (unknown_words(t, prompt) for t in self.tokenizers.values())
        return [word for word in first if all(word in other for other in others)]

    def listed_words(self) -> list[str]:
        """Every word that the teacher knows, if its text models have few; else none."""
        words = [listed_words(t) for t in self.tokenizers.values()]
        return sorted(set().union(*words)) if all(words) else []

    def remember(self, rows: Mapping[str, Condition], null: Condition) -> None:
        """Takes conditions that were kept of earlier, so that no text model is needed for them."""
        self._rows |= {_NONE: null, **rows}

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
        parts: dict[str, Any] = dict.fromkeys(self._absent())
        if self.family.optional:  # for a text model that is left out there are zeros of the network's width
            parts[self.family.part] = self._network
        return self.family.pipeline(**parts, **self._settings, **self.tokenizers, **self.text_models)

    def _absent(self) -> list[str]:
        """Parts of the pipeline that encoding does without."""
        assert self.text_models is not None
        there = [*self.tokenizers, *self.text_models]
        return [name for name in self.family.parts if name not in there]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a line of diffusers and transformers for every prompt that is cut."""
    before = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(before[0])
        transformers_logging.set_verbosity(before[1])


def stacked(rows: Sequence[Condition]) -> Condition:
    """The rows of several conditions as one."""
    parts: dict[str, Any] = {}
    for name, first in vars(rows[0]).items():
        parts[name] = None if first is None else torch.cat([getattr(row, name) for row in rows])
    return Condition(**parts)
