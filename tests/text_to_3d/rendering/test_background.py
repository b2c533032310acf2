"""The learned background."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.text_to_3d.options import GaussianOptions
from carv_distill.text_to_3d.rendering import BackgroundNetwork
from carv_distill.text_to_3d.rendering_options import BackgroundOptions
from tests.helpers.loops import fit
from tests.helpers.sds_modules import VIEW

Make = Callable[..., SDSModule]
LEARNED = replace(VIEW, background="learned")


def test_colours_are_the_network_of_sines_and_cosines() -> None:
    network = BackgroundNetwork(BackgroundOptions(width=5, frequencies=2)).double()
    d = torch.nn.functional.normalize(torch.randn(7, 3, dtype=torch.float64), dim=-1)
    inputs = torch.cat(
        [d, (math.pi * d).sin(), (math.pi * d).cos(), (2 * math.pi * d).sin(), (2 * math.pi * d).cos()], 1
    )
    first, _, second, _, third = network.layers
    hidden = (inputs @ first.weight.T + first.bias).relu()
    hidden = (hidden @ second.weight.T + second.bias).relu()
    wanted = torch.sigmoid(hidden @ third.weight.T + third.bias)
    assert torch.allclose(network(d), wanted, rtol=1e-12)
    assert network(d).std(0).min() > 1e-4


def test_a_share_of_renders_has_one_random_colour() -> None:
    """2,000 renders of two pixels: the share within 4 SE, its colours uniform; the network's not drawn."""
    network = BackgroundNetwork(BackgroundOptions(flat=0.3))
    rays = torch.nn.functional.normalize(torch.randn(1, 1, 2, 3, generator=stream("r")), dim=-1).expand(
        2000, 1, 2, 3
    )
    with torch.no_grad():
        behind = network.behind(rays, stream("g"))
        own = network(rays[0]).movedim(-1, 0)
    flat = (behind[:, :, 0, 0] == behind[:, :, 0, 1]).all(1)
    assert abs(float(flat.float().mean()) - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 2000)
    assert torch.allclose(behind[~flat], own.expand_as(behind[~flat]), atol=1e-6)
    colours = behind[flat][..., 0, 0]
    assert abs(float(colours.mean()) - 0.5) < 4 / math.sqrt(12 * colours.numel())


@pytest.mark.parametrize("kind", ["voxels", "gaussians"])
def test_a_render_is_over_what_its_rays_see_far_away(make_module: Make, kind: str) -> None:
    view = replace(
        LEARNED, kind=kind, gaussians=GaussianOptions(40), background_network=BackgroundOptions(flat=0.0)
    )
    objective = make_module(view=view).objective
    camera = objective.cameras(2, stream("c"))
    seen = objective.rendered(camera, stream("r"))
    bare = objective.scene.render(camera, 8, 8, stream("r"), "black")
    assert objective.background is not None
    far = objective.background(camera.rays(8)[1]).movedim(-1, 1)
    assert torch.allclose(seen.image, bare.image + (1 - bare.opacity) * far, atol=1e-6)
    assert torch.equal(seen.opacity, bare.opacity)


@pytest.mark.parametrize("flat", [0.0, 1.0])
def test_it_learns_at_its_own_rate_unless_it_is_never_seen(make_module: Make, flat: float) -> None:
    """A first step of Adam is of the length of the rate."""
    view = replace(LEARNED, background_network=BackgroundOptions(flat=flat))
    module = make_module(view=view, background_lr=0.02, lr_multiple=0.5)
    assert module.objective.background is not None
    before = [p.detach().clone() for p in module.objective.background.parameters()]
    fit(module, 1)
    after = [p.detach() for p in module.objective.background.parameters()]
    moved = [float((p - b).abs().max()) for p, b in zip(after, before, strict=True)]
    assert all(p.grad is not None for p in module.objective.background.parameters())
    if flat:
        assert not any(moved)
    else:
        assert max(moved) == pytest.approx(0.01, rel=1e-3)


def test_the_object_is_kept_without_it_and_a_checkpoint_has_it(make_module: Make) -> None:
    module = make_module(view=LEARNED)
    assert not [name for name in module.scene.state_dict() if "background" in name]
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    kept = [name for name in checkpoint["state_dict"] if name.startswith("objective.background.")]
    assert len(kept) == 6
    parameters = module.objective.learned
    assert len(parameters) == len(list(module.scene.parameters())) + 6
    assert sum(len(group["params"]) for group in module.objective.parameter_groups()) == len(parameters)
