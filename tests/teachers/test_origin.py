"""Where one-step generators start."""

from __future__ import annotations

import pytest
import torch

from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.origin import Origin
from carv_distill.teachers.parametrisation import EDMPreconditioning, FlowPreconditioning
from carv_distill.teachers.schedule import EDMSchedule, FlowSchedule
from carv_distill.teachers.teacher import raw_network
from tests.helpers.tiny_unet import tiny_unet

Z = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_generator_of_images_starts_at_the_top_of_its_levels() -> None:
    """x = D(σ z; σ) at a finite σ; at σ = ∞ what the network makes of z itself, of a flow z − F(z, T)."""
    network = raw_network(tiny_unet()).eval()
    edm, flow = EDMSchedule(), FlowSchedule(100)
    of_edm = NetworkDenoiser(network, EDMPreconditioning(0.5))
    top = torch.full((3,), edm.sigma_max)
    assert torch.equal(Origin.of_images(edm)(of_edm, Z, None), of_edm(edm.sigma_max * Z, top, None))
    made = Origin.of_images(flow)(NetworkDenoiser(network, FlowPreconditioning(flow)), Z, None)
    torch.testing.assert_close(made, Z - network(Z, torch.full((3,), 100.0), None))


@torch.no_grad()
@pytest.mark.parametrize("sigma", [80.0, 1000.0])
def test_the_two_origins_agree_at_a_large_sigma(sigma: float) -> None:
    denoiser = NetworkDenoiser(raw_network(tiny_unet()).eval(), EDMPreconditioning(0.5))
    times, seen = (Origin(sigma, seen)(denoiser, Z, None) for seen in (False, True))
    assert 0 < float((times - seen).norm() / seen.norm()) < 0.1 / sigma
