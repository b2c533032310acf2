"""Tokenizers of prompts: what they cut off, which words they know, and some that are made of words."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from transformers import CLIPTokenizer, PreTrainedTokenizerBase, T5Tokenizer

FEW = 4096
"""Entries below which a vocabulary is a list of words: what it does not have as a whole was never learned."""
_WORDS = re.compile(r"[\w'-]+|[^\w\s]+")


def unknown_words(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[str]:
    """Words that a text model cannot have learned, as its tokenizer lacks them.

    Of CLIP's tokenizers those that it does not have as a whole: a small vocabulary spells them letter by
    letter. Of others those with a character that no piece of the vocabulary covers: rare words of known
    letters are pieces to them, and no news.
    """
    if isinstance(tokenizer, CLIPTokenizer):
        words = dict.fromkeys(re.findall(r"[\w'-]+", prompt.lower()))
        known = tokenizer.get_vocab()
        return [w for w in words if len(tokenizer.tokenize(w)) > 1 and f"{w}</w>" not in known]
    words = dict.fromkeys(_WORDS.findall(prompt.lower()))
    return [w for w in words if tokenizer.unk_token_id in tokenizer(w).input_ids]


def listed_words(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every word of a vocabulary of few entries; none of a larger one, which has pieces for any word."""
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) >= FEW:
        return []
    words = {entry.removesuffix("</w>").removeprefix("▁") for entry in vocabulary if _is_word(entry)}
    return sorted(word for word in words if _WORDS.fullmatch(word) and not unknown_words(tokenizer, word))


def _is_word(entry: str) -> bool:
    """Of T5's vocabularies, or a word of CLIP's; its single letters are what others are spelled with."""
    return entry.startswith("▁") or (entry.endswith("</w>") and len(entry) > len("x</w>"))


def cut_text(tokenizer: PreTrainedTokenizerBase, prompt: str, length: int) -> str:
    """The end of a prompt from the first word on that is not wholly within so many tokens, of which the last
    is the end's own; mostly empty."""

    def is_longer(text: str) -> bool:
        return len(tokenizer(text, verbose=False).input_ids) > length

    if not is_longer(prompt):
        return ""
    ends = [word.end() for word in _WORDS.finditer(prompt)]
    seen = bisect_left(ends, True, key=lambda end: is_longer(prompt[:end]))
    return prompt[ends[seen - 1] if seen else 0 :].strip()


def word_tokenizer(words: Sequence[str], length: int) -> CLIPTokenizer:
    """A CLIP tokenizer that has these lower-case words as wholes, and spells all others letter by letter; a
    padded prompt has `length` tokens, start and end included."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,.'-"
    vocabulary = {token: i for i, token in enumerate([*letters, *(f"{c}</w>" for c in letters)])}
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(words):
        # of what earlier words' merges make of it, as they come first: of green with red, g, re, e, n
        first, *others = _merged([*word[:-1], f"{word[-1]}</w>"], merges)
        for other in others:
            merges.append((first, other))
            first += other
            vocabulary.setdefault(first, len(vocabulary))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)  # type: ignore[arg-type]


def _merged(tokens: list[str], merges: Sequence[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding: the earliest merge that applies, wherever it does, until none applies."""
    while merge := next((m for m in merges if m in pairwise(tokens)), None):
        joined: list[str] = []
        for token in tokens:
            if joined and (joined[-1], token) == merge:
                joined[-1] += token
            else:
                joined.append(token)
        tokens = joined
    return tokens


def piece_tokenizer(words: Sequence[str]) -> T5Tokenizer:
    """A T5 tokenizer that has these lower-case words as wholes; of others it knows nothing."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), (",", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in dict.fromkeys(words)]
    return T5Tokenizer(vocab=pieces, extra_ids=0)
