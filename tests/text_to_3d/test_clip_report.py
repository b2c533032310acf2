"""The table of objects' CLIP scores."""

from __future__ import annotations

from carv_distill.text_to_3d.clip_report import ClipResult, clip_table
from carv_distill.variance import Estimate

SCORE = Estimate(30.25, 0.5, 29.27, 31.23)


def test_no_cell_is_blank_without_a_reason() -> None:
    """A prompt that names no solid has none to compare with."""
    solid = ClipResult("runs/a", "a red cube", 0, SCORE, SCORE, 0.75)
    free = ClipResult("runs/b", "a pink lighthouse", 0, SCORE, None, None)
    table = clip_table([solid, free])
    assert [row[3:] for row in table.rows[:2]] == [("30.2 [29.3, 31.2]", "75%"), ("–", "–")]
    assert table.caption.endswith("–: the prompt names no such pair, as “a red cube” does.")
    assert "–:" not in clip_table([solid]).caption
