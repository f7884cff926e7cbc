"""A headless Chromium for tests of pages; skipped with the reason where there is none."""

import contextlib
import io
import shutil
import time

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")


@contextlib.contextmanager
def browser():
    """A browser until the block ends."""
    api = pytest.importorskip("playwright.sync_api", reason="of the extra [browser]: playwright")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"found no browser, expected one of {', '.join(NAMES)}")
    with api.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@contextlib.contextmanager
def page_at(browser, url, size=(1100, 800), touch=False, wait=60):
    """A page of its own, ready to walk; what it complains of fails the test."""
    shape = {"width": size[0], "height": size[1]}
    with contextlib.closing(browser.new_context(viewport=shape, has_touch=touch)) as context:
        page, problems = context.new_page(), []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.set_default_timeout(60_000)
        page.goto(url)
        until(page, "window.mirage?.numbers().pose && !mirage.numbers().moving", wait)
        yield page
        assert problems == []


def numbers(page):
    """What the page says of itself."""
    return page.evaluate("mirage.numbers()")


def pixels(page, canvas="#picture"):
    """The pixels of a canvas, [H, W, 3]."""
    data = page.evaluate(
        """async id => {
          const blob = await new Promise(done => document.querySelector(id).toBlob(done));
          return Array.from(new Uint8Array(await blob.arrayBuffer()));
        }""",
        canvas,
    )
    with Image.open(io.BytesIO(bytes(data))) as image:
        return np.asarray(image.convert("RGB"))


def until(page, condition, seconds=60):
    """Waits until an expression of JavaScript is true.

    In steps of our own: the page lets nobody evaluate texts within it, as `wait_for_function` does.
    """
    limit = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < limit, f"{condition}: found {numbers(page)}"
        page.wait_for_timeout(30)


def hold(page, key, condition):
    """Holds a key until an expression of JavaScript is true, then waits until all stands."""
    page.keyboard.down(key)
    until(page, condition)
    page.keyboard.up(key)
    stand(page)


def stand(page):
    """Waits until nothing is held and no frame comes any more."""
    until(page, "!mirage.numbers().moving")
    before = -1
    while before != (now := numbers(page))["drawn"]:
        before = now["drawn"]
        page.wait_for_timeout(400 + 2 * now["turnaround"])
