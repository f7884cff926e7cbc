"""Plots: round ticks, marks where their values are, and text that cannot break the page."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_jax.evaluation import charts


@given(st.floats(-1e3, 1e3), st.floats(1e-2, 1e3), st.integers(3, 8))
def test_ticks_cover_the_range_evenly(low, span, wanted):
    at = charts.ticks(low, low + span, wanted)
    step = at[1] - at[0]
    assert at[0] <= low + 1e-6 and at[-1] >= low + span - 1e-6
    assert all(abs((b - a) - step) < 1e-6 for a, b in pairwise(at))
    assert len(at) <= 3 * wanted


def test_ticks_are_round():
    assert charts.ticks(11.8, 26.9) == [10, 15, 20, 25, 30]
    assert charts.ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_marks_stand_at_their_share_of_the_axis():
    axis = charts.Axis([10, 20, 30])
    assert [axis.percent(v) for v in (10, 20, 30, 99, -5)] == [2, 50, 98, 98, 2]
    drawing = charts.dot_row(
        [charts.Mark(20, "c-ours", error=5.0, title="a < b")], axis, label='"quoted" & more'
    )
    root = ElementTree.fromstring(drawing)
    assert root.get("aria-label") == '"quoted" & more'
    assert root.find("svg").get("x") == "50.0%"
    whisker = next(line for line in root.iter("line") if "whisker" in line.get("class"))
    assert (whisker.get("x1"), whisker.get("x2")) == ("26.0%", "74.0%")
    assert root.find("svg/title").text == "a < b"


def test_a_strip_has_a_dot_for_every_value_and_none_on_another():
    values = [1.0, 1.0, 1.01, -2.0, 4.0]
    drawing = charts.strip_row(values, charts.Axis([-5, 0, 5]), label="gain", css="c-rival")
    circles = list(ElementTree.fromstring(drawing).iter("circle"))
    places = {(c.get("cx"), c.get("cy")) for c in circles}
    assert len(circles) == len(places) == len(values)
    assert sum("below" in c.get("class") for c in circles) == 1


def test_a_stacked_bar_fills_the_width():
    bar = charts.stacked_bar([("a", 1), ("b", 3.0)], label="parts")
    widths = [float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)%"', bar)]
    assert widths == [25, 75]
