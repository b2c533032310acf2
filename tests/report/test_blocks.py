"""Blocks of a page: nothing that a run says becomes markup."""

from __future__ import annotations

import json
import re

import pytest

from carv_distill.report import blocks

EVIL = "</script><script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    "block",
    [
        blocks.text(EVIL),
        blocks.missing(EVIL),
        blocks.commands([EVIL]),
        blocks.settings([EVIL], EVIL),
        blocks.facts({EVIL: EVIL}),
        blocks.table([EVIL], [[EVIL]], EVIL),
        blocks.image(b"", EVIL),
        blocks.slider({EVIL: b"", f"{EVIL}2": b""}, EVIL),
        blocks.video(b"", EVIL),
        blocks.frame(EVIL, EVIL),
        blocks.chart({"title": EVIL}, EVIL, "<svg></svg>"),
    ],
)
def test_texts_are_escaped(block: str) -> None:
    assert "<script>alert" not in block
    assert "<img src=x" not in block
    assert "\"'&<" not in block


def test_a_chart_s_words_come_back() -> None:
    block = blocks.chart({"title": EVIL, "low": "<!-- <\\"}, "a", "<svg></svg>")
    (content,) = re.findall(r'<script type="application/json">(.*?)</script>', block, re.DOTALL)
    assert json.loads(content) == {"title": EVIL, "low": "<!-- <\\"}


def test_a_number_that_json_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        blocks.chart({"value": float("nan")}, "a", "")


def test_a_slider_shows_its_last_picture_without_scripts() -> None:
    block = blocks.slider({"update 1": b"one", "update 2": b"two"}, "Samples")
    before = block.split("<template>")[0]
    assert blocks.data_uri(b"two", "image/png") in before
    assert blocks.data_uri(b"one", "image/png") not in before
    assert 'alt="Samples, update 2"' in before
    assert "<input" in before
    assert "<input" not in blocks.slider({"update 1": b"one"}, "Samples")
