"""Tokenizers of prompts: what they cut off, which words they do not know, and some that are made
of words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import CLIPTokenizer, PreTrainedTokenizerBase, T5Tokenizer


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
    words = dict.fromkeys(re.findall(r"[\w'-]+|[^\w\s]+", prompt.lower()))
    return [w for w in words if tokenizer.unk_token_id in tokenizer(w).input_ids]


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


def piece_tokenizer(words: Sequence[str]) -> T5Tokenizer:
    """A T5 tokenizer that has these lower-case words as wholes; of others it knows nothing."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), (",", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in dict.fromkeys(words)]
    return T5Tokenizer(vocab=pieces, extra_ids=0)
