"""What becomes of walkers that are let go while other things happen."""

import asyncio
import threading
from unittest.mock import Mock

import jax
import numpy as np
import pytest

from helpers import drawn_session
from mirage_jax import parallel
from mirage_jax.explore.hub import Full, Hub, HubOptions
from mirage_jax.explore.places import Page
from mirage_jax.explore.saved import NoRoom, SavedWorlds
from mirage_jax.explore.starts import Prompts
from mirage_jax.world.prompting import Prompt


def within(folder, act, **limits):
    """Runs `act(hub)` with a hub that is ready."""

    async def main():
        hub = Hub(SavedWorlds(folder, **limits), HubOptions(walkers=2))
        hub.starts = drawn_session.Starts()
        try:
            await act(hub)
        finally:
            hub.close()

    asyncio.run(main())


def test_a_page_that_comes_back_while_its_walk_is_saved_keeps_it(tmp_path):
    async def act(hub):
        place = await hub.begin(0, Mock(spec=Page))
        place.walker.changes += 1
        hub.left(place.page)
        go_on = threading.Event()
        hub._worker.submit(go_on.wait, 30)
        releasing = asyncio.create_task(hub.release(place))
        await asyncio.sleep(0)
        again = await hub.resume(place.secret, Mock(spec=Page))
        go_on.set()
        await releasing
        assert again is place
        assert hub.places == {place.secret: place}

    within(tmp_path, act)
    assert len(list(tmp_path.glob("*.world"))) == 1


def test_a_walk_that_cannot_be_saved_keeps_no_other_from_being_saved(tmp_path):
    async def act(hub):
        one, other = await hub.begin(0, Mock(spec=Page)), await hub.begin(0, Mock(spec=Page))
        for place in (one, other):
            place.walker.changes += 1
        one.walker.save = Mock(side_effect=OSError(28, "No space left on device"))
        with pytest.raises(OSError, match="No space left"):
            await hub.release_all()
        assert hub.places == {one.secret: one}

    within(tmp_path, act)
    assert len(list(tmp_path.glob("*.world"))) == 1


def test_without_room_for_another_world_no_walk_is_lost(tmp_path):
    async def act(hub):
        places = [await hub.begin(0, Mock(spec=Page)) for _ in range(2)]
        for place in places:
            place.walker.changes += 1
        await hub.save(places[0])
        places[0].walker.changes += 1
        hub.left(places[0].page)
        places[0].left -= 1e4
        with pytest.raises(NoRoom, match="found 1 saved worlds"):
            await hub.release_idle()
        with pytest.raises(Full, match=r"2 walkers are here already.*none can be saved"):
            await hub.begin(0, Mock(spec=Page))
        with pytest.raises(NoRoom):  # a page that would begin anew
            await hub.begin(0, places[1].page)
        assert [*hub.places.values()] == places
        await hub.release_all()
        assert not hub.places

    within(tmp_path, act, most=1)
    assert len(list(tmp_path.glob("*.world"))) == 3


def test_a_saved_world_is_followed_as_its_prompt_says(tmp_path):
    def embed(text):
        if text == "a cave":
            raise ValueError("found none like it among 2")
        return np.full((2, 3), float(len(text)))

    async def act(hub):
        hub.starts = drawn_session.Starts(prompts=Prompts(embed, "a hall", "ugly"))
        for told, followed in (
            (Prompt("a garden", "grey", 3.0), (8, 4, 3.0)),
            (Prompt("a cave"), None),  # which cannot be embedded
            (Prompt("a hall", "ugly"), None),  # the model follows it as it is
        ):
            hub.starts.load = lambda path, told=told: drawn_session.Session(prompt=told)
            world = hub.saved.write(lambda path: path.write_bytes(b""), b"")
            place = await hub.load(world, Mock(spec=Page))
            walker = place.walker
            told_so = getattr(walker.session, "told", None)
            assert jax.tree.map(np.mean, told_so) == followed
            assert walker.prompt == (told if followed else Prompt("a hall", "ugly"))
            assert ("a cave" in walker.note) == (told.text == "a cave")
            assert walker.saved == walker.changes
            await hub.release(place)

    within(tmp_path, act)


def test_the_thread_of_the_model_and_no_other_is_on_the_mesh(tmp_path):
    mesh = parallel.make_mesh(devices=jax.devices()[:1])

    async def main():
        hub = Hub(SavedWorlds(tmp_path), mesh=mesh)
        try:
            for _ in range(2):
                assert await hub.run(jax.sharding.get_mesh) == mesh
            assert jax.sharding.get_abstract_mesh().empty
        finally:
            hub.close()

    asyncio.run(main())
