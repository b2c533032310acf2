"""How much moves where: known translations, and weights by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.data.clips.motion import (
    difference_magnitude,
    flow,
    flow_magnitude,
    latent_magnitude,
    normalised_weights,
)
from carv_distill.data.clips.rendered import RenderedClips
from carv_distill.data.clips.trajectories import MOTIONS
from carv_distill.data.sets import from_uint8
from carv_distill.geometry.backdrops import CHOICES, NOISES, backdrops, drifted


def texture(side: int, smooth: float = 0.5) -> Tensor:
    """[3, S, S] in [0, 1]."""
    noise = torch.randn(1, NOISES, side, side, generator=stream("texture"), dtype=torch.float64)
    choice = torch.full((1, CHOICES), 0.5, dtype=torch.float64)
    choice[:, 0] = smooth
    return backdrops(noise, choice)[0]


def inner(values: Tensor, margin: int = 5) -> Tensor:
    """Away from the borders, over which something comes in that was not there."""
    return values[..., margin:-margin, margin:-margin]


@pytest.mark.parametrize(("right", "down"), [(0, 0), (1, 0), (-2, 3), (4, -5), (0, 5)])
@pytest.mark.parametrize("shape", [(32, 32), (32, 40)])
def test_whole_pixels_are_told_exactly(right: int, down: int, shape: tuple[int, int]) -> None:
    picture = texture(40)[:, : shape[0], : shape[1]]
    clip = torch.stack([picture.roll((down * k, right * k), (1, 2)) for k in range(3)])
    found = flow(2 * clip[None] - 1)
    assert found.shape == (1, 2, 2, *shape)
    expected = torch.tensor([right, down], dtype=torch.float64)[:, None, None]
    margin = 9  # what is rolled in comes from the other side, or from beyond a picture that is cut
    assert (inner(found[0, 0], margin) - expected).abs().max() < 1e-9


@pytest.mark.parametrize(("smooth", "error"), [(0.5, 0.11), (1.0, 0.06)])
@pytest.mark.parametrize("way", [(0.3, 0.0), (-0.4, 0.25), (1.6, -0.7)])
def test_fractions_are_told(way: tuple[float, float], smooth: float, error: float) -> None:
    """Pixels a frame, to a tenth; better on smooth textures, as slopes are of neighbours but one. Half of the
    places are within a fifth."""
    time = torch.arange(5, dtype=torch.float64)
    clip = drifted(texture(32, smooth), (way[0] / 32, way[1] / 32), time)
    found = inner(flow(2 * clip[None] - 1)[0])
    for axis in (0, 1):
        assert found[:, axis].median() == pytest.approx(way[axis], abs=error)
        assert (found[:, axis] - way[axis]).abs().median() < 0.2


def test_large_frames_are_matched_at_a_coarser_size_in_their_own_pixels() -> None:
    clip = torch.stack([texture(96).roll((6 * k, -3 * k), (1, 2)) for k in range(3)])
    found = flow(2 * clip[None] - 1)
    assert found.shape == (1, 2, 2, 32, 32)
    assert inner(found)[0, :, 0].median() == pytest.approx(-3, abs=0.05)
    assert inner(found)[0, :, 1].median() == pytest.approx(6, abs=0.05)


def test_what_is_still_or_without_texture_does_not_move() -> None:
    still = texture(32).expand(1, 5, -1, -1, -1)
    assert flow_magnitude(still).max() == 0
    brighter = torch.linspace(-1, 1, 5).view(1, 5, 1, 1, 1).expand(1, 5, 3, 16, 16)
    assert flow_magnitude(brighter).max() == 0
    assert difference_magnitude(brighter).unique().tolist() == [0.5]


def test_a_clip_of_a_batch_is_as_alone() -> None:
    clips = from_uint8(RenderedClips(3, size=32).render(torch.arange(3)))
    together = flow(clips)
    for number in range(3):
        assert torch.equal(flow(clips[number : number + 1])[0], together[number])


def test_differences_are_means_of_channels() -> None:
    clip = torch.zeros(1, 3, 3, 2, 2)
    clip[0, 1, 0, 0, 1] = 0.6
    found = difference_magnitude(clip)
    assert found.shape == (1, 2, 2, 2)
    torch.testing.assert_close(found[0, 0], torch.tensor([[0.0, 0.2], [0.0, 0.0]]))
    torch.testing.assert_close(found[0, 0], found[0, 1])


def test_weights_by_hand() -> None:
    """Five frames, two latents: the first has the first change, the second all four; of two pixels each."""
    magnitude = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1) * torch.tensor([1.0, 3.0, 0.0, 0.0])
    weights = normalised_weights(latent_magnitude(magnitude, (2, 1, 2)), 0.5)
    raw = torch.tensor([[2.0, 0.0], [5.0, 0.0]]) + 0.5
    torch.testing.assert_close(weights, (raw / raw.mean()).view(1, 2, 1, 2))


@pytest.mark.parametrize("magnitude", [difference_magnitude, flow_magnitude])
def test_weights_have_mean_one_and_lie_where_the_object_is(magnitude: object) -> None:
    assert callable(magnitude)
    clips = RenderedClips(70, size=64, drifting=0.0, seed=4)
    facts = clips.facts
    for name in MOTIONS:
        number = int((facts.motion == list(MOTIONS).index(name)).nonzero()[0])
        clip = from_uint8(clips.render(torch.tensor([number])))
        weights = normalised_weights(latent_magnitude(magnitude(clip), (5, 8, 8)), 0.01)
        assert weights.shape == (1, 5, 8, 8)
        assert float(weights.mean()) == pytest.approx(1, abs=1e-5)
        assert weights.min() > 0
        if name == "stands still":
            torch.testing.assert_close(weights, torch.ones_like(weights))
        else:
            changed = (clip.amax(1) - clip.amin(1)).amax(1)[0] > 0.1  # where anything is not as before
            there = torch.nn.functional.adaptive_avg_pool2d(changed[None, None].float(), (8, 8))[0, 0]
            assert weights[0, :, there > 0.5].mean() > 3 * weights[0, :, there == 0].mean()


def test_a_clip_of_one_frame_has_equal_weights() -> None:
    clip = torch.rand(2, 1, 3, 16, 16, generator=stream("one"))
    for magnitude in (difference_magnitude(clip), flow_magnitude(clip)):
        weights = normalised_weights(latent_magnitude(magnitude, (1, 2, 2)), 0.1)
        torch.testing.assert_close(weights, torch.ones(2, 1, 2, 2))


@pytest.mark.parametrize(("changes", "frames"), [(4, 3 + 1), (4, 1), (16, 6), (0, 2), (4, 0)])
def test_frames_that_do_not_go_into_latents_are_refused(changes: int, frames: int) -> None:
    with pytest.raises(ValueError, match=rf"^{changes + 1} frames do not go into {frames} latents: 1 \+ r "):
        latent_magnitude(torch.zeros(1, changes, 4, 4), (frames, 2, 2))


@pytest.mark.parametrize("floor", [0.0, -1.0, float("nan")])
def test_a_floor_is_above_zero(floor: float) -> None:
    with pytest.raises(ValueError, match="above 0 it must be"):
        normalised_weights(torch.zeros(1, 2, 2, 2), floor)
