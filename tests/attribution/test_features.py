"""Features of a training set in a store."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from carv_distill.attribution.features import FeatureJob, fill_store
from carv_distill.attribution.models import Samples
from carv_distill.attribution.options import InfluenceOptions
from carv_distill.attribution.projection import build_projector
from carv_distill.attribution.store import FeatureStore
from carv_distill.carv import Draws
from carv_distill.errors import UserError
from carv_distill.processes import Processes
from tests.helpers.linear import linear_gradients


def test_a_gradient_that_is_not_finite_is_named_and_what_is_in_the_store_stays(tmp_path: Path) -> None:
    x = torch.ones(10, 3, dtype=torch.float64)
    x[6, 1] = torch.nan
    draws = Draws(torch.rand(2, 1), torch.ones(2, 1), torch.randn(2, 1, 3))
    job = FeatureJob(linear_gradients(), build_projector("none", 1), draws, chunk=4)
    store = FeatureStore(tmp_path / "half", 10, 2, 9, {"model": "m"}, block=4)
    with pytest.raises(UserError, match=r"^training sample 6: its gradient holds NaN or infinity$"):
        fill_store(InfluenceOptions(chunk=4), job, store, Samples(x, [""] * 10, x, None), Processes())
    assert store.missing() == [1, 2]
