"""The prompts of views, and what is said of them before a run."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from carv_distill.errors import UserError
from carv_distill.tasks import load_config
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.text_to_3d.guidance.options import ViewPrompts
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
        (SDSOptions("a red torus"), ["sds.prompt: .* 10 tokens and cuts off 'overhead view'"]),
        (
            SDSOptions("a torus", view_prompts=False, negative_prompt=f"{LONG} {LONG}"),
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


def test_words_of_ones_own_for_a_view() -> None:
    """Whole prompts, in the place of the one that is made; spaces alone are none."""
    options = SDSOptions("x", prompts_by_view=ViewPrompts(back="the tail of x", overhead="  "))
    assert view_prompts(options) == ["x, front view", "x, side view", "the tail of x", "x, overhead view"]
    options = SDSOptions("x", view_prompts=False, prompts_by_view=ViewPrompts(front="the face of x"))
    assert view_prompts(options) == ["the face of x", "x", "x", "x"]


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"back": "a blue cube"}, []),
        ({"back": f"{LONG} torus"}, [r"sds\.prompts_by_view\.back: .* cuts off 'torus'"]),
        ({"back": "a RED torus"}, [r"sds\.prompts_by_view: front and side and back and overhead have one"]),
        (
            {"front": "a blue cube", "side": "a BLUE  cube"},
            [r"sds\.prompts_by_view: front and side have one prompt as .*, 'a blue cube'"],
        ),
        (
            {"front": f"{LONG} cube", "overhead": f"{LONG} torus"},
            [
                r"\.front: .* cuts off 'cube'",
                r"\.overhead: .* cuts off 'torus'",
                r": front and overhead have one",
            ],
        ),
    ],
)
def test_what_ones_own_words_lose_is_named(
    own: dict[str, str], said: list[str], pipeline_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = SDSOptions("a red torus", view_prompts=False, prompts_by_view=ViewPrompts(**own))
    with caplog.at_level(logging.WARNING):
        check_prompts(options, load_text_teacher(pipeline_folder).prompts)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(said), messages
    for message, pattern in zip(messages, said, strict=True):
        assert re.search(pattern, message), message


@pytest.mark.parametrize(
    ("options", "views"),
    [
        (SDSOptions("a red torus", view_prompts=False, perp_neg=True), "front and side and back"),
        (SDSOptions(LONG, perp_neg=True), "front and side and back"),
        (
            SDSOptions(
                "a", perp_neg=True, prompts_by_view=ViewPrompts(side="a blue cube", back="a Blue cube")
            ),
            "side and back",
        ),
    ],
)
def test_perp_neg_needs_views_that_differ(options: SDSOptions, views: str, pipeline_folder: Path) -> None:
    with pytest.raises(UserError, match=rf"^sds\.perp_neg: {views} have one prompt as the text encoder"):
        check_prompts(options, load_text_teacher(pipeline_folder).prompts)


def test_perp_neg_with_overhead_as_another_view(pipeline_folder: Path) -> None:
    """Views from overhead are led away from nothing: theirs may be any prompt."""
    own = ViewPrompts(overhead="a, front view")
    check_prompts(
        SDSOptions("a", perp_neg=True, prompts_by_view=own), load_text_teacher(pipeline_folder).prompts
    )


def test_words_for_views_that_there_are_not() -> None:
    with pytest.raises(UserError, match=r"sds\.prompts_by_view\.top"):
        load_config("configs/sds_carv.yaml", ["sds.prompts_by_view.top=a"])
