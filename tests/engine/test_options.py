"""Options that must go together."""

from __future__ import annotations

import pytest

from carv_distill.engine.options import EstimatorOptions
from carv_distill.errors import UserError

NEYMAN = {"proposal": "adaptive", "statistic": "neyman"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "paired", "draws": 3}, r"draws: 3 is odd, and estimator\.strategy: paired needs"),
        ({"proposal": "adaptive", "defensive": 0.0}, r"defensive: .* above 0, found 0"),
        (
            {"proposal": "adaptive", "statistic": "neyman", "draws": 1},
            r"statistic: neyman .* at least 2, found 1",
        ),
        (
            {"proposal": "adaptive", "statistic": "neyman", "chunk": 1},
            r"chunk: neyman .* at least 2, found 1",
        ),
        (
            {"proposal": "weighting"},
            r"proposal: weighting is not for task dmd \(allowed: uniform",
        ),
        ({"proposal": "weights"}, r"weights: 0 weights with estimator\.proposal: weights"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=rf"^estimator\.{message}"):
        EstimatorOptions(**options).check("dmd", "weighting")  # type: ignore[arg-type]


def test_an_even_number_of_draws_suits_pairs() -> None:
    EstimatorOptions(strategy="paired", draws=4).check("dmd", "weighting")
