"""The axes that all pictures share."""

from __future__ import annotations

import itertools

import pytest

from carv_distill.figures import new_figure, short_number, use_logarithm


@pytest.mark.parametrize("decades", [0.03, 0.15, 0.45, 1, 1.3, 2.9, 4, 6, 15])
@pytest.mark.parametrize("beginning", [0.7, 2.2e5])
@pytest.mark.parametrize("height", [1.5, 3.6])
def test_a_logarithmic_axis_has_ticks_to_read_it_by(decades: float, beginning: float, height: float) -> None:
    """Two or more in sight, and none over another, on a small picture too."""
    figure = new_figure(height)
    axes = figure.add_subplot()
    axes.set_ylim(beginning, beginning * 10**decades)
    use_logarithm(axes, "y")
    axes.set_ylim(beginning, beginning * 10**decades)
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    labels = [
        label.get_window_extent()
        for place, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        if low <= place <= high and label.get_text()
    ]
    assert len(labels) >= 2
    assert all(below.y1 <= above.y0 for below, above in itertools.pairwise(labels))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.02, "0.02"),
        (0.0002, "2e-4"),
        (300, "300"),
        (50000, "50,000"),
        (5e6, "5e6"),
        (-1.5e7, "-1.5e7"),
        (0, "0"),
    ],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short_number(value) == text
