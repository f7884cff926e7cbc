"""The page in a real browser, over rooms that are drawn; `test_browser_long` has a model's."""

import io

import numpy as np
import pytest
from PIL import Image

from helpers.browsers import browser as launched
from helpers.browsers import hold, numbers, page_at, pixels, stand, until
from helpers.drawn_session import drawn
from helpers.explorer import running
from mirage_jax.explore.hub import HubOptions


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory, browser):
    with running(tmp_path_factory.mktemp("worlds"), HubOptions(walkers=4)) as found:
        yield found


def distance(picture, pose):
    """Mean difference of a picture from what is to be seen at a pose."""
    return np.abs(picture.astype(int) - drawn(np.array(pose))[0]).mean()


def test_holding_w_walks_and_letting_go_stands(server, browser):
    with page_at(browser, server.url) as page:
        before = numbers(page)
        assert distance(pixels(page), before["pose"]) < 4
        page.locator("#picture").focus()
        hold(page, "w", "mirage.numbers().drawn >= 8")
        after = numbers(page)
        assert after["pose"][2][3] > 0.9
        assert after["pose"][0][3] == 0
        assert distance(pixels(page), after["pose"]) < 4
        assert distance(pixels(page), before["pose"]) > 8
        assert {"input", "read", "denoise", "decode", "encode", "send", "draw"} == {
            *after["ledger"]
        }
        assert page.locator("#ledger tr").count() == 9  # two denoising steps, too
        assert page.locator("#ledger tr.step td:last-child").all_inner_texts() == ["4.0", "3.0"]
        assert after["samples"] >= 1
        assert 0 < after["p95"] < 60_000
        page.wait_for_timeout(400)
        still = numbers(page)
        assert (still["pose"], still["drawn"]) == (after["pose"], after["drawn"])


def test_looking_away_and_back_undo_and_branches(server, browser):
    with page_at(browser, server.url) as page:
        page.locator("#picture").focus()
        start = pixels(page)
        hold(page, "ArrowRight", "mirage.numbers().drawn >= 4")
        assert np.abs(pixels(page).astype(int) - start).mean() > 8
        page.click("#mark")
        page.wait_for_selector("#branches button")
        there, steps = pixels(page), numbers(page)["drawn"] // 4
        for _ in range(steps):
            page.keyboard.press("z")
        until(page, "mirage.numbers().pose[0][0] === 1 && !mirage.numbers().moving")
        np.testing.assert_array_equal(pixels(page), start)
        assert page.locator("#undo").is_disabled()
        page.click("#branches button")
        until(page, "mirage.numbers().pose[0][0] !== 1 && !mirage.numbers().moving")
        np.testing.assert_array_equal(pixels(page), there)


def test_dragging_turns_by_as_much_as_was_dragged(server, browser):
    with page_at(browser, server.url) as page:
        box = page.locator("#picture").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x - box["width"] / 3, y, steps=4)
        page.mouse.up()
        until(page, "mirage.numbers().drawn >= 4")
        stand(page)
        pose = np.array(numbers(page)["pose"])
        turned = np.degrees(np.arctan2(pose[0, 2], pose[2, 2]))
        assert turned == pytest.approx(30, abs=0.5)  # the whole width is 90 degrees


def test_the_plan_deletes_where_it_is_clicked(server, browser):
    with page_at(browser, server.url) as page:
        until(page, "mirage.numbers().elements > 0")
        before = numbers(page)["elements"]
        page.locator("#tools input[value=delete]").check(force=True)
        page.locator("#radius").fill("1.2")
        page.locator("#plan").click()
        until(page, f"mirage.numbers().elements < {before}")
        page.wait_for_selector("#notes p:has-text('elements removed')")
        page.locator("#layers input[value=age]").check(force=True)
        page.wait_for_selector("#scale:not([hidden])")


def test_a_picture_that_is_chosen_begins_a_world(server, browser):
    file = io.BytesIO()
    Image.fromarray(np.zeros((300, 500, 3), np.uint8)).save(file, "PNG")
    with page_at(browser, server.url) as page:
        page.locator("#picture").focus()
        hold(page, "s", "mirage.numbers().drawn >= 4")
        assert numbers(page)["pose"][2][3] < 0
        picture = {"name": "a.png", "mimeType": "image/png", "buffer": file.getvalue()}
        page.set_input_files("#file", picture)
        until(page, "mirage.numbers().pose[2][3] === 0 && !mirage.numbers().moving")
        assert distance(pixels(page), numbers(page)["pose"]) < 4
        assert page.locator("#notes .error").count() == 0
        page.set_input_files("#file", {**picture, "buffer": b"nothing"})
        page.wait_for_selector("#notes .error")


def test_two_tabs_walk_in_one_memory(server, browser):
    with page_at(browser, server.url) as one, page_at(browser, server.url) as two:
        one.locator("#picture").focus()
        hold(one, "w", "mirage.numbers().drawn >= 4")
        two.locator("#walkers li:not(.here) >> text=Walk along").first.wait_for()
        pose = numbers(one)["pose"]
        assert pose[2][3] > 0 == numbers(two)["pose"][2][3]
        number = one.locator("#walkers li.here span").inner_text().split()[1].rstrip(",")
        two.locator(f"#walkers li:has-text('Walker {number}') >> text=Walk along").click()
        until(two, f"mirage.numbers().pose[2][3] === {pose[2][3]}")
        one.wait_for_selector("#walkers li.together")


def test_a_lost_connection_is_said_and_mended(tmp_path, browser):
    with running(tmp_path) as first:
        port, context = first.port, page_at(browser, first.url)
        page = context.__enter__()
        page.locator("#picture").focus()
        hold(page, "w", "mirage.numbers().drawn >= 4")
    page.wait_for_selector("#veil:has-text('The server is gone')")
    assert not numbers(page)["connected"]
    with running(tmp_path, port=port):  # with what was walked saved
        until(page, "mirage.numbers().connected")
        page.wait_for_selector("#worlds button")
        page.click("#worlds button")
        until(page, "mirage.numbers().pose[2][3] > 0")
        context.__exit__(None, None, None)


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 768), (390, 844)])
def test_the_page_fits_and_can_be_used_by_keyboard(server, browser, tmp_path, width, height):
    with page_at(browser, server.url, (width, height), touch=width < 500) as page:
        page.wait_for_selector("#walkers li")
        page.screenshot(path=tmp_path / f"{width}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        picture = page.locator("#picture").bounding_box()
        assert picture["y"] + picture["height"] <= height
        assert picture["width"] >= min(width, 0.4 * width + 150)
        for name in ("undo", "mark", "memory", "save", "export", "plan", "readout"):
            box = page.locator(f"#{name}").bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            overlap = (
                box["y"] < picture["y"] + picture["height"]
                and box["x"] < picture["x"] + picture["width"]
            )
            assert not overlap, f"{name} covers the picture"
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button, select, input, canvas")].filter(e =>
              !(e.textContent.trim() || e.ariaLabel || e.labels?.[0]?.textContent.trim()
                || e.title)).map(e => e.outerHTML)"""
        )
        assert nameless == []
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.name"))
        expected = {"picture", "mark", "memory", "export", "save", "plan", "layer", "tool", "drop"}
        assert expected <= reached


def test_a_thumb_walks(server, browser):
    with page_at(browser, server.url, (390, 844), touch=True) as page:
        page.touchscreen.tap(200, 100)
        page.wait_for_selector("#stick", state="visible")
        box = page.locator("#stick").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x, y - 60)
        until(page, "mirage.numbers().drawn >= 4")
        page.mouse.up()
        stand(page)
        assert numbers(page)["pose"][2][3] > 0.4
