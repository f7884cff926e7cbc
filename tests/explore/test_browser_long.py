"""The page over the weights that ship, in a server of its own, as `mirage explore` starts it.

    MIRAGE_TEST_LONG=1 python -m pytest -s tests/explore/test_browser_long.py

prints frames a second, of all the time that keys are held, and the time from a key to its picture;
MIRAGE_TEST_WORKDIR=runs/quickstart walks over the weights of a work directory.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from helpers.browsers import browser as launched
from helpers.browsers import numbers, page_at, pixels, stand, until
from mirage_jax.world.world_file import read_world_file

pytestmark = pytest.mark.long
KEYS = ("w", "s", "a", "d", "ArrowLeft", "ArrowRight")
SECONDS = 900
"""That compiling may take on a busy machine."""
OF_TESTS = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS", "OPENBLAS_NUM_THREADS")
"""Variables by which tests compile fast and run slowly: who walks has none of them."""


@contextlib.contextmanager
def explorer(saved, end=signal.SIGTERM, *more):
    """`mirage explore` until the block ends; gives the address of its page."""
    command = [sys.executable, "-m", "mirage_jax.cli.main", "explore"]
    flags = [f"--saved={saved}", "--port=0", *more]
    if workdir := os.environ.get("MIRAGE_TEST_WORKDIR"):
        flags.append(f"--workdir={workdir}")
    env = {name: value for name, value in os.environ.items() if name not in OF_TESTS}
    process = subprocess.Popen(
        [*command, *flags], env=env, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    try:
        line = ""
        while "http://" not in line:
            line = process.stdout.readline()
            assert line, "it ended before it said where the page is"
        yield line.split()[-1]
    finally:
        process.send_signal(end)
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """One folder for all, so that what is compiled once is found by the next."""
    return tmp_path_factory.mktemp("saved")


def turn(page, share):
    """Drags by a share of the picture's width, 90 degrees being all of it, and waits."""
    box = page.locator("#picture").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for part in np.full(4, share / 4):
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x - part * box["width"], y)
        page.mouse.up()
    page.wait_for_timeout(500)
    stand(page)


def yaw(page):
    pose = np.array(numbers(page)["pose"])
    return np.degrees(np.arctan2(pose[0, 2], pose[2, 2]))


def psnr(one, other):
    return -10 * np.log10(np.mean((one / 255.0 - other / 255.0) ** 2))


def away_and_back(page):
    """PSNR of what is seen after looking away by 100 degrees and back."""
    before, start = pixels(page), yaw(page)
    turn(page, 100 / 90)
    assert yaw(page) - start == pytest.approx(100, abs=1)
    turn(page, -100 / 90)
    assert yaw(page) == pytest.approx(start, abs=1)
    return psnr(before, pixels(page))


def test_what_was_seen_comes_back_and_survives_a_kill(saved, browser):
    with explorer(saved, signal.SIGKILL) as url, page_at(browser, url, wait=SECONDS) as page:
        page.locator("#picture").focus()
        with_memory = away_and_back(page)
        pose = numbers(page)["pose"]
        page.click("#save")
        page.wait_for_selector("#worlds button")
        (first,) = saved.glob("*.world")
        page.locator("#starts button").first.click()
        until(page, "mirage.numbers().frames === 1")
        page.click("#memory")
        until(page, "!mirage.numbers().memory")
        emptied = away_and_back(page)
    print(json.dumps({"psnr_with_memory": with_memory, "psnr_emptied": emptied}))
    assert with_memory > emptied + 1
    with explorer(saved) as url, page_at(browser, url, wait=SECONDS) as page:
        page.click("#worlds button")
        until(page, "mirage.numbers().frames > 1")
        assert numbers(page)["pose"] == pose
        page.click("#save")
        until(page, "document.querySelectorAll('#worlds button').length > 1")
        (second,) = set(saved.glob("*.world")) - {first}
        one, other = read_world_file(first), read_world_file(second)
        for a, b in zip(jax.tree.leaves(one.world), jax.tree.leaves(other.world), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bodies", [False, True], ids=["still", "bodies"])
@pytest.mark.parametrize("pace", ["auto", 16, 18, 30, 45])
def test_how_fast_it_is(saved, browser, pace, bodies):
    kept = f"--bodies={str(bodies).lower()}"
    with explorer(saved, signal.SIGTERM, f"--pace={pace}", kept) as url:
        began = time.monotonic()
        with page_at(browser, url, wait=SECONDS) as page:
            first_picture = time.monotonic() - began
            page.locator("#picture").focus()
            draw, early, held = random.Random(0), 0.0, "w"
            page.keyboard.down(held)
            page.wait_for_timeout(2000)
            page.evaluate("mirage.reset()")
            began = time.monotonic()
            for number in range(40):  # always something is held, so that all the time counts
                key = draw.choice([key for key in KEYS if key != held])
                page.keyboard.down(key)
                page.keyboard.up(held)
                page.wait_for_timeout(draw.uniform(300, 1500))
                early, held = early or (number == 9 and numbers(page)["turnaround"]), key
            seconds = time.monotonic() - began
            drawn = numbers(page)["drawn"]
            page.keyboard.up(held)
            found = numbers(page)
    found["rate"] = drawn / seconds
    found = {k: round(found[k], 1) for k in ("rate", "median", "p95", "turnaround", "samples")} | {
        "ledger": {name: round(value, 1) for name, value in found["ledger"].items()},
        "turnaround_early": round(early, 1),
        "first_picture_seconds": round(first_picture, 1),
        "pace": [pace, found["pace"]],
        "bodies": bodies,
        "load": os.getloadavg()[0],
    }
    print(json.dumps(found))
    assert found["samples"] >= 30
    assert found["rate"] > 5
