"""What the browser is given besides pictures of a field."""

from __future__ import annotations

import pytest
import torch

from carv_distill.text_to_3d.rendering import Gaussians

pytest.importorskip("viser")

from carv_distill.text_to_3d.viewer.window import splats


def test_splats_have_the_covariances_of_the_gaussians() -> None:
    """Σ = R S² Rᵀ, against a half turn and a third of one around the diagonal, by hand."""
    scales = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0.1, 0.2, 0.3]], dtype=torch.float64)
    quaternions = torch.tensor(
        [[1.0, 0, 0, 0], [3.0, 3.0, 3.0, 3.0], [0, 0, 0, 2.0]], dtype=torch.float64
    )  # none; x → y → z → x; half around z
    means = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    colour, opacity = means.sigmoid(), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    found = splats(Gaussians(means, quaternions, scales, opacity, colour))
    expected = [
        torch.diag(torch.tensor(d, dtype=torch.float64)) for d in ((1, 4, 9), (9, 1, 4), (0.01, 0.04, 0.09))
    ]
    torch.testing.assert_close(found["covariances"], torch.stack(expected), rtol=0, atol=1e-14)
    assert torch.equal(found["centers"], means)
    assert torch.equal(found["rgbs"], colour)
    assert found["opacities"].shape == (3, 1)
    assert torch.equal(found["opacities"][:, 0], opacity)
