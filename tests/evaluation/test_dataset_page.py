"""The page of a dataset: its clips can be judged from it, and nothing is fetched."""

import dataclasses
import html.parser
import json
import re
import sys

import numpy as np
import pytest
from absl.testing import flagsaver

from data_pipelines.card import read_card
from data_pipelines.filters import Filters
from data_pipelines.sources.procedural import ProceduralSource
from helpers.command_line import assert_refused
from helpers.recordings import quiet
from mirage_jax.cli import inspect
from mirage_jax.evaluation.dataset_page import dataset_page, pictures
from mirage_jax.evaluation.dataset_page.page import some_clips


class Worlds(ProceduralSource):
    """Of each three clips one stands still, one has no depth, one a name that is HTML."""

    def clips(self, world, count, seed):
        for index, clip in enumerate(super().clips(world, count, seed)):
            still = np.tile(clip.video[:1], (clip.frames, 1, 1, 1))
            changes = [
                {"video": still, "name": f"still {clip.name}"},
                {"depth": None, "mover_ids": None, "bodies": None, "caption": "no depth & masks"},
                {"name": f"<b>{clip.name}</b>"},
            ][index % 3]
            yield dataclasses.replace(clip, **changes)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rooms"
    source = Worlds(size=32, frames=12, fps=10.0, train_worlds=2, eval_worlds=1)
    quiet(source, path, count=6, shard_clips=3, filters=Filters(apply=False))
    quiet(source, path, "eval", count=1)
    return path


class Page(html.parser.HTMLParser):
    """Tags with what they fetch, and headings."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.titles, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] == "h3":
            self.titles.append(data)


def test_the_page_shows_its_clips_doubtful_ones_first_and_fetches_nothing(dataset):
    text = dataset_page(dataset, splits=("train",))
    page = Page(text)
    sections = [attrs["class"] for tag, attrs in page.tags if tag == "section"]
    assert len(sections) == 6 and [s.endswith("fails") for s in sections][:2] == [True, True]
    names = [clip.name for clip in some_clips(dataset, read_card(dataset)["splits"]["train"], 99)]
    assert set(names) <= set(page.titles)
    assert sum(name.startswith("still") for name in page.titles[-6:-4]) == 2
    assert "no depth &amp; masks" in text and "6 of 6 clips; 2 of them fail a filter" in text
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search('(src|href)=(?!"data:image/)', text) and "@import" not in text
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    # Frames and place of each, a warp check of those with depth that move.
    assert len(images) >= 2 * 6 + 2 and all(image["alt"] for image in images)


def test_its_numbers_are_those_of_the_card(dataset):
    text = dataset_page(dataset, clips=1, splits=("train",))
    entry = json.loads((dataset / "dataset.json").read_text())["splits"]["train"]
    assert entry["measures"]["blur"]["clips"] == 6
    row = text[text.index("<th>blur") :][:400]
    for key in ("least", "mean", "most"):
        assert f"{entry['measures']['blur'][key]:.3g}" in row
    assert "≤ 0.65" in row
    assert "1 of 6 clips" in text


def test_the_clips_shown_are_spread_over_all_shards(dataset):
    entry = read_card(dataset)["splits"]["train"]
    every = [clip.name for clip in some_clips(dataset, entry, 99)]
    assert len(every) == 6
    assert [clip.name for clip in some_clips(dataset, entry, 2)] == [every[0], every[-1]]
    assert [clip.name for clip in some_clips(dataset, entry, 3)] == [every[i] for i in (0, 2, 5)]


def test_a_warped_frame_stands_beside_what_it_should_look_like():
    source = ProceduralSource(size=32, frames=36, fps=10.0, ball=False)
    clip = next(source.clips("procedural/train-002", 1, seed=3))
    right, said = pictures.warp_check(clip)
    flipped = clip.cam2world * np.array([1, -1, -1, 1])  # OpenGL axes
    wrong, _ = pictures.warp_check(dataclasses.replace(clip, cam2world=flipped))

    def difference(picture):
        shown = picture[:, -picture.shape[1] // 4 :]
        known = np.abs(shown.astype(int) - [52, 56, 66]).max(-1) > 3
        return shown[known].mean()

    assert difference(right) < 0.6 * difference(wrong)
    moved, as_is = map(float, re.findall(r"([\d.]+) dB", said))
    assert moved > as_is + 6
    assert pictures.warp_check(dataclasses.replace(clip, depth=None)) is None


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs `mirage inspect ...`; returns (exit code, stdout, stderr)."""

    def run(_, *arguments):
        monkeypatch.setattr(sys, "argv", ["mirage inspect", *map(str, arguments)])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
            inspect.cli()
        out, err = capsys.readouterr()
        return leave.value.code or 0, out, err

    return run


def test_the_command_writes_the_page_and_refuses_what_is_no_dataset(call, dataset, tmp_path):
    page = tmp_path / "not there yet" / "page.html"
    code, out, err = call("inspect", dataset, "--clips", "1", page)
    assert code == 0 and page.name in out, err
    assert "<h2>train</h2>" in page.read_text() and "<h2>eval</h2>" in page.read_text()
    assert_refused(call("inspect", dataset, page, "--split=test"), "no split 'test'", "train, eval")
    assert_refused(call("inspect", tmp_path / "none"), "none: no such folder")
    assert_refused(call("inspect", tmp_path), "found no dataset.json")
    (tmp_path / "mine.html").write_text("mine")
    assert_refused(call("inspect", dataset, tmp_path / "mine.html"), "mine.html")
    assert_refused(call("inspect", dataset, tmp_path / "a.txt"), "'.txt', expected .html")
    assert_refused(call("inspect"), "expected DATASET")
    assert_refused(call("inspect", dataset, page, "--clips"), "--clips")
