"""From the name of features in a configuration to their extractor."""

from __future__ import annotations

from carv_distill.errors import UserError

from .features import DigitsFeatures, FeatureExtractor, InceptionFeatures

FEATURES = ("digits", "inception", "clip")
DIGITS_FEATURES = "checkpoints/digits-features"
SOLIDS_CLIP = "checkpoints/shapes-teacher/clip"


def load_extractor(
    features: str, weights: str | None = None, *, key: str = "fid.weights"
) -> FeatureExtractor:
    """The extractor called `features`.

    Args:
        weights: folder of the digits classifier (None: the shipped one), file of the Inception weights (None:
            torch hub's), or folder or hub id of a CLIP model (None: the one that knows the solids).
        key: what gives `weights`, for the messages.

    Raises:
        UserError: no such features, or weights that are missing or damaged.
    """
    match features:
        case "digits":
            return DigitsFeatures(weights or DIGITS_FEATURES)
        case "inception":
            return InceptionFeatures(weights, key=key)
        case "clip":
            from .clip_features import ClipFeatures

            return ClipFeatures(weights or SOLIDS_CLIP, key=key)
    raise UserError(f"fid.features: {features!r} is not one of {', '.join(FEATURES)}")
