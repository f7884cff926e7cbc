"""The server: the page, its parts, downloads and the WebSocket, all on one port."""

from __future__ import annotations

import asyncio
import contextlib
import http
import importlib.resources
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from mirage_jax.explore.connection import Connection
from mirage_jax.explore.downloads import Downloads
from mirage_jax.explore.hub import Hub, Progress
from mirage_jax.explore.protocol import MAX_PICTURE
from mirage_jax.explore.saved import NoRoom
from mirage_jax.explore.security import Access
from mirage_jax.explore.starts import Starts

SCRIPTS = ("page", "controls", "plan", "screen")
PARTS = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in SCRIPTS},
}
"""Files of the page, by the path they are asked for."""

SOCKET, DOWNLOAD = "/socket", "/download/"
MAX_CONNECTIONS = 64
"""Connections at a time, those included that have not yet said what they want."""

SWEEP_SECONDS = 15.0
_QUIET = logging.getLogger("mirage_jax.explore.websockets")
_QUIET.setLevel(logging.CRITICAL)  # visitors that speak no HTTP are no news


class _Counted(ServerConnection):
    """A connection that is refused at once where this process has too many."""

    open = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        type(self).open += 1
        super().connection_made(transport)
        if type(self).open > MAX_CONNECTIONS:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        type(self).open -= 1
        super().connection_lost(exc)


class Explorer:
    """What answers requests: the page and its socket.

    Attributes:
      hub: of the walkers.
      access: who may speak.
      downloads: files that pages asked for.
    """

    def __init__(self, hub: Hub, access: Access) -> None:
        self.hub = hub
        self.access = access
        self.downloads = Downloads(hub.options.downloads, hub.options.download_bytes)
        folder = importlib.resources.files("mirage_jax.explore") / "page"
        self._parts = {
            path: ((folder / name).read_bytes(), kind) for path, (name, kind) in PARTS.items()
        }

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """The response to a request, None where the WebSocket is to be opened."""
        host, origin = _header(request, "Host"), _header(request, "Origin")
        path = urlsplit(request.path).path
        refusal = self.access.wrong_address(host, origin, page=path != SOCKET)
        if path == "/" or path not in PARTS:  # the page's parts are the same for all
            refusal = refusal or self.access.wrong_token(request.path)
        if refusal:
            return _response(http.HTTPStatus.FORBIDDEN, f"Refused. {refusal}\n".encode())
        if path == SOCKET:
            return None
        if path in self._parts:
            body, kind = self._parts[path]
            return _response(http.HTTPStatus.OK, body, kind, policy=_policy(str(host)))
        if path.startswith(DOWNLOAD):
            found = self.downloads.get(path.removeprefix(DOWNLOAD))
            if found is not None:
                name, data = found
                more = {"Content-Disposition": f'attachment; filename="{name}"'}
                return _response(http.HTTPStatus.OK, data, _kind(name), **more)
        return _response(http.HTTPStatus.NOT_FOUND, b"There is nothing here.\n")

    async def speak(self, socket: ServerConnection) -> None:
        """Serves one page."""
        request = socket.request
        query = parse_qs(urlsplit(request.path).query, max_num_fields=8) if request else {}
        walker = query.get("walker", [""])[0]
        await Connection(socket, self.hub, self.downloads).serve(walker[:64])


@contextlib.asynccontextmanager
async def serving(
    hub: Hub, access: Access, port: int, make: Callable[[Progress], Starts]
) -> AsyncIterator[tuple[Server, asyncio.Task[None]]]:
    """Listens, and prepares the model meanwhile; saves all walkers at the end.

    Args:
      hub: of the walkers.
      access: who may speak, and the address that is listened on.
      port: 0 for any that is free.
      make: gives the model, see `Hub.prepare`.

    Raises:
      OSError: if the port is taken.
    """
    explorer = Explorer(hub, access)
    server = await serve(
        explorer.speak,
        access.host,
        port,
        process_request=explorer.answer,
        create_connection=_Counted,
        max_size=MAX_PICTURE,
        max_queue=4,
        compression=None,  # pictures are compressed already
        open_timeout=10,
        close_timeout=2,
        server_header=None,
        logger=_QUIET,
    )
    preparing = asyncio.create_task(hub.prepare(make))
    sweeping = asyncio.create_task(_sweep(hub))
    try:
        yield server, preparing
    finally:
        sweeping.cancel()
        server.close()
        await server.wait_closed()
        await hub.release_all()
        await asyncio.gather(sweeping, preparing, return_exceptions=True)
        hub.close()


def address(server: Server, access: Access) -> str:
    """Where the page is, with the token."""
    name, port = server.sockets[0].getsockname()[:2]
    shown = f"[{name}]" if ":" in name else name
    return f"http://{shown}:{port}/?token={quote(access.token)}"


async def _sweep(hub: Hub) -> None:
    while True:
        await asyncio.sleep(min(SWEEP_SECONDS, hub.options.idle_seconds / 2))
        try:
            await hub.release_idle()
        except (OSError, NoRoom):
            logging.getLogger(__name__).exception("an idle walk could not be saved, and stays")


def _header(request: Request, name: str) -> str | None:
    """A header that stands once; two of them count as a wrong one."""
    found = request.headers.get_all(name)
    return (found[0] if len(found) == 1 else "\0") if found else None


def _kind(name: str) -> str:
    kinds = {".mp4": "video/mp4", ".json": "application/json"}
    return kinds.get(Path(name).suffix, "application/octet-stream")


def _policy(host: str) -> str:
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self'; "
        f"connect-src 'self' ws://{host} wss://{host}; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _response(
    status: http.HTTPStatus,
    body: bytes,
    kind: str = "text/plain; charset=utf-8",
    policy: str = "default-src 'none'",
    **more: Any,
) -> Response:
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-store",
            "Connection": "close",
            **more,
        }
    )
    return Response(status.value, status.phrase, headers, body)
