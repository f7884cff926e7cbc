"""All walkers of one model: limits, turns with the model, and what becomes of idle ones.

The model has one worker thread: JAX is called there and nowhere else, so that the event loop always
answers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import UInt8

from mirage_jax.explore.film import MAX_BYTES
from mirage_jax.explore.pace import Pace
from mirage_jax.explore.places import Page, Place, Status
from mirage_jax.explore.saved import NoRoom, SavedWorlds
from mirage_jax.explore.starts import Embedded, Starts
from mirage_jax.explore.walker import Walker
from mirage_jax.geometry import Camera
from mirage_jax.settings import Settings, setting
from mirage_jax.world.prompting import Prompt
from mirage_jax.world.session import Session

T = TypeVar("T")
Progress = Callable[[str, float], None]


class Full(ValueError):
    """There is no room for another walker; the message says why."""


@dataclasses.dataclass(frozen=True)
class HubOptions(Settings):
    """How much the server does at a time."""

    walkers: int = setting(8, "Walkers, connected or not.", least=1, most=1000)
    memory_budget: int = setting(2**31, "Bytes of all walkers' worlds and pasts.", least=1)
    idle_seconds: float | int = setting(
        600.0, "Seconds after which a walker without a page is saved and let go.", above=0
    )
    film_bytes: int = setting(
        MAX_BYTES, "Bytes of the pictures of one walk, for its film; the oldest go first.", least=1
    )
    exports: int = setting(4, "Files for pages being written or waiting.", least=1, most=100)
    downloads: int = setting(
        8, "Written files kept for pages to fetch; the oldest go first.", least=1, most=1000
    )
    download_bytes: int = setting(
        512 * 10**6, "Bytes of these files; one that takes more is refused.", least=1
    )


class Hub:
    """The walkers of a model.

    Attributes:
      saved: worlds on the disk.
      options: limits.
      status: of the model.
      starts: what one can begin from; None until the model is ready.
      places: by secret.
      pages: all connections, those that wait too.
    """

    def __init__(
        self,
        saved: SavedWorlds,
        options: HubOptions = HubOptions(),
        mesh: jax.sharding.Mesh | None = None,
    ) -> None:
        """No walkers yet.

        Args:
          saved: worlds on the disk.
          options: limits.
          mesh: devices that the model runs on, see `on_mesh`; None: on the first.
        """
        self.saved = saved
        self.options = options
        self.status = Status()
        self.starts: Starts | None = None
        self.places: dict[str, Place] = {}
        self.pages: set[Page] = set()
        self._released: dict[str, str] = {}
        self._numbers = 0
        self._opening = 0
        self._exporting = 0
        # A mesh is in force in the thread alone that sets it.
        prepare = (jax.set_mesh, (mesh,)) if mesh is not None else (None, ())
        self._worker = ThreadPoolExecutor(1, "model", *prepare)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="texts")

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` gives, in the model's thread, after what waits there already."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, work, *arguments)

    async def written(self, write: Callable[[], bytes]) -> bytes:
        """A file, written beside the model's thread, so that nobody waits who walks.

        Raises:
          ValueError: if too many wait already, or it is too large.
        """
        limit, largest = self.options.exports, self.options.download_bytes
        if self._exporting >= limit:
            raise ValueError(
                f"export: found {limit} files being written, expected fewer: wait a little"
            )
        self._exporting += 1
        try:
            data = await asyncio.get_running_loop().run_in_executor(self._writer, write)
        finally:
            self._exporting -= 1
        if len(data) > largest:
            raise ValueError(
                f"export: found {len(data) / 1e6:,.0f} MB, expected at most {largest / 1e6:,.0f} MB"
            )
        return data

    async def embedded(self, prompt: Prompt) -> Embedded:
        """A prompt as the model takes it, made beside the model's thread, so that nobody waits who
        walks; ValueError if it cannot be."""
        prompts = self.ready().prompts
        if prompts is None:
            raise ValueError("prompt: found one, expected none, as this model takes no text")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, prompts.embedded, prompt)

    def close(self) -> None:
        """Ends the threads once they have nothing to do."""
        self._worker.shutdown()
        self._writer.shutdown()
        self._reader.shutdown(cancel_futures=True)

    # -- the model -------------------------------------------------------------------------------

    async def prepare(self, make: Callable[[Progress], Starts]) -> None:
        """Reads and compiles the model, telling all pages how far that is.

        Args:
          make: gives what one can begin from, compiled, and reports progress in [0, 1].

        Raises:
          Exception: what `make` raises, after the pages were told.
        """
        loop = asyncio.get_running_loop()

        def report(text: str, share: float) -> None:
            status = Status("compiling", text, share)
            loop.call_soon_threadsafe(self._set_status, status)

        try:
            self.starts = await self.run(make, report)
        except Exception as error:
            self._set_status(Status("failed", f"the model cannot be used: {error}", 0.0))
            raise
        self._set_status(Status("ready", "", 1.0))

    def _set_status(self, status: Status) -> None:
        self.status = status
        for page in self.pages:
            page.status_changed()

    def ready(self) -> Starts:
        """What one can begin from; ValueError while the model is not ready."""
        if self.starts is None:
            raise ValueError("model: found none yet, expected one that is ready")
        return self.starts

    # -- walkers ---------------------------------------------------------------------------------

    async def resume(self, secret: str, page: Page) -> Place | None:
        """The walker of a page that comes back, None if nothing is known of it."""
        place = self.places.get(secret)
        if place is None and secret in self._released:
            place = await self.load(self._released[secret], page, secret)
            self._released.pop(secret, None)
            return place
        if place is not None:
            if place.page is not None:
                place.page.dismiss("this walk goes on in another tab")
            place.page = page
            self.tell_lists()
        return place

    async def begin(self, number: int, page: Page) -> Place:
        """A walker at one of the starts; Full or ValueError if that cannot be."""
        return await self._open(lambda: self.ready().begin(number), page)

    async def begin_from(
        self, picture: UInt8[np.ndarray, "h w 3"], camera: Camera, page: Page
    ) -> Place:
        """A walker in a world that begins with a picture; Full if that cannot be."""
        return await self._open(lambda: self.ready().begin_from(picture, camera), page)

    async def load(self, world: str, page: Page, secret: str = "") -> Place:
        """A walker in a saved world; Full or ValueError if that cannot be."""
        path = self.saved.path_of(world)
        return await self._open(lambda: self.ready().load(path), page, secret, kept=True)

    async def join(self, number: int, share: bool, page: Page) -> Place:
        """A walker where another one is, in the same memory or a copy.

        Raises:
          Full, ValueError: if there is no room, or no such walker.
        """
        other = next((p for p in self.places.values() if p.walker.number == number), None)
        if other is None:
            raise ValueError(f"walker: found {number}, expected the number of one who is here")
        session = other.walker.session
        make = session.share if share else session.branch
        return await self._open(make, page, group=other.group if share else None)

    async def leave(self, place: Place) -> None:
        """Lets a walker go on in a copy of the memory that it shares with others."""
        await self.run(place.walker.session.leave)
        self._numbers += 1
        place.group = self._numbers
        self.tell_lists()

    async def _open(
        self,
        make: Callable[[], Session],
        page: Page,
        secret: str = "",
        group: int | None = None,
        kept: bool = False,
    ) -> Place:
        """A new walker for a page, in place of the one that it had, in a world that was `kept` or
        is new."""
        mine = next((p for p in self.places.values() if p.page is page), None)
        await self._make_room(mine)
        self._numbers += 1
        number = self._numbers
        self._opening += 1
        try:
            walker = await self.run(lambda: self._walker(number, make()))
            if kept:
                await self._tell_again(walker)
        finally:
            self._opening -= 1
        place = Place(
            walker,
            secret or secrets.token_urlsafe(24),
            number if group is None else group,
            page,
        )
        if mine is not None:
            await self.release(mine)
        self.places[place.secret] = place
        self.tell_lists()
        return place

    def _walker(self, number: int, session: Session) -> Walker:
        ready = self.ready()
        pace = Pace(float(session.options.fps), fixed=not ready.adapts)
        limit = self.options.film_bytes
        return Walker(number, session, ready.denoise_steps, limit, pace, ready.kinds)

    async def _tell_again(self, walker: Walker) -> None:
        """Has the model follow the prompt that a saved world was made with, if it can."""
        prompts, kept = self.ready().prompts, walker.prompt
        if prompts is None or kept == prompts.first:
            return
        try:
            told = await self.embedded(kept)
        except (ValueError, OSError) as error:
            walker.note = f"The prompt of this world, {kept.text!r}, cannot be followed: {error}"
            walker.session.prompt = prompts.first
        else:
            await self.run(walker.set_prompt, told)
            walker.saved = walker.changes

    async def _make_room(self, mine: Place | None) -> None:
        """Lets walkers go whose page is gone, the longest first, until there is room; else Full."""
        while why := self._no_room(mine):
            away = [p for p in self.places.values() if p.page is None]
            if not away:
                raise Full(why)
            try:
                await self.release(min(away, key=lambda place: place.left))
            except NoRoom as error:
                raise Full(f"{why}, and none can be saved: {error}") from error

    def _no_room(self, mine: Place | None) -> str:
        """Why there is no room for another walker in place of `mine`, "" if there is."""
        others = [p for p in self.places.values() if p is not mine]
        limit, budget = self.options.walkers, self.options.memory_budget
        if len(others) + self._opening >= limit:
            return f"{limit} walkers are here already, which are all that there is room for"
        held = sum(p.walker.bytes for p in others)
        largest = max((p.walker.bytes for p in self.places.values()), default=0)
        if held + largest > budget:
            return (
                f"the other walkers hold {held / 1e6:.0f} MB of a budget of {budget / 1e6:.0f} MB"
            )
        return ""

    def left(self, page: Page) -> None:
        """A page is gone; its walker waits for it."""
        self.pages.discard(page)
        for place in self.places.values():
            if place.page is page:
                place.page, place.left = None, time.monotonic()

    async def save(self, place: Place, last: bool = False) -> str:
        """Saves a walker's world, beyond the limits if it is the `last` time; gives its id.

        Raises:
          NoRoom, OSError: if that cannot be.
        """
        walker = place.walker
        world = await self.run(lambda: self.saved.write(walker.save, walker.thumbnail(), last=last))
        self.tell_lists()
        return world

    async def release(self, place: Place, last: bool = False) -> None:
        """Lets a walker go, after saving what was done since it last was, unless another page takes
        it up meanwhile; arguments and errors as of `save`."""
        page = place.page
        if place.walker.changes > place.walker.saved:
            world = await self.save(place, last)
            if place.page is not None and place.page is not page:
                return
            self._released[place.secret] = world
            while len(self._released) > 1000:
                del self._released[next(iter(self._released))]
        self.places.pop(place.secret, None)
        self.tell_lists()

    async def release_idle(self) -> None:
        """Saves and lets go of those whose page has been gone for long."""
        since = time.monotonic() - self.options.idle_seconds
        await self._release_each(lambda place: place.page is None and place.left < since)

    async def release_all(self) -> None:
        """Saves and lets go of all."""
        await self._release_each(lambda place: True, last=True)

    async def _release_each(self, goes: Callable[[Place], bool], last: bool = False) -> None:
        """Lets go of every walker that can be saved; raises the last error of the others."""
        failed: Exception | None = None
        for place in list(self.places.values()):
            if goes(place):
                try:
                    await self.release(place, last)
                except (OSError, NoRoom) as error:
                    failed = error
        if failed is not None:
            raise failed

    # -- telling pages ---------------------------------------------------------------------------

    def tell_lists(self) -> None:
        """Every page shows who is here, and what is saved."""
        for page in self.pages:
            page.lists_changed()

    def tell_memory(self, place: Place) -> None:
        """The pages of those who share a memory show what it holds now."""
        for other in self.places.values():
            if other is not place and other.group == place.group and other.page is not None:
                other.page.memory_changed()
