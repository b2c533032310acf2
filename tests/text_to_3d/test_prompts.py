"""The prompts of views, and what is said of them before a run."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.text_to_3d.options import SDSOptions
from carv_distill.text_to_3d.prompts import check_prompts, view_prompts

LONG = "a red torus a red torus a red"
"""All of the tiny encoder's ten tokens, of which two are the ends."""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (SDSOptions(LONG, view_prompts=False), []),
        (SDSOptions(f"{LONG} torus", view_prompts=False), ["sds.prompt: .* cuts off 'torus'"]),
        (
            SDSOptions(LONG),
            ["cuts off the view, as ', overhead view', so that several views have one prompt"],
        ),
        (SDSOptions("a red torus"), ["sds.prompt: .* 10 tokens and cuts off 'head view'"]),
        (
            SDSOptions("a", view_prompts=False, negative_prompt=LONG + LONG),
            ["sds.negative_prompt: .* cuts off"],
        ),
    ],
)
def test_what_a_long_prompt_loses_is_named(
    options: SDSOptions, said: list[str], pipeline_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The view above all: without it, all views are of one prompt."""
    encoder = load_text_teacher(pipeline_folder).prompts
    with caplog.at_level(logging.WARNING):
        check_prompts(options, encoder)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(said)
    for message, pattern in zip(messages, said, strict=True):
        assert re.search(pattern, message), message


def test_prompts_of_the_views() -> None:
    prompts = [f"x, {view} view" for view in ("front", "side", "back", "overhead")]
    assert view_prompts(SDSOptions("x")) == prompts
    assert view_prompts(SDSOptions("x", view_prompts=False)) == ["x"] * 4
