"""CLIP scores with the shipped CLIP model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from carv_distill.data.shapes import COLOURS, combinations, object_prompt
from carv_distill.errors import UserError
from carv_distill.evaluation.clip import ClipScorer
from carv_distill.geometry.solids import SOLIDS, trace
from carv_distill.text_to_3d.export import turntable

MODEL = Path("checkpoints/shapes-teacher/clip")


@pytest.fixture(scope="module")
def scorer() -> ClipScorer:
    return ClipScorer(MODEL)


def views(colour: str, solid: str, count: int = 4) -> torch.Tensor:
    return 2 * trace(SOLIDS[solid], COLOURS[colour], turntable(count), 32) - 1


def test_a_score_is_a_hundred_times_the_cosine(scorer: ClipScorer) -> None:
    images = views("red", "cube", 2)
    model, processor = scorer._parts()
    pixels = processor(images=list(((images + 1) * 127.5).round().to(torch.uint8)), return_tensors="pt")
    words = processor(text=["a red cube"], return_tensors="pt")
    seen = model.get_image_features(pixels["pixel_values"])
    told = model.get_text_features(words["input_ids"], words["attention_mask"])
    wanted = 100 * torch.nn.functional.cosine_similarity(seen, told).clamp(min=0)
    assert torch.allclose(scorer(images, "a red cube"), wanted, atol=0.1)


def test_true_pictures_score_higher_with_their_own_prompt(scorer: ClipScorer) -> None:
    for colour, solid in (("red", "cube"), ("yellow", "snowman"), ("blue", "ball")):
        own = scorer.mean(views(colour, solid), object_prompt(colour, solid))
        other = scorer.mean(views(colour, solid), object_prompt("green", "torus"))
        assert own.low > other.high


def test_true_pictures_match_their_own_prompt_best(scorer: ClipScorer) -> None:
    """At least 9 of 10 views of all learned pairs, among 64 prompts: the model was trained on them."""
    pairs = [*combinations(held_out=False), *combinations(held_out=True)]
    prompts = [object_prompt(*p) for p in pairs]
    hits = [scorer.best_match(views(*pair, 2), prompts) == i for i, pair in enumerate(pairs[:56])]
    assert torch.cat(hits).float().mean() > 0.9


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no readable CLIP model"):
        ClipScorer(tmp_path)
