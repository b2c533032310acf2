"""scikit-learn's digits: 1,797 real 8x8 scans, shipped with the library, so nothing is downloaded."""

import torch

from .sets import ImageSpec, LabelledImages

DIGITS = ImageSpec("digits", channels=1, size=8, classes=10)


def load_digits_images() -> LabelledImages:
    """All the scans in the library's order: x / 8 - 1 of the grey levels 0..16, labels 0..9.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998), test part.
    """
    from sklearn.datasets import load_digits  # half a second, for those who load them

    digits = load_digits()
    images = torch.from_numpy(digits.images).to(torch.float32)[:, None] / 8 - 1
    return LabelledImages(images, torch.from_numpy(digits.target).to(torch.int64), DIGITS)
