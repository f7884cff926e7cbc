"""Worlds in whose clips bodies walk, and who is trained on them."""

import pytest

from helpers import paths
from mirage_jax.cli.helpers import world_names
from mirage_jax.cli.helpers.common import UserError, load_config
from mirage_jax.io.workdir import Workdir


@pytest.fixture
def workdir(tmp_path):
    found = Workdir(tmp_path)
    for world in ("labmaze", "labmaze_bodies"):
        found.worlds(world).mkdir(parents=True)
        (found.worlds(world) / "dataset.json").write_text("{}")
    return found


def test_names():
    assert world_names.has_bodies("labmaze_bodies") and not world_names.has_bodies("labmaze")
    assert world_names.source_name("labmaze_bodies") == "labmaze"
    assert world_names.source_name("freedoom") == "freedoom"


def test_places_are_worlds_without_bodies_or_all_there_are():
    assert world_names.of_places(("a", "a_bodies", "b")) == ("a", "b")
    assert world_names.of_places(("a_bodies", "b_bodies")) == ("a_bodies", "b_bodies")


@pytest.mark.parametrize("stage", ["encoder", "geometry", "denoiser", "distill", "tiny_decoder"])
def test_bodies_teach_the_head_alone_where_nothing_is_trained_to_keep_them(workdir, stage):
    config = load_config(str(paths.EXPERIMENTS / "quickstart.py"))
    config.worlds = ("freedoom", "labmaze", "labmaze_bodies")  # the first was not recorded
    both = ("labmaze", "labmaze_bodies")
    expected = both if stage == "geometry" else ("labmaze",)
    assert world_names.to_train(config, workdir, stage) == expected
    config.memory.movers = True
    assert world_names.to_train(config, workdir, stage) == both


def test_bodies_are_drawn_as_often_as_told():
    counts = {"a": 300.0, "b": 100.0, "a_bodies": 10.0, "b_bodies": 30.0}
    drawn = world_names.sharing(counts, 0.4)
    assert sum(drawn.values()) == pytest.approx(1.0)
    assert drawn == pytest.approx({"a": 0.45, "b": 0.15, "a_bodies": 0.1, "b_bodies": 0.3})
    assert world_names.sharing(counts, 0.0) == counts
    alone = {"a_bodies": 10.0, "b_bodies": 30.0}
    assert world_names.sharing(alone, 0.4) == alone


def test_worlds_with_bodies_have_the_prompt_of_their_source():
    config = load_config(str(paths.EXPERIMENTS / "wan22_5b_memory.py"))
    config.worlds = ("labmaze", "labmaze_bodies", "miniworld_bodies")
    of_mazes, of_rooms = config.text.prompts["labmaze"], config.text.prompts["miniworld"]
    told = {"labmaze": of_mazes, "labmaze_bodies": of_mazes, "miniworld_bodies": of_rooms}
    assert world_names.prompts(config) == told
    config.text.prompts.miniworld_bodies = "Somebody walks through rooms."
    assert world_names.prompts(config)["miniworld_bodies"] == "Somebody walks through rooms."
    config.worlds = ("moonbase_bodies",)
    with pytest.raises(UserError, match=r"text\.prompts: found none for 'moonbase_bodies'"):
        world_names.prompts(config)
