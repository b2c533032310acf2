import pytest

from carv_distill.evaluation.classifier import ClassifierFeatures
from tests.helpers.small import DIGITS_FEATURES


@pytest.fixture(scope="session")
def digits_features() -> ClassifierFeatures:
    return ClassifierFeatures(DIGITS_FEATURES, "digits")
