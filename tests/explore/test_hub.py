"""What becomes of walkers that are let go while other things happen."""

import asyncio
import threading
from unittest.mock import Mock

import pytest

from helpers import drawn_session
from mirage_jax.explore.hub import Hub, Page
from mirage_jax.explore.saved import SavedWorlds


def within(folder, act):
    """Runs `act(hub)` with a hub that is ready."""

    async def main():
        hub = Hub(SavedWorlds(folder))
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
