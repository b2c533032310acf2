"""Prices of a step."""

from __future__ import annotations

import pytest

from tests.helpers.sds_states import PRICES


def test_prices_of_many_renders_are_those_of_four_at_a_time() -> None:
    assert PRICES(16, 4) == 4 * PRICES(4, 4)
    assert PRICES.step(2, 8) == pytest.approx(2 * 11 + 0.1)
