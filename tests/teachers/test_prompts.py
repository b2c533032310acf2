"""Tokenizers: words stay whole, and what is cut off is shown in whole words."""

from __future__ import annotations

import pytest

from carv_distill.data.clips.rendered import clip_vocabulary
from carv_distill.data.solids import combinations, object_prompt, view_prompt, vocabulary
from carv_distill.data.wild import WILD
from carv_distill.geometry.camera import VIEWS
from carv_distill.teacher_training.preparation import LENGTH
from carv_distill.teachers.prompts import FEW, cut_text, listed_words, piece_tokenizer, word_tokenizer

WORDS = ["a", "red", "blue", "torus", "cube"]


@pytest.mark.parametrize(
    "words", [vocabulary(), clip_vocabulary(), WILD, ["red", "green", "re", "gree", "een"]]
)
def test_every_word_is_one_token(words: list[str]) -> None:
    """Also one that holds the pairs of an earlier one, as green and red, or cyan and an."""
    tokenizer = word_tokenizer(words, length=10)
    assert [tokenizer.tokenize(word) for word in words] == [[f"{word}</w>"] for word in words]


def test_the_words_of_a_small_vocabulary_are_listed() -> None:
    """What CLIP's spells others with, and what T5's has for itself, are none."""
    words = [*WORDS, "overhead"]
    assert listed_words(word_tokenizer(words, length=10)) == sorted(set(words) - {"a"})
    assert listed_words(piece_tokenizer(words)) == sorted(words)


def test_a_large_vocabulary_is_no_list() -> None:
    assert listed_words(piece_tokenizer([f"word{i}" for i in range(FEW)])) == []


def test_no_caption_of_the_shapes_is_longer_than_its_teacher_takes() -> None:
    tokenizer = word_tokenizer(vocabulary(), LENGTH)
    objects = [object_prompt(*pair) for held_out in (False, True) for pair in combinations(held_out)]
    captions = [view_prompt(text, view) for text in objects for view in VIEWS]
    assert not any(cut_text(tokenizer, caption, LENGTH) for caption in captions)


@pytest.mark.parametrize(
    ("prompt", "cut"),
    [
        ("a red cube, a blue cube", ""),  # with both ends nine tokens
        ("a red cube, a blue cube, a torus", ", a torus"),
        ("a red cube a blue cube a torus  a cube", "torus  a cube"),
        ("a red cube, a great torus", "great torus"),  # seen to its third letter
        ("a red cube, a blue-green torus", "blue-green torus"),
        ("supercalifragilistic torus", "supercalifragilistic torus"),
    ],
)
def test_what_is_cut_off_begins_with_a_word(prompt: str, cut: str) -> None:
    """Of a tokenizer that spells what it does not know."""
    assert cut_text(word_tokenizer(WORDS, 9), prompt, 9) == cut
