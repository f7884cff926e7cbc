"""What visitors of bad will send to the server leaves it serving, and its memory flat."""

import contextlib
import json
import os
import random
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from helpers.exhaustive import LONG
from helpers.explorer import TOKEN, Client, running, visiting
from mirage_jax.explore import protocol, server
from mirage_jax.explore.connection import MAX_WAITING, MAX_WRONG
from mirage_jax.explore.hub import HubOptions

CONNECTIONS = 1000 if LONG else 100
MOST_GROWTH = 64 * 2**20
"""Bytes that the whole process, its clients included, may grow by."""


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    with running(tmp_path_factory.mktemp("worlds"), HubOptions(walkers=4)) as found:
        with visiting(found) as client:
            client.walk(2, forward=1)
        yield found


@pytest.fixture(autouse=True)
def still_serves(explorer):
    """After each test someone can walk, and nobody waits for a place."""
    yield
    with visiting(explorer) as client:
        client.walk(1, yaw=1)


def resident():
    """Bytes of this process in memory, where the system tells."""
    path = Path("/proc/self/statm")
    if not path.exists():
        return 0
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def raw(explorer, data, wait=0.0):
    """Sends bytes on a connection of their own; gives what came back until it is closed."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", explorer.port)) as s:
        s.sendall(data)
        time.sleep(wait)
        s.shutdown(socket.SHUT_WR)
        s.settimeout(5)
        return s.recv(65536)
    return b""


def handshake(explorer):
    """A socket that speaks WebSocket by hand from here on."""
    s = socket.create_connection(("127.0.0.1", explorer.port))
    s.sendall(
        f"GET /socket?token={TOKEN} HTTP/1.1\r\nHost: {explorer.host}\r\n"
        f"Origin: http://{explorer.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    assert s.recv(20).startswith(b"HTTP/1.1 101")
    return s


def test_random_bytes_in_place_of_a_request(explorer):
    draw = random.Random(0)
    for _ in range(200 if LONG else 20):
        answer = raw(explorer, draw.randbytes(draw.randrange(1, 3000)))
        assert b"200" not in answer[:15]
        assert b"101" not in answer[:15]


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n",
        b"GET http://localhost:[/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%s HTTP/1.1\r\nHost: [\r\n\r\n",
        f"GET /?{'a=1&' * 1000}token={TOKEN} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=range(10),
)  # fmt: skip
def test_broken_requests_get_no_page(explorer, request_):
    assert b" 200 " not in raw(explorer, request_)[:20]


def test_random_bytes_on_an_open_socket(explorer):
    draw = random.Random(1)
    for _ in range(100 if LONG else 10):
        # Whatever they are taken for, the line is closed once no more can come.
        with handshake(explorer) as s, contextlib.suppress(ConnectionError):
            s.settimeout(20)
            s.sendall(draw.randbytes(draw.randrange(1, 5000)))
            s.shutdown(socket.SHUT_WR)
            while s.recv(65536):
                pass


def test_half_a_message(explorer):
    masked = b"\x81" + bytes([0x80 | 126]) + struct.pack(">H", 1000) + b"mask" + b"half"
    for data in (masked, masked[:3], b"\x01\x85maskhello"):  # the last of several parts never comes
        with handshake(explorer) as s:
            s.sendall(data)


@pytest.mark.parametrize("opcode", [0x81, 0x82])
def test_a_huge_message_is_refused_by_its_length(explorer, opcode):
    before = resident()
    with handshake(explorer) as s:
        length = protocol.MAX_PICTURE + 1
        s.sendall(bytes([opcode, 0x80 | 127]) + struct.pack(">Q", length) + b"mask")
        s.settimeout(10)
        received = b""
        while b"\x88" not in received or struct.pack(">H", 1009) not in received:
            part = s.recv(65536)
            assert part, "closed without saying why"
            received += part
    assert resident() - before < MOST_GROWTH


def test_messages_that_are_none_close_the_connection_after_a_while(explorer):
    with visiting(explorer) as client, pytest.raises(ConnectionClosed) as closed:
        for number in range(10 * MAX_WRONG):
            client.socket.send(json.dumps({"type": "?", "n": number}))
            client.receive()
    assert closed.value.rcvd.code == 1008


def test_commands_do_not_pile_up(explorer):
    go_on = threading.Event()
    with visiting(explorer) as client:
        busy = explorer.hub._worker.submit(go_on.wait, 30)
        for _ in range(2 * MAX_WAITING):
            client.say("keyframe")
        assert "commands waiting" in client.error()
        go_on.set()
        assert busy.result(30)
        notes = 0
        with contextlib.suppress(TimeoutError):
            while True:
                message = client.socket.recv(timeout=0.5)
                notes += isinstance(message, str) and json.loads(message)["type"] == "note"
        assert 0 < notes <= MAX_WAITING + 1


def test_a_page_that_reads_nothing_gets_no_more_than_one_chunk(explorer):
    before = resident()
    with visiting(explorer) as client:
        walker = explorer.hub.places[client.hello["walker"]].walker
        frames = len(walker.session.path)
        for seq in range(1, 200):
            client.say("controls", seq=seq, yaw=1)
        time.sleep(0.5)
        assert len(walker.session.path) <= frames + 4
    assert resident() - before < MOST_GROWTH


def closed(s):
    """Whether the other end of a socket has closed it, without waiting."""
    s.setblocking(False)
    try:
        return not s.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def eventually(condition, seconds=20):
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.02)
    return condition()


def test_many_connections(explorer):
    """Those that say nothing, and those that come and go, take no room from others."""
    url, origin, before = explorer.socket, f"http://{explorer.host}", resident()
    silent = []
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(visiting(explorer))
        for _ in range(CONNECTIONS):
            address = ("127.0.0.1", explorer.port)
            silent.append(stack.enter_context(socket.create_connection(address, timeout=5)))
        # All are open here; the server holds as many as it takes, and turns the others away.
        refused = CONNECTIONS + 1 - server.MAX_CONNECTIONS
        assert eventually(lambda: sum(map(closed, silent)) >= refused)
        assert server._Counted.open <= server.MAX_CONNECTIONS
        client.walk(3, forward=1)  # who was here before walks on
        grown = resident() - before
        print(f"{CONNECTIONS} connections at once, {refused} refused, {grown / 1e6:.1f} MB more")
        assert grown < MOST_GROWTH
    for _ in range(CONNECTIONS // 4):
        with contextlib.suppress(OSError, WebSocketException), connect(url, origin=origin):
            pass
    assert eventually(lambda: not server._Counted.open)
    assert len(explorer.hub.places) <= 4
    assert eventually(lambda: not explorer.hub.pages)
    assert resident() - before < MOST_GROWTH


def test_who_drops_the_line_leaves_the_walker_to_come_back_to(explorer):
    client = Client(explorer)
    pose = client.walk(1, forward=1)[-1]["pose"]
    client.socket.socket.close()
    with visiting(explorer, client.hello["walker"]) as again:
        assert again.frame["pose"] == pose
