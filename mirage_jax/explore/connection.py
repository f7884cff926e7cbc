"""One connection of a page: reads what it says, and gives its walker turns.

Of the controls the newest alone count, and the next chunk is made when the page is ready for it:
no queue of pictures can build up anywhere, however slow either side is.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from mirage_jax.explore import protocol
from mirage_jax.explore.downloads import Downloads
from mirage_jax.explore.exports import NAMES
from mirage_jax.explore.hub import Full, Hub
from mirage_jax.explore.pictures import picture_of_visitor
from mirage_jax.explore.places import Place
from mirage_jax.explore.starts import Embedded
from mirage_jax.explore.walker import data_uri

MAX_WAITING = 8
"""Commands that may wait for their turn."""

MAX_WRONG = 20
"""Messages that were refused, after which a connection is closed."""

VIEW_SECONDS = 0.5
"""Between two pictures of the memory."""

CLOSE_REFUSED, CLOSE_FULL, CLOSE_FAULT, CLOSE_ELSEWHERE = 1008, 1013, 1011, 4001
_OUT_OF_MEMORY = "Out of memory; nothing was changed. Close other tabs, or use a smaller model."
_LOG = logging.getLogger(__name__)


class Connection:
    """A page that is connected; the hub's `Page`."""

    def __init__(self, socket: ServerConnection, hub: Hub, downloads: Downloads) -> None:
        self._socket, self._hub, self._downloads = socket, hub, downloads
        self._place: Place | None = None
        self._held = protocol.Controls()
        self._due: protocol.Controls | None = None
        self._held_at = time.perf_counter()
        self._frame = 0
        self._ready = True
        self._commands: asyncio.Queue[Any] = asyncio.Queue(MAX_WAITING)
        self._wake = asyncio.Event()
        self._status_stale = self._lists_stale = self._view_stale = True
        self._view_at = 0.0
        self._dismissed = ""
        self._exporting: asyncio.Task[None] | None = None
        self._embedding: asyncio.Task[None] | None = None

    async def serve(self, secret: str) -> None:
        """Speaks with the page until it goes.

        Args:
          secret: of the walker that it had; "" without.
        """
        self._hub.pages.add(self)
        reading = asyncio.ensure_future(self._read())
        acting = asyncio.ensure_future(self._act(secret))
        try:
            done, _ = await asyncio.wait((reading, acting), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        except ConnectionClosed:
            pass
        except Full as error:
            await self._socket.close(CLOSE_FULL, str(error)[:120])
        except Exception:
            _LOG.exception("a connection failed")
            await self._socket.close(CLOSE_FAULT, "the server made an error; see its output")
        finally:
            self._hub.left(self)
            beside = (self._exporting, self._embedding)
            tasks = [reading, acting, *(task for task in beside if task is not None)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- of the hub ------------------------------------------------------------------------------

    def status_changed(self) -> None:
        self._status_stale = True
        self._wake.set()

    def lists_changed(self) -> None:
        self._lists_stale = True
        self._wake.set()

    def memory_changed(self) -> None:
        self._view_stale = True
        self._wake.set()

    def dismiss(self, why: str) -> None:
        self._dismissed = why
        self._wake.set()

    # -- what the page says ----------------------------------------------------------------------

    async def _read(self) -> None:
        wrong = 0
        async for message in self._socket:
            try:
                self._take(message if isinstance(message, bytes) else protocol.parse(message))
            except ValueError as error:
                wrong += 1
                await self._send("error", text=str(error)[:300])
                if wrong >= MAX_WRONG:
                    await self._socket.close(CLOSE_REFUSED, "too many messages that were refused")
                    return
            self._wake.set()

    def _take(self, message: Any) -> None:
        if isinstance(message, protocol.Controls):
            if message.seq >= self._held.seq:
                self._held, self._held_at = message, time.perf_counter()
                if message.moves:
                    self._due = message  # however soon it is let go
        elif isinstance(message, protocol.Ready):
            if message.frame == self._frame and not self._ready:
                self._ready = True
                if self._place is not None and message.send:
                    self._place.walker.shown(message.send, message.draw)
        elif self._commands.full():
            raise ValueError(f"found {MAX_WAITING} commands waiting, expected fewer: wait a little")
        else:
            self._commands.put_nowait(message)

    # -- what is done for it ---------------------------------------------------------------------

    async def _act(self, secret: str) -> None:
        while self._hub.status.state != "ready":
            await self._tell_status()
            await self._woken(None)
        await self._tell_status()
        await self._arrive(await self._resumed(secret) or await self._hub.begin(0, self))
        while True:
            if self._dismissed:
                await self._socket.close(CLOSE_ELSEWHERE, self._dismissed[:120])
                return
            if not self._commands.empty():
                await self._guarded(self._command(self._commands.get_nowait()))
            elif self._may_step:
                await self._guarded(self._step())
            elif self._lists_stale:
                await self._tell_lists()
            await self._guarded(self._show_memory())
            if not (self._commands.qsize() or self._may_step):
                due = max(0.0, self._view_at + VIEW_SECONDS - time.monotonic())
                await self._woken(due if self._view_stale else None)

    async def _resumed(self, secret: str) -> Place | None:
        try:
            return await self._hub.resume(secret, self)
        except (ValueError, OSError):  # of a saved world that is gone, or there is no room
            return None

    async def _woken(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    async def _guarded(self, work: Any) -> None:
        """Does something for the page; what goes wrong with it is said there, and nothing is held
        any more, or it would go wrong again."""
        try:
            await work
            return
        except ValueError as error:
            text = str(error)
        except OSError as error:  # its file is no news for the page
            text = error.strerror or "the disk failed"
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            text = _OUT_OF_MEMORY
        self._held, self._due = protocol.Controls(self._held.seq), None
        await self._send("error", text=text[:300])

    @property
    def _may_step(self) -> bool:
        return self._ready and (self._due is not None or self._held.moves)

    async def _step(self) -> None:
        place, held = self._here(), self._due or self._held
        self._due = None
        self._frame += 1
        waited, self._held_at = time.perf_counter() - self._held_at, math.inf
        # Only the first chunk of what is held answers to something new.
        message = await self._hub.run(place.walker.step, held, max(0.0, waited), self._frame)
        await self._show(message)
        self._hub.tell_memory(place)

    async def _show(self, message: bytes) -> None:
        self._ready, self._view_stale = False, True
        await self._socket.send(message)

    async def _show_memory(self) -> None:
        if self._view_stale and time.monotonic() - self._view_at >= VIEW_SECONDS:
            self._view_stale = False
            await self._socket.send(await self._hub.run(self._here().walker.view))
            self._view_at = time.monotonic()

    async def _command(self, message: Any) -> None:
        hub, place = self._hub, self._here()
        walker = place.walker
        match message:
            case bytes():
                starts = hub.ready()
                size, fov = starts.model.size, starts.fov
                picture = await asyncio.to_thread(picture_of_visitor, message, size, fov)
                await self._arrive(await hub.begin_from(*picture, self))
                return
            case protocol.Start():
                await self._arrive(await hub.begin(message.picture, self))
                return
            case protocol.Load():
                await self._arrive(await hub.load(message.world, self))
                return
            case protocol.Join():
                await self._arrive(await hub.join(message.walker, message.share, self))
                return
            case protocol.Save():
                await self._send("saved", world=await hub.save(place))
                return
            case protocol.Export():
                if self._exporting is not None and not self._exporting.done():
                    raise ValueError("export: found a file being written, expected none: wait")
                dropped = walker.film.dropped if message.kind == "mp4" else 0
                write = await hub.run(walker.export, message.kind)
                export = self._export(NAMES[message.kind], write, dropped)
                self._exporting = asyncio.create_task(export)
                return
            case protocol.Leave():
                await hub.leave(place)
            case protocol.Plan():
                walker.layer = message.layer
                self._view_at = 0.0
            case protocol.Undo():
                await hub.run(walker.undo, message.steps)
            case protocol.Redo():
                await hub.run(walker.redo, message.steps)
            case protocol.Mark():
                await hub.run(walker.mark)
                self._lists_stale = True
            case protocol.Go():
                await hub.run(walker.go, message.branch)
            case protocol.Memory():
                if message.kind and message.kind != walker.kind:
                    while await hub.run(walker.follow, message.kind):  # the others have turns
                        pass
                await hub.run(walker.set_memory, message.on, message.kind)
            case protocol.Prompt():
                if self._embedding is not None:
                    self._embedding.cancel()  # the newest counts
                self._embedding = asyncio.create_task(self._embed(message, place))
                return
            case Embedded():
                await hub.run(walker.set_prompt, message)
            case protocol.Keyframe():
                kept = await hub.run(walker.keyframe)
                await self._send("note", text=f"{kept:,} elements that are seen here are pinned.")
            case protocol.Edit():
                done = await hub.run(walker.edit, message)
                await self._send("note", text=f"{message.operation}: {done}")
                hub.tell_memory(place)
        self._frame += 1
        await self._show(await hub.run(walker.still, self._frame))

    async def _embed(self, wanted: protocol.Prompt, place: Place) -> None:
        """Has a prompt made into tokens while the page walks on, and then followed."""
        with contextlib.suppress(ConnectionClosed):
            prompt = dataclasses.replace(
                place.walker.prompt, text=wanted.text, guidance=wanted.guidance
            )
            try:
                told = await self._hub.embedded(prompt)
            except (ValueError, OSError, MemoryError) as error:
                await self._send("error", text=(str(error) or "out of memory")[:300])
                return
            except Exception:
                _LOG.exception("a prompt could not be embedded")
                text = "the prompt cannot be embedded; see the server's output"
                await self._send("error", text=text)
                return
            if self._place is place:  # and not somewhere else by now
                await self._commands.put(told)
                self._wake.set()

    async def _export(self, name: str, write: Callable[[], bytes], dropped: int) -> None:
        """Writes a file while the page walks on."""
        with contextlib.suppress(ConnectionClosed):
            try:
                data = await self._hub.written(write)
            except (ValueError, OSError, MemoryError) as error:
                text = error.strerror if isinstance(error, OSError) else str(error)
                await self._send("error", text=(text or "the file cannot be written")[:300])
                return
            except Exception:
                _LOG.exception("a file could not be written")
                await self._send("error", text=f"{name} cannot be written; see the server's output")
                return
            key = self._downloads.add(name, data)
            await self._send("download", id=key, name=name, bytes=len(data))
            if dropped:
                text = f"The film begins later than the walk: {dropped:,} pictures had no room."
                await self._send("note", text=text)

    async def _arrive(self, place: Place) -> None:
        """Shows the page where it is now."""
        self._place = place
        starts = self._hub.ready()
        options = starts.options
        await self._send(
            "hello",
            walker=place.secret,
            number=place.walker.number,
            size=list(starts.model.size),
            **place.walker.pacing(),
            adapts=starts.adapts,
            denoise_steps=[round(1e3 * seconds, 2) for seconds in starts.denoise_steps],
            frames=options.chunk_frames - 1,
            starts=[start.name for start in starts.starts],
            layers=list(protocol.LAYERS),
            kinds=list(starts.kinds),
            max_picture=protocol.MAX_PICTURE,
            prompts=None if starts.prompts is None else list(starts.prompts.known),
        )
        self._frame += 1
        self._view_at = 0.0
        await self._show(await self._hub.run(place.walker.still, self._frame))
        if place.walker.note:
            await self._send("note", text=place.walker.note[:300])
            place.walker.note = ""
        await self._tell_lists()

    async def _tell_status(self) -> None:
        if self._status_stale:
            self._status_stale = False
            status = self._hub.status
            await self._send("status", state=status.state, text=status.text, share=status.share)

    async def _tell_lists(self) -> None:
        self._lists_stale = False
        here = self._here()
        worlds = await asyncio.to_thread(self._hub.saved.newest)
        await self._send(
            "lists",
            branches=here.walker.branch_list(),
            walkers=[
                {
                    "number": place.walker.number,
                    "here": place is here,
                    "together": place.group == here.group,
                    "connected": place.page is not None,
                }
                for place in self._hub.places.values()
            ],
            worlds=[
                {"id": world.id, "written": world.written, "picture": data_uri(world.picture)}
                for world in worlds
            ],
        )

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._socket.send(protocol.text_message(kind, fields))

    def _here(self) -> Place:
        if self._place is None:
            raise ValueError("walker: found none yet, expected one that has begun")
        return self._place
