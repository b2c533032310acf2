"""Features of many images at once."""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.evaluation.features import FeatureExtractor
from carv_distill.evaluation.fid import FeatureStatistics
from carv_distill.evaluation.reference import Reference


def extract_features(extractor: FeatureExtractor, images_uint8: Tensor, batch_size: int = 256) -> Tensor:
    """float64 [N, D] of uint8 [N, C, H, W]."""
    return torch.cat([extractor(batch).to("cpu", torch.float64) for batch in images_uint8.split(batch_size)])


def reference_of(name: str, images_uint8: Tensor, extractor: FeatureExtractor) -> Reference:
    """A reference from images, uint8 [M, C, H, W]."""
    features = extract_features(extractor, images_uint8)
    return Reference(name, FeatureStatistics.from_features(features), features)
