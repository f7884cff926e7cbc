import os

import pytest

from mirage_jax.explore.saved import NoRoom, SavedWorlds


def write(path):
    path.write_bytes(b"world")


def test_worlds_are_found_by_the_ids_they_got(tmp_path):
    saved = SavedWorlds(tmp_path / "new" / "folder")
    assert saved.newest() == []
    first = saved.write(write, b"picture")
    second = saved.write(write, b"")
    os.utime(saved.path_of(first), (1e9, 1e9))
    assert [world.id for world in saved.newest()] == [second, first]
    assert saved.newest()[1].picture == b"picture"
    assert saved.newest()[1].written == "2001-09-09T01:46:40+00:00"
    assert saved.path_of(first).read_bytes() == b"world"


@pytest.mark.parametrize(
    "world",
    ["", "..", "../secret", "0123456789abcdef/../secret", "/etc/passwd", "0123456789ABCDEF",
     "0123456789abcdef\n", "0123456789abcdef", "secret", "a" * 5000, "\0"],
)  # fmt: skip
def test_nothing_else_is_a_file(tmp_path, world):
    folder = tmp_path / "worlds"
    folder.mkdir()
    for name in ("secret.world", "worlds/secret.world", "worlds/notes.txt"):
        (tmp_path / name).write_bytes(b"secret")
    saved = SavedWorlds(folder)
    with pytest.raises(ValueError, match="expected one of the saved worlds"):
        saved.path_of(world)
    assert saved.newest() == []


def test_a_world_that_could_not_be_written_is_not_listed(tmp_path):
    saved = SavedWorlds(tmp_path)

    def fails(path):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        saved.write(fails, b"picture")
    assert saved.newest() == []


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"most": 2}, "found 2 saved worlds, expected fewer than 2"),
        ({"max_bytes": 8 * 10**5}, "found 1 MB of saved worlds, expected less than 1 MB"),
    ],
)
def test_no_more_worlds_than_there_is_room_for(tmp_path, limits, said):
    saved = SavedWorlds(tmp_path, **limits)
    for _ in range(2):
        saved.write(lambda path: path.write_bytes(bytes(500_000)), b"picture")
    with pytest.raises(NoRoom, match=said):
        saved.write(write, b"picture")
    assert len(saved.newest()) == 2
    assert saved.path_of(saved.write(write, b"picture", last=True)).read_bytes() == b"world"
    for world in saved.newest()[:2]:
        saved.path_of(world.id).unlink()
    saved.write(write, b"picture")
