"""Prompts as embeddings, once each; the text encoder can be let go afterwards."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from carv_distill.errors import UserError


class PromptEncoder(nn.Module):
    """Prompts → the text model's last hidden states, [n, L, D], as Stable Diffusion conditions on.

    Every prompt is encoded once and kept.

    Args:
        tokenizer: of a StableDiffusionPipeline.
        text_model: of the same.
    """

    def __init__(self, tokenizer: CLIPTokenizer, text_model: CLIPTextModel) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.text_model: CLIPTextModel | None = text_model
        self._kept: dict[str, Tensor] = {}

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token numbers [n, L], padded and cut to the tokenizer's length."""
        padded = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        return padded.input_ids

    @property
    def length(self) -> int:
        """L."""
        return self.tokenizer.model_max_length

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Tensor:
        """[n, L, D]; prompts seen before need no text model.

        Raises:
            UserError: a prompt that was not encoded before :meth:`release`.
        """
        if new := [p for p in dict.fromkeys(prompts) if p not in self._kept]:
            if self.text_model is None:
                raise UserError(f"prompt {new[0]!r} was not encoded before the text encoder was freed")
            states = self.text_model(self.tokens(new).to(self.text_model.device)).last_hidden_state
            self._kept |= dict(zip(new, states, strict=True))
        return torch.stack([self._kept[p] for p in prompts])

    def release(self) -> None:
        """Frees the text model; what was encoded stays."""
        self.text_model = None

    def unknown_words(self, prompt: str) -> list[str]:
        """Words that the tokenizer does not have as a whole: a small vocabulary spells them letter by letter,
        and its text model never learned what they mean."""
        words = re.findall(r"[\w'-]+", prompt.lower())
        known = self.tokenizer.get_vocab()
        return [
            w for w in dict.fromkeys(words) if len(self.tokenizer.tokenize(w)) > 1 and f"{w}</w>" not in known
        ]


def word_tokenizer(words: Sequence[str], length: int) -> CLIPTokenizer:
    """A CLIP tokenizer that has these words as wholes, and spells all others letter by letter.

    Args:
        words: lower case.
        length: tokens of a padded prompt, start and end included.
    """
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,.'-"
    vocabulary = {token: i for i, token in enumerate([*letters, *(f"{c}</w>" for c in letters)])}
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(words):
        first, *others = [*word[:-1], f"{word[-1]}</w>"]
        for other in others:
            if (first, other) not in merges:
                merges.append((first, other))
            first += other
            vocabulary.setdefault(first, len(vocabulary))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)  # type: ignore[arg-type]
