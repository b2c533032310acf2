"""Blocks of a page: nothing that a run says becomes markup."""

from __future__ import annotations

import html
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
        blocks.folded(blocks.text(EVIL), EVIL),
        blocks.facts({EVIL: EVIL}),
        blocks.table([EVIL], [[EVIL]], EVIL, [EVIL]),
        blocks.image(b"", EVIL),
        blocks.slider({EVIL: b"", f"{EVIL}2": b""}, EVIL),
        blocks.video(b"", EVIL),
        blocks.frame(EVIL, EVIL),
        blocks.chart(
            {"title": EVIL},
            EVIL,
            "<svg></svg>",
            [blocks.Mark(EVIL, EVIL)],
            [blocks.Control(EVIL, EVIL, [1, 2], [EVIL, EVIL], 0, slider) for slider in (True, False)],
        ),
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


def test_no_line_ends_within_an_interval() -> None:
    block = blocks.table(["name", "value"], [["a name", "1 [0.5, 2]"], ["another", "1 ± 0.5"]])
    assert "1 [0.5,\u00a02]" in block
    assert "1 ±\u00a00.5" in block
    assert "a name" in block


def test_options_of_a_command_are_whole() -> None:
    block = blocks.commands(["python evaluate.py fid --no-teacher 'a --b'"])
    assert "fid <i>--no-teacher</i> " in block
    assert html.unescape(re.sub(r"<[^>]+>", "", block)) == "python evaluate.py fid --no-teacher 'a --b'\n"


def test_words_in_a_picture_are_not_shrunk_by_whole_pixels() -> None:
    """A grid with captions is wider than the page; one of digits keeps its pixels."""
    wide, narrow = (b"\x89PNG\r\n\x1a\n" + b"0" * 8 + n.to_bytes(4) for n in (1562, 364))
    for block in (blocks.image, lambda png, alt, **_: blocks.slider({"a": png}, alt)):
        assert 'class="pixels"' not in block(wide, "Samples", pixels=True)
        assert 'class="pixels"' in block(narrow, "Samples", pixels=True)


def test_a_slider_shows_its_last_picture_without_scripts() -> None:
    block = blocks.slider({"update 1": b"one", "update 2": b"two"}, "Samples")
    before = block.split("<template>")[0]
    assert blocks.data_uri(b"two", "image/png") in before
    assert block.count(blocks.data_uri(b"two", "image/png")) == 1
    assert blocks.data_uri(b"one", "image/png") not in before
    assert 'alt="Samples, update 2"' in before
    assert "<input" in before
    assert "<input" not in blocks.slider({"update 1": b"one"}, "Samples")
