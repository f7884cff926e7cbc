"""Maps against counts by hand, and a page that holds all of a world and asks for nothing else."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from helpers import paths
from mirage_jax import memory
from mirage_jax.evaluation.world_page import WORLD_PAGE, maps, world_numbers, world_page
from mirage_jax.world.world_file import read_world_file

XYZ = np.random.default_rng(0).uniform((-2, -1, 0), (2, 1, 5), (300, 3))
CENTRES = np.array([[0, 0, 1.0], [0, 0, 2], [1, 0, 3]])


@pytest.fixture(scope="module")
def file():
    return read_world_file(paths.GOLDEN / "world_2" / "whole.world")


@pytest.mark.parametrize("up", maps.UPS)
def test_views_are_not_mirrored(up):
    """What points right, times what points up on the page, points at who looks at it."""
    plan, across, along = maps.views(XYZ, CENTRES, up)
    np.testing.assert_array_equal(np.cross(plan.across, plan.upward), maps.UPS[up])
    for view in (across, along):
        np.testing.assert_array_equal(view.upward, maps.UPS[up])
        assert np.cross(view.across, view.upward) @ maps.UPS[up] == 0


def test_bins_hold_the_elements_that_are_there():
    plan, section, _ = maps.views(XYZ, CENTRES, "-y")
    for view in (plan, section):
        number = maps.bins(view, XYZ)
        rows, columns = view.pixels
        mean = maps.mean_picture(view, number, XYZ)
        filled = {}
        for at, place in zip(number, XYZ, strict=True):
            if at >= 0:
                filled.setdefault(divmod(int(at), columns), []).append(place)
        assert {tuple(p) for p in np.argwhere(np.isfinite(mean[..., 0]))} == filled.keys()
        for (row, column), places in filled.items():
            np.testing.assert_allclose(mean[row, column], np.mean(places, axis=0))
            right, top = np.mean(places, axis=0) @ np.stack([view.across, view.upward]).T
            assert abs(right - view.low[0] - (column + 0.5) * view.pixel) <= view.pixel / 2
            assert abs(top - view.low[1] - (rows - row - 0.5) * view.pixel) <= view.pixel / 2
    inside = (number >= 0) == (np.abs(XYZ[:, 2] - 2) <= (section.slab[1] - section.slab[0]) / 2)
    assert inside.mean() > 0.98  # the outermost elements are beyond the edge


def test_coverage_counts_different_frames():
    view = maps.views(XYZ, CENTRES, "-y")[0]
    number = np.array([5, 5, 5, 7, -1])
    picture = maps.distinct_picture(view, number, np.array([1, 1, 2, 1, 3])).reshape(-1)
    assert picture[5] == 2 and picture[7] == 1 and np.isfinite(picture).sum() == 2


def test_colours_go_from_dark_to_light_and_nothing_is_transparent():
    picture = maps.coloured(np.array([[0.0, 1.0, np.nan]]), 0, 1)[0]
    assert picture[:, 3].tolist() == [255, 255, 0]
    assert picture[0, :3].sum() < picture[1, :3].sum()


class Page(HTMLParser):
    """Tags that are open, all links, and the text."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "input"):
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_one_file_with_every_map_and_number(file, tmp_path):
    text = world_page(file, "a <world>")
    page = Page()
    page.feed(text)
    assert page.open == [] and "a <world>" in page.text and "<script" not in text
    assert len(page.links) == 3 * 6  # views, colourings
    for link in page.links:
        data = base64.b64decode(link.removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(data)).mode == "RGBA"
    for group, entries in world_numbers(file).items():
        assert group in page.text and all(name in page.text for name in entries)
    assert text.count('class="entity"') == 3 * (np.asarray(file.entities["id"]) >= 0).sum()
    assert text.count('class="track"') == 3 * len(np.unique(file.entities["track_id"]))
    assert not re.search(r"\b(nan|inf)\b", text)
    (tmp_path / "page.html").write_text(text)
    assert WORLD_PAGE.is_ours(tmp_path / "page.html")


def test_an_empty_memory_has_a_page_too(file):
    bank = memory.create(4, 4)
    empty = dataclasses.replace(file, world=file.world.replace(bank=bank), camera_path=None)
    assert "The memory is empty" in world_page(empty, "empty")
    assert world_numbers(empty)["memory"]["elements"] == 0
