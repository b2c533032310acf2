"""Coloured solids and their prompts."""

from __future__ import annotations

import time

import pytest
import torch

from carv_distill.data.solids import COLOURS, combinations, prompted_solids, vocabulary
from carv_distill.geometry.solids import SOLIDS


def test_eight_combinations_are_held_out_one_of_every_colour_and_solid() -> None:
    seen, held = combinations(False), combinations(True)
    assert (len(seen), len(held)) == (56, 8)
    assert not set(seen) & set(held)
    assert {c for c, _ in held} == set(COLOURS)
    assert {s for _, s in held} == set(SOLIDS)


def test_images_and_prompts_belong_together() -> None:
    """Three views of each pair: the colour of the prompt is that of the middle of the picture."""
    data = prompted_solids(24, views=3, seed=1)
    assert data.images.shape == (168, 3, 24, 24)
    assert len(data.prompts) == 168
    assert data.images.dtype == torch.float32
    assert -1 <= data.images.min() <= data.images.max() <= 1
    for image, prompt in zip(data.images, data.prompts, strict=True):
        colour = torch.tensor(COLOURS[prompt.split()[1]])
        middle = (image[:, 11:13, 11:13].mean((1, 2)) + 1) / 2
        likeness = torch.stack(
            [torch.cosine_similarity(middle, torch.tensor(c), 0) for c in COLOURS.values()]
        )
        if prompt.split()[2] != "torus,":  # it has a hole in the middle
            assert torch.cosine_similarity(middle, colour, 0) > likeness.max() - 1e-3
    assert data.prompts[0].endswith(" view")
    assert set(" ".join(data.prompts).replace(",", "").split()) <= set(vocabulary())


def test_the_same_seed_gives_the_same_pictures() -> None:
    a, b, c = (prompted_solids(8, 2, seed).images for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.slow
def test_a_data_set_takes_seconds() -> None:
    """3,696 pictures of 32² in well under a minute: there is no need to keep them in a file."""
    start = time.perf_counter()
    prompted_solids(32, views=6)
    assert time.perf_counter() - start < 60 / 11


def test_from_above_the_prompt_says_so() -> None:
    """And the same solids are rendered anew by the same kind of cameras."""
    high, low = prompted_solids(8, 20, elevation=90), prompted_solids(8, 20)
    above = [prompt.endswith("overhead view") for prompt in high.prompts]
    assert 0.1 < sum(above) / len(above) < 0.3  # a half uniform in the angle, a half on the sphere: 0.2
    assert not any(prompt.endswith("overhead view") for prompt in low.prompts)
    some = high.some(torch.tensor([3, 5]))
    assert some.prompts == [high.prompts[3], high.prompts[5]]
    assert some.cameras == high.cameras != low.cameras
    anew = (data.rendered_anew(torch.arange(40), 0) for data in (high, low))
    assert not torch.equal(*anew)
