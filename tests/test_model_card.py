"""What the pages of products have in common."""

from __future__ import annotations

from huggingface_hub import ModelCard

from carv_distill.model_card import card_head, table_rows


def test_the_head_is_read_as_it_was_given() -> None:
    card = ModelCard(f"{card_head('text-to-3d', 'sds', library=None)}\n\n# Title\n")
    assert card.data.to_dict() == {"pipeline_tag": "text-to-3d", "tags": ["sds", "carv-distill"]}
    assert card.text == "\n# Title\n"
    assert ModelCard(card_head("text-to-image") + "\n").data.library_name == "diffusers"


def test_a_row_is_one_line_and_two_cells() -> None:
    assert table_rows({"a|b": "c\nd", "e": 1.23456789}) == "| a\\|b | c d |\n| e | 1.23457 |"
