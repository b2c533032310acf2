"""Messages of libraries, shortened."""

from __future__ import annotations

import pytest

from carv_distill.errors import UserError, named_as, one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("short\n text", "short text"),
        ("One sentence that is long enough. " + "word " * 50, "One sentence that is long enough."),
        ("word " * 50, "word " * 12 + "…"),
        ("x" * 100, "x" * 60 + " …"),
    ],
)
def test_a_long_message_ends_after_a_sentence_or_a_word(text: str, line: str) -> None:
    assert one_line(ValueError(text), 60)[: len(line)] == line
    assert len(one_line(ValueError(text), 60)) <= 62


def test_an_option_is_named_as_it_was_typed() -> None:
    with pytest.raises(UserError, match=r"^--data: films holds no clips"), named_as({"data.path": "--data"}):
        raise UserError("data.path: films holds no clips")
    with pytest.raises(UserError, match=r"^scene: none"), named_as({"data.path": "--data"}):
        raise UserError("scene: none")
