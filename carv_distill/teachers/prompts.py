"""Prompts as embeddings, once each; the text encoder can be let go afterwards."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from carv_distill.errors import UserError


class PromptEncoder(nn.Module, ABC):
    """Prompts → the text model's last hidden states, [n, L, D], as the teacher conditions on."""

    length: int
    """L, tokens of a prompt with its start and end."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text_model: PreTrainedModel) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.text_model: PreTrainedModel | None = text_model
        self._embeddings: dict[str, Tensor] = {}

    @abstractmethod
    def tokens(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What the text model takes, each [n, L]: token numbers, padded and cut to length, perhaps a mask."""

    @abstractmethod
    def unknown_words(self, prompt: str) -> list[str]:
        """Words that the teacher cannot have learned, as its tokenizer lacks them."""

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Tensor:
        """[n, L, D]; prompts seen before need no text model.

        Raises:
            UserError: a prompt that was not encoded before :meth:`release`.
        """
        if new := [p for p in dict.fromkeys(prompts) if p not in self._embeddings]:
            if self.text_model is None:
                raise UserError(f"prompt {new[0]!r} was not encoded before the text encoder was freed")
            tokens = {k: t.to(self.text_model.device) for k, t in self.tokens(new).items()}
            self._embeddings |= dict(zip(new, self.text_model(**tokens).last_hidden_state, strict=True))
        return torch.stack([self._embeddings[p] for p in prompts])

    def cut_text(self, prompt: str) -> str:
        """The end of a prompt that the text model does not see; mostly empty."""
        return cut_text(self.tokenizer, self._normal(prompt), self.length)

    def release(self) -> None:
        """Frees the text model; the embeddings stay."""
        self.text_model = None

    def _normal(self, prompt: str) -> str:
        """As the tokenizer gets it."""
        return prompt

    def _padded(self, prompts: Sequence[str]) -> Any:
        return self.tokenizer(
            [self._normal(prompt) for prompt in prompts],
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )


class CLIPPromptEncoder(PromptEncoder):
    """As Stable Diffusion encodes: a CLIP text model that sees the padding."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text_model: PreTrainedModel) -> None:
        super().__init__(tokenizer, text_model)
        # a tokenizer that was saved without its length has an astronomical one
        self.length = min(tokenizer.model_max_length, text_model.config.max_position_embeddings)

    def tokens(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"input_ids": self._padded(prompts).input_ids}

    def unknown_words(self, prompt: str) -> list[str]:
        """Words that the tokenizer does not have as a whole: a small vocabulary spells them letter by letter,
        and its text model never learned what they mean."""
        words = re.findall(r"[\w'-]+", prompt.lower())
        known = self.tokenizer.get_vocab()
        return [
            w for w in dict.fromkeys(words) if len(self.tokenizer.tokenize(w)) > 1 and f"{w}</w>" not in known
        ]


class T5PromptEncoder(PromptEncoder):
    """As DeepFloyd-IF encodes: lower case, 77 tokens, a T5 encoder to which the padding is masked."""

    length = 77

    def _normal(self, prompt: str) -> str:
        return prompt.lower().strip()

    def tokens(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        padded = self._padded(prompts)
        return {"input_ids": padded.input_ids, "attention_mask": padded.attention_mask}

    def unknown_words(self, prompt: str) -> list[str]:
        """Words, or signs, with a character that no piece of the vocabulary covers: the text model sees
        "unknown" in its place. Rare words of known letters are pieces to it, and no news."""
        words = dict.fromkeys(re.findall(r"[\w'-]+|[^\w\s]+", prompt.lower()))
        return [w for w in words if self.tokenizer.unk_token_id in self.tokenizer(w).input_ids]


def cut_text(tokenizer: PreTrainedTokenizerBase, prompt: str, length: int) -> str:
    """The end of a prompt beyond so many tokens, of which the last is the end's own; mostly empty."""
    tokens = tokenizer(prompt, verbose=False).input_ids
    return (
        str(tokenizer.decode(tokens[length - 1 : -1], skip_special_tokens=True)).strip()
        if len(tokens) > length
        else ""
    )


def word_tokenizer(words: Sequence[str], length: int) -> CLIPTokenizer:
    """A CLIP tokenizer that has these lower-case words as wholes, and spells all others letter by letter; a
    padded prompt has `length` tokens, start and end included."""
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
