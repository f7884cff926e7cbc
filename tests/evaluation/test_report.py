"""The page is self-contained, well formed, says what it must, and holds the videos it was given."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mirage_jax.evaluation import report, results

VOID = {"meta", "br", "img", "input", "link", "hr"}


class _Page(HTMLParser):
    """Checks that tags nest, and collects attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def attributes(self, tag, name):
        return [attrs[name] for t, attrs in self.elements if t == tag and name in attrs]


def _read(path):
    page = _Page()
    page.feed(path.read_text())
    assert page.open == []
    return page, " ".join(" ".join(page.text).split())


def _picture(data_uri):
    head, _, data = data_uri.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    rng = np.random.default_rng(0)
    psnr = {
        method: 20 + 2 * k + rng.normal(0, 1, (8, 4))
        for k, method in enumerate(("memory_zeroed", "memory", "rgb_memory", "vae_reconstruction"))
    }
    ssim = {method: values / 40 for method, values in psnr.items()}
    world = results.summarise(psnr, ssim, np.arange(8) % 2 == 0)
    world["nmr"] = {"psnr": results.nmr_summary({m: rng.normal(1, 0.1, 8) for m in psnr})}
    world["geometry"] = {"abs_rel": 0.2}
    built = results.build(
        world="freedoom",
        worlds={"freedoom": world},
        seconds={"record": 100, "train_vae": 260.0},
        efficiency={
            "device": "cpu",
            "grid": [8, 8],
            "read_against_sort": {"read_ms": 1.25, "ratio": 14.66},
            "after_chunks": {
                n: {"latent": {"bytes": 2048}, "rgb": {"bytes": 3 << 20}} for n in ("1", "5")
            },
        },
        sampling_steps=4,
        seed=3,
        missing=[{"control": "no_memory", "world": "freedoom", "reason": "run `make compare`"}],
        bodies={
            "clips": 12,
            "views": 31,
            "methods": {
                "memory": {
                    "present": {"value": 0.625, "views": 29},
                    "who": {"value": 0.8125, "views": 18},
                    "state_error": {"value": 0.732, "views": 17},
                    "ghosts": {"value": None, "views": 0},
                    "hallucinated": {"value": 0.046, "views": 43},
                }
            },
        },
    )
    video = rng.integers(0, 256, (7, 16, 24, 3), dtype=np.uint8)
    path = report.write_report(
        tmp_path_factory.mktemp("report") / "report.html",
        built,
        [
            {
                "title": "MAP <7>",
                "panels": {"truth": video, "model": 255 - video},
                "fps": 8,
                "note": "a & b",
                "history": 4,
                "revisit": 2,
            }
        ],
        {"From above": (rng.integers(0, 256, (40, 30, 3), dtype=np.uint8), "a caption")},
        "c.seed = 3  # <config>",
        [{"title": "behind a <wall>", "panels": {"who": video[:5]}, "fps": 4, "history": 3}],
    )
    return path, built, video


def test_the_page_needs_nothing_else(full):
    path, _, _ = full
    page, _ = _read(path)
    for name in ("src", "href", "data-sheet"):
        for value in (
            v for tag in {t for t, _ in page.elements} for v in page.attributes(tag, name)
        ):
            assert value.startswith(("data:", "#"))
    source = re.sub(r"base64,[A-Za-z0-9+/=]+", "", path.read_text())
    assert "http" not in source and "url(" not in source and "@import" not in source
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_every_link_has_its_section(full):
    page, _ = _read(full[0])
    targets = page.attributes("section", "id")
    assert [link.removeprefix("#") for link in page.attributes("a", "href")] == targets
    assert targets == [key for key, _ in report._SECTIONS]


def test_the_numbers_are_there(full):
    path, built, _ = full
    _, text = _read(path)
    revisit = built["revisit"]["memory"]["psnr"]
    assert f"{revisit['mean']:.2f} ± {revisit['stderr']:.2f}" in text
    assert f"{built['gains']['over_memory_zeroed']['mean']:+.1f}" in text
    assert "6 min 00 s in all" in text
    assert "14.7×" in text and "2.0 KiB" in text and "3.0 MiB" in text
    assert "Trained without (Freedoom) was not run: run make compare" in text
    assert "seed 3 · 4 sampling steps" in text
    assert "MAP <7>" in text and "a & b" in text and "# <config>" in text


def test_bodies_have_their_films_and_numbers(full):
    _, text = _read(full[0])
    section = text[text.index("Bodies walk on while") :]
    assert section.index("behind a <wall>") < section.index("31 judged views of 12 held-out clips")
    row = "generated, with memory and bodies 62 (29) 81 (18) 0.73 (17) - 5 (43)"
    assert "present % who % state error ghosts % hallucinated % " + row in section


def test_verdicts_match_the_results(full):
    path, built, _ = full
    page, _ = _read(path)
    verdicts = [a["title"] for t, a in page.elements if t == "span" and "title" in a]
    names = {True: "holds", False: "does not hold", None: "not measured"}
    assert sorted(verdicts) == sorted(names[row["passed"]] for row in built["must"])


def test_the_player_holds_every_frame_without_loss(full):
    path, _, video = full
    page, _ = _read(path)
    players = [a for t, a in page.elements if t == "div" and a.get("class") == "player"]
    assert [(p["data-frames"], p["data-history"], p["data-revisit"]) for p in players] == [
        ("7", "4", "5"),
        ("5", "3", "0"),
    ]
    canvases = [a for t, a in page.elements if t == "canvas"]
    assert [c["aria-label"] for c in canvases] == ["truth", "model", "who"]
    for canvas, frames in zip(canvases, (video, 255 - video, video[:5]), strict=True):
        assert (canvas["width"], canvas["height"], canvas["class"]) == ("24", "16", "pixelated")
        sheet, columns = _picture(canvas["data-sheet"]), int(canvas["data-columns"])
        for i, frame in enumerate(frames):
            y, x = i // columns * 16, i % columns * 24
            np.testing.assert_array_equal(sheet[y : y + 16, x : x + 24], frame)


def test_small_pictures_are_shown_at_192_pixels_or_more(full):
    page, _ = _read(full[0])
    (image,) = [a for t, a in page.elements if t == "img"]
    assert int(image["width"]) >= 192 and int(image["height"]) >= 192
    assert int(image["width"]) % 30 == 0
    assert _picture(image["src"]).shape == (40, 30, 3)


def test_large_panels_are_made_lighter(tmp_path):
    video = np.full((3, 360, 640, 3), 90, np.uint8)
    path = report.write_report(
        tmp_path / "r.html", {}, [{"title": "a", "panels": {"x": video}, "fps": 8}], {}, ""
    )
    page, _ = _read(path)
    (canvas,) = [a for t, a in page.elements if t == "canvas"]
    assert (canvas["width"], canvas["height"]) == ("320", "180")
    assert "class" not in canvas


def test_results_with_gaps_still_make_a_page(tmp_path):
    entry = {"psnr": {"mean": 20.0, "stderr": None}, "easy": {"clips": 0}}
    built = results.build(
        world="toy",
        worlds={"toy": {"clips": 1, "revisit": {"memory": entry, "odd_one": entry}}},
        seconds={},
        efficiency={},
        sampling_steps=1,
        seed=0,
    )
    _, text = _read(report.write_report(tmp_path / "r.html", built, [], {}, ""))
    assert "odd one" in text and "Efficiency" not in text
    _read(report.write_report(tmp_path / "empty.html", {}, [], {}, ""))


@pytest.mark.parametrize("lengths", [(), (3, 4), (0, 0)])
def test_panels_of_unequal_length_are_refused_and_the_old_page_kept(tmp_path, lengths):
    path = tmp_path / "report.html"
    path.write_text("old")
    panels = {f"p{i}": np.zeros((n, 8, 8, 3), np.uint8) for i, n in enumerate(lengths)}
    with pytest.raises(ValueError, match=r"video 'walk': found panels of .* equal lengths"):
        report.write_report(path, {}, [{"title": "walk", "panels": panels, "fps": 8}], {}, "")
    assert path.read_text() == "old"


def test_a_video_too_long_for_a_sheet_is_refused():
    with pytest.raises(ValueError, match="too many for one page"):
        report.frame_sheet(np.broadcast_to(np.zeros((), np.uint8), (100_000, 128, 128, 3)))
