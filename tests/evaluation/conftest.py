import pytest

from carv_distill.evaluation.features import DigitsFeatures
from tests.helpers.small import DIGITS_FEATURES


@pytest.fixture(scope="session")
def digits_features() -> DigitsFeatures:
    return DigitsFeatures(DIGITS_FEATURES)
