from pathlib import Path

import pytest

from carv_distill.evaluation.features import DigitsFeatures

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "digits-features"


@pytest.fixture(scope="session")
def digits_features() -> DigitsFeatures:
    return DigitsFeatures(SHIPPED)
