"""The explorer's server in a thread of the test, with rooms that are drawn (`drawn_session`)."""

import asyncio
import contextlib
import io
import json
import struct
import threading
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from websockets.sync.client import connect

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


class Client:
    """A page without a browser."""

    def __init__(self, server, walker=""):
        self.server = server
        origin = f"http://{server.host}"
        url = f"{server.socket}&walker={walker}"
        self.socket = connect(url, origin=origin, max_size=None, compression=None)
        self.wait("hello")
        self.frame = self.wait("frames")

    def say(self, message, **fields):
        self.socket.send(json.dumps({"type": message, **fields}))

    def receive(self):
        data = self.socket.recv(timeout=20)
        if isinstance(data, str):
            return json.loads(data)
        (length,) = struct.unpack_from("<I", data)
        message, start = json.loads(data[4 : 4 + length]), 4 + length
        message["pictures"] = []
        for size in message["sizes"]:
            with Image.open(io.BytesIO(data[start : start + size])) as image:
                message["pictures"].append(np.asarray(image.convert("RGB")))
            start += size
        assert start == len(data)
        return message

    def wait(self, kind, also=lambda message: True):
        """The next message of a kind; everything else is passed over, errors unless asked for."""
        while True:
            message = self.receive()
            if message["type"] == "frames":
                self.frame = message
                self.say("ready", frame=message["frame"])
            if message["type"] == "hello":
                self.hello = message
            if message["type"] == kind and also(message):
                return message
            assert message["type"] != "error", message

    def walk(self, chunks, **held):
        """Holds controls for so many chunks and lets go; the messages of those and what came."""
        seq = self.seq = getattr(self, "seq", 0) + 2
        self.say("controls", seq=seq, **held)
        found = [self.wait("frames", lambda m: m.get("seq") == seq) for _ in range(chunks)]
        self.say("controls", seq=seq + 1)
        self.say("plan")  # answered once the last chunk is made
        while "seq" in (message := self.wait("frames")):
            found.append(message)
        return found

    def error(self):
        """The text of the next message that something was refused."""
        while (message := self.receive())["type"] != "error":
            if message["type"] == "frames":
                self.say("ready", frame=message["frame"])
        return message["text"]

    def close(self):
        self.socket.close()


@contextlib.contextmanager
def visiting(server, walker=""):
    client = Client(server, walker)
    try:
        yield client
    finally:
        client.close()
