"""Real returns are looked for in the picture shape that is nearest to their scene."""

from helpers import command_line, made_footage, tiny_world
from helpers.made_footage import room
from mirage_jax.cli.helpers import real_returns


def test_scenes_are_scored_in_the_nearest_shape_and_the_farthest_of_all_are_chosen(tmp_path):
    made_footage.wide_and_tall(tmp_path, room(24))
    config = command_line.tiny_config("footage.py")
    model, sizes = tiny_world.world_model(), ((16, 24), (24, 16), (16, 16))

    def found(most):
        sources = real_returns._returns(config, str(tmp_path), model, sizes, most)
        scenes = [{one.scene.partition("/")[0] for one in s.returns} for s in sources]
        assert [s.footage.shape for s in sources] == list(sizes) and not scenes[2]
        assert scenes[0] <= {"wide"} and scenes[1] <= {"tall"}
        return [one for source in sources for one in source.returns]

    every = found(1000)
    assert {one.scene.partition("/")[0] for one in every} == {"wide", "tall"}
    [farthest] = found(1)
    assert farthest.away == max(one.away for one in every) and len(every) > 1
