"""The explorer's server in a thread of the test, with rooms that are drawn (`drawn_session`)."""

import asyncio
import contextlib
import threading
from urllib.parse import urlsplit

from helpers import drawn_session
from mirage_jax.explore.hub import Hub, HubOptions
from mirage_jax.explore.saved import SavedWorlds
from mirage_jax.explore.security import Access
from mirage_jax.explore.server import address, serving

TOKEN = "token-of-the-tests"


class Running:
    """A server that answers; `url` is the address of its page."""

    def __init__(self, hub, url, loop):
        self.hub, self.url, self._loop = hub, url, loop
        self.host = urlsplit(url).netloc
        self.port = urlsplit(url).port

    @property
    def socket(self):
        return f"ws://{self.host}/socket?token={TOKEN}"

    def call(self, coroutine):
        """What a coroutine gives that runs beside the server."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)


@contextlib.contextmanager
def running(folder, options=HubOptions(), make=None, port=0):
    """Serves until the block ends.

    Args:
      folder: of saved worlds.
      options: limits.
      make: of `Hub.prepare`; by default drawn rooms.
      port: by default any that is free.
    """
    started, found = threading.Event(), {}

    async def main():
        hub = Hub(SavedWorlds(folder), options)
        access, end = Access(TOKEN), asyncio.Event()
        made = make or (lambda progress: drawn_session.Starts())
        async with serving(hub, access, port, made) as (server, preparing):
            found["loop"], found["end"] = asyncio.get_running_loop(), end
            found["server"] = Running(hub, address(server, access), found["loop"])
            started.set()
            await end.wait()
            await asyncio.gather(preparing, return_exceptions=True)

    def run():
        try:
            asyncio.run(main())
        except BaseException as error:
            found["error"] = error
            raise
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(60)
    try:
        yield found["server"]
    finally:
        if "loop" in found:
            found["loop"].call_soon_threadsafe(found["end"].set)
        thread.join(60)
        assert not thread.is_alive()
        assert "error" not in found, found["error"]
