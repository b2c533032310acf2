"""CLIP's embeddings as features, with the model that knows the solids."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from carv_distill.data.solids import load_solids_images
from carv_distill.data.spec import to_uint8
from carv_distill.errors import UserError
from carv_distill.evaluation.clip_features import ClipFeatures
from carv_distill.evaluation.extractors import load_extractor

CLIP = Path(__file__).parents[2] / "checkpoints/shapes-teacher/clip"


def test_embeddings_tell_solids_apart() -> None:
    """Two views of one solid in one colour are nearer to each other than to those of another solid."""
    extractor = ClipFeatures(CLIP)
    data = load_solids_images(views=2)
    images = to_uint8(data.images[[0, 1, 16, 17]])  # a red ball twice, a red cube twice
    features = extractor(images)
    assert features.shape == (4, extractor.dim)
    assert features.dtype == torch.float32
    assert len(extractor.fingerprint) == 16
    distance = torch.cdist(features, features)
    assert distance[0, 1] < distance[0, 2:].min()
    torch.testing.assert_close(extractor(images[2:]), features[2:], rtol=0, atol=1e-5)
    grey = images[:, :1]
    assert torch.equal(extractor(grey), extractor(grey.expand(-1, 3, -1, -1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor(images), features)


def test_what_is_no_model_or_no_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fid\.weights: .*nowhere is not a folder"):
        load_extractor("clip", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"fid\.features: 'vgg' is not one of digits, inception, clip"):
        load_extractor("vgg")
    with pytest.raises(UserError, match=r"takes uint8 \[n, 1 or 3, H, W\]"):
        ClipFeatures(CLIP)(torch.zeros(2, 3, 8, 8))
