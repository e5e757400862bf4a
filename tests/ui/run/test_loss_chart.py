"""The loss chart's geometry: a round number above the curve, and a line of at most so many points."""

import pytest

from ui.run.loss_chart import ceiling, plotted, thinned


def test_points_are_placed_in_percent_of_the_plot():
    plot = plotted("en", [(10, 3.0), (20, 1.5)], [(0, 3.0), (20, 1.2)], total=40)
    assert plot.line == "25.00,0.00 50.00,50.00"
    assert plot.dots == [(0.0, 0.0), (50.0, pytest.approx(60.0))]
    assert plot.last_step == 40


def test_without_a_loss_there_is_no_plot():
    assert plotted("en", [], [], total=0) is None


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (0.031, 0.04), (1, 1), (1.2, 1.5), (2.9, 3), (7, 8), (70, 80)]
)
def test_the_axis_ends_at_a_round_number_above_the_curve(value, top):
    assert ceiling(value) == pytest.approx(top)


def test_a_long_curve_is_thinned_and_keeps_its_end():
    points = [(float(n), float(n)) for n in range(10_001)]
    kept = thinned(points, 240)
    assert len(kept) <= 241
    assert kept[-1] == points[-1]
