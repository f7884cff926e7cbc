"""The server from outside, through a client of HTTP and WebSockets; its rooms are drawn."""

import http.client
import io
import json
import re
import threading
import time

import av
import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from helpers import drawn_session
from helpers.drawn_session import SIZE, Session, drawn
from helpers.explorer import TOKEN, Client, running, visiting
from mirage_jax.explore.downloads import Downloads
from mirage_jax.explore.hub import HubOptions
from mirage_jax.explore.server import PARTS
from mirage_jax.explore.starts import Prompts


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("worlds"), HubOptions(walkers=4)) as found:
        yield found


def get(server, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", path, headers={"Host": server.host, **headers})
    response = connection.getresponse()
    return response.status, dict(response.getheaders()), response.read()


# -- the page --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PARTS)
def test_the_page_and_its_parts_are_served_and_may_load_nothing_else(server, path):
    status, headers, body = get(server, f"{path}?token={TOKEN}")
    assert status == 200
    assert len(body) == int(headers["Content-Length"]) > 100
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert not re.findall(rb"(?:https?:)?//(?!\s)[\w.]+\.\w+/", body), "found another host"


def test_the_page_names_the_parts_that_are_served(server):
    _, _, body = get(server, f"/?token={TOKEN}")
    named = set(re.findall(rb'(?:src|href)="([\w.]+)"', body))
    scripts = b"".join(get(server, path)[2] for path in PARTS if path.endswith(".js"))
    named |= set(re.findall(rb'from "\./([\w.]+)"', scripts))
    assert {f"/{name.decode()}" for name in named} == {*PARTS} - {"/"}


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 403),
        ("/?token=wrong", {}, 403),
        (f"/?token={TOKEN}", {"Host": "evil.example"}, 403),
        (f"/?token={TOKEN}", {"Origin": "http://evil.example"}, 403),
        ("/page.js", {"Host": "evil.example"}, 403),
        (f"/../setup.cfg?token={TOKEN}", {}, 404),
        (f"/page/index.html?token={TOKEN}", {}, 404),
        (f"/download/x?token={TOKEN}", {}, 404),
        ("/download/x", {}, 403),
        (f"/%2e%2e/%2e%2e/etc/passwd?token={TOKEN}", {}, 404),
    ],
)
def test_other_requests_are_refused(server, path, headers, status):
    assert get(server, path, **headers)[0] == status


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("ws://{host}/socket?token=wrong", "http://{host}"),
        ("ws://{host}/socket", "http://{host}"),
        ("ws://{host}/socket?token={token}", "http://evil.example"),
        ("ws://{host}/socket?token={token}", None),
    ],
)
def test_a_socket_is_for_the_page_with_the_token(server, url, origin):
    names = {"host": server.host, "token": TOKEN}
    with pytest.raises(InvalidStatus) as refused:
        connect(url.format(**names), origin=origin and origin.format(**names))
    assert refused.value.response.status_code == 403


# -- walking ---------------------------------------------------------------------------------------


def test_holding_a_key_walks_and_letting_go_stands(server):
    with visiting(server) as client:
        (start,) = client.frame["pictures"]
        assert np.abs(start.astype(int) - drawn(np.eye(4))[0]).mean() < 4
        walked = client.walk(3, forward=1)
        steps = [message["pose"][2][3] for message in walked]
        np.testing.assert_allclose(np.diff([0, *steps]), 0.5, atol=1e-6)
        assert [len(message["pictures"]) for message in walked] == [4] * len(walked)
        assert {*walked[0]["ledger"]} == {"input", "read", "denoise", "decode", "encode"}
        shown = client.frame["pictures"][-1]
        assert np.abs(shown.astype(int) - drawn(np.array(client.frame["pose"]))[0]).mean() < 4
        time.sleep(0.3)
        client.say("plan")
        assert client.wait("frames")["pose"] == walked[-1]["pose"]


def test_only_one_chunk_is_made_until_the_page_is_ready_for_the_next(server):
    with visiting(server) as client:
        client.say("controls", seq=1, yaw=1)
        while client.receive().get("seq") != 1:
            pass
        later = []
        with pytest.raises(TimeoutError):
            while True:
                later.append(client.socket.recv(timeout=0.5))
        assert not [data for data in later if isinstance(data, bytes) and b'"seq"' in data[:400]]


def test_a_key_that_is_let_go_at_once_walks_a_chunk(server):
    with visiting(server) as client:
        client.say("controls", seq=1, forward=1)
        client.say("controls", seq=2)
        assert client.wait("frames")["seq"] == 1
        client.say("plan")
        assert client.wait("frames")["pose"][2][3] == pytest.approx(0.5)


def test_controls_of_a_lower_number_come_too_late(server):
    with visiting(server) as client:
        client.say("controls", seq=10)
        client.say("controls", seq=9, forward=1)
        client.say("mark")
        client.wait("lists")
        client.say("plan")
        assert client.wait("view")["frames"] == 1


def test_undo_redo_and_branches(server):
    with visiting(server) as client:
        client.walk(2, forward=1)
        client.say("mark")
        client.wait("lists", lambda lists: [b["name"] for b in lists["branches"]] == ["branch 1"])
        there = client.walk(1, right=1)[-1]
        frames = client.wait("view")["frames"]
        client.say("undo")
        before = client.wait("frames")
        assert before["frames"] == frames - 4
        client.say("redo")
        after = client.wait("frames")
        assert after["pose"] == there["pose"]
        np.testing.assert_array_equal(after["pictures"][0], there["pictures"][-1])
        client.say("go", branch=0)
        np.testing.assert_allclose(np.array(client.wait("frames")["pose"])[0, 3], 0)


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("undo", {"steps": 1000}, "undo: found 1000 steps"),
        ("go", {"branch": 7}, "branch: found 7"),
        ("start", {"picture": 7}, "start"),
        ("load", {"world": "../../etc/passwd"}, "expected one of the saved worlds"),
        ("load", {"world": "0123456789abcdef"}, "expected one of the saved worlds"),
        ("join", {"walker": 10**6}, "walker: found 1000000"),
        ("shell", {}, "type: found 'shell'"),
    ],
)
def test_what_cannot_be_done_is_said(server, kind, fields, said):
    with visiting(server) as client:
        client.say(kind, **fields)
        assert said in client.error()
        client.walk(1, forward=1)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("chunk 3: the denoiser's latents are not all finite"), "not all finite"),
        (MemoryError(), "Out of memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), "Out of memory"),
        (OSError(28, "No space left on device", "/home/someone"), "No space left on device"),
    ],
)
def test_a_chunk_that_fails_is_said_once_and_the_walk_goes_on(server, monkeypatch, error, said):
    def fails(*arguments):
        raise error

    with visiting(server) as client:
        with monkeypatch.context() as patch:
            patch.setattr(Session, "step", fails)
            client.say("controls", seq=1, forward=1)
            text = client.error()
            assert said in text
            assert "/home" not in text
        client.seq = 10
        client.walk(1, forward=1)  # nothing of before is held, nor said again


def test_the_plan_shows_the_walk_and_takes_edits(server):
    with visiting(server) as client:
        client.walk(2, forward=1)
        client.say("plan", layer="age")
        view = client.wait("view", lambda view: view["layer"] == "age")
        plan, shown = view["pictures"]
        assert shown.shape == (*SIZE, 3)
        # The walls of the room bound what is held, to a bin and the margin around them.
        width = plan.shape[1]
        assert view["left"] == pytest.approx(-4, abs=1)
        assert view["left"] + width * view["pixel"] == pytest.approx(4, abs=1)
        assert view["top"] == pytest.approx(4, abs=1)
        assert view["camera"] == pytest.approx([0, client.frame["pose"][2][3]], abs=1e-4)
        assert view["entities"][0]["track"] == [[-2, 1], [-1, 2]]
        before = view["elements"]
        client.say("edit", operation="delete", x=0, z=3.9, radius=1.5)
        found = re.fullmatch(r"delete: ([\d,]+) elements removed", client.wait("note")["text"])
        removed = int(found[1].replace(",", ""))
        assert 0 < removed < before
        client.say("plan")
        client.wait("view", lambda view: view["elements"] == before - removed)


def test_a_model_with_text_is_told_what_to_show(tmp_path):
    def embed(text):
        if text == "?":
            raise ValueError("prompt '?': found none like it among 2")
        return np.full((2, 3), float(len(text)))

    prompts = Prompts(embed, "a hall", "ugly", known=("a hall", "a garden"))
    starts = drawn_session.Starts(prompts=prompts)
    with running(tmp_path, make=lambda progress: starts) as server, visiting(server) as client:
        assert client.hello["prompts"] == ["a hall", "a garden"]
        assert (client.frame["prompt"], client.frame["guidance"]) == ("a hall", 1)
        client.say("prompt", text="a garden", guidance=4.5)
        shown = client.wait("frames")
        assert (shown["prompt"], shown["guidance"]) == ("a garden", 4.5)
        walker = server.hub.places[client.hello["walker"]].walker
        text, negative, guidance = walker.session.told
        assert (text[0, 0], negative[0, 0], guidance) == (len("a garden"), len("ugly"), 4.5)
        for fields in ({"text": "?"}, {"text": "a" * 501}, {"text": "a", "guidance": 21}):
            client.say("prompt", **fields)
            assert re.search("found none like it|501 characters|guidance", client.error())
        assert walker.prompt.text == "a garden"
        with visiting(server) as other:
            other.say("join", walker=client.hello["number"], share=False)
            assert other.wait("frames", lambda message: "prompt" in message)["prompt"] == "a garden"


def test_all_walk_on_while_a_prompt_is_embedded(tmp_path):
    go_on = threading.Event()

    def embed(text):
        assert go_on.wait(30)
        return np.full((2, 3), float(len(text)))

    starts = drawn_session.Starts(prompts=Prompts(embed, "a hall"))
    with running(tmp_path, make=lambda progress: starts) as server, visiting(server) as client:
        for text in ("a field", "a garden"):
            client.say("prompt", text=text)
        with visiting(server) as other:
            for walker in (client, other, client):
                assert len(walker.walk(1, forward=1)) >= 1
        go_on.set()
        told = []
        while "a garden" not in told:
            told.append(client.wait("frames", lambda message: "prompt" in message)["prompt"])
        assert "a field" not in told  # the newest alone counts


def test_a_model_without_text_takes_no_prompt(server):
    with visiting(server) as client:
        assert client.hello["prompts"] is None
        client.say("prompt", text="a garden")
        assert "this model takes no text" in client.error()


def test_the_memory_can_be_emptied_for_what_is_generated(server):
    with visiting(server) as client:
        client.say("memory", on=False)
        assert client.wait("frames")["memory_on"] is False
        picture = client.walk(1, forward=1)[-1]["pictures"][-1]
        expected = 255 - drawn(np.array(client.frame["pose"]))[0].astype(int)
        assert np.abs(picture - expected).mean() < 4


# -- files -----------------------------------------------------------------------------------------


def downloaded(server, client, kind):
    client.say("export", kind=kind)
    message = client.wait("download")
    status, headers, body = get(server, f"/download/{message['id']}?token={TOKEN}")
    assert status == 200
    assert headers["Content-Disposition"] == f'attachment; filename="{message["name"]}"'
    return body


def test_the_walk_is_exported(server):
    with visiting(server) as client:
        poses = [message["pose"] for message in client.walk(3, forward=1, yaw=0.5)]
        frames = 1 + 4 * len(poses)
        with av.open(io.BytesIO(downloaded(server, client, "mp4"))) as film:
            assert len(list(film.decode(video=0))) == frames
            assert float(film.streams.video[0].average_rate) == 16
        transforms = json.loads(downloaded(server, client, "transforms"))
        assert len(transforms["frames"]) == frames
        last = np.array(transforms["frames"][-1]["transform_matrix"])
        opencv = last @ np.diag([1, -1, -1, 1])  # the file's cameras look along -z
        np.testing.assert_allclose(opencv, poses[-1], atol=1e-4)
        elements = client.server.hub.places[client.hello["walker"]].walker.session.points
        ply = downloaded(server, client, "ply")
        assert ply.startswith(b"ply\n")
        assert f"element vertex {len(elements)}\n".encode() in ply
        ledger = json.loads(downloaded(server, client, "ledger"))
        assert ledger["denoise step 2"] == {"median": 3.0, "p95": 3.0, "count": 1}
        assert ledger["read"] == {"median": 2.0, "p95": 2.0, "count": len(poses)}


def test_nobody_waits_for_a_film_that_is_written(tmp_path):
    go_on = threading.Event()
    options = HubOptions(exports=1)
    with running(tmp_path, options) as server, visiting(server) as one, visiting(server) as other:
        one.walk(1, forward=1)
        one.say("plan")
        frames = one.wait("frames", lambda message: "frames" in message)["frames"]
        busy = server.hub._writer.submit(go_on.wait, 30)
        one.say("export", kind="mp4")
        one.walk(1, forward=1)
        other.walk(1, yaw=1)
        one.say("export", kind="mp4")
        assert "export: found a file being written" in one.error()
        other.say("export", kind="ply")
        assert "export: found 1 files being written" in other.error()
        go_on.set()
        assert busy.result(30)
        key = one.wait("download")["id"]
        body = get(server, f"/download/{key}?token={TOKEN}")[2]
        with av.open(io.BytesIO(body)) as film:
            assert len(list(film.decode(video=0))) == frames  # as it was when asked for
        downloaded(server, one, "transforms")


def test_what_one_exports_and_films_is_bounded(tmp_path):
    options = HubOptions(download_bytes=500, film_bytes=10_000)
    with running(tmp_path, options) as server, visiting(server) as client:
        client.walk(3, forward=1)
        walker = server.hub.places[client.hello["walker"]].walker
        assert walker.film.nbytes <= 10_000
        assert walker.film.dropped > 0
        client.say("export", kind="ply")
        assert "expected at most 0 MB" in client.error()
        client.walk(1, forward=1)


def test_the_oldest_downloads_go():
    files = Downloads(kept=3, max_bytes=100)
    keys = [files.add(f"{n}", bytes(30)) for n in range(5)]
    assert [files.get(key) is not None for key in keys] == [False] * 2 + [True] * 3
    last = files.add("large", bytes(70))
    assert [files.get(key) is not None for key in [*keys[2:], last]] == [False, False, True, True]


def test_a_dropped_picture_begins_a_world(server):
    file = io.BytesIO()
    Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save(file, "JPEG")
    with visiting(server) as client:
        client.walk(1, forward=1)
        before = client.hello["walker"]
        client.socket.send(file.getvalue())
        assert client.wait("hello")["walker"] != before
        assert client.wait("frames")["frames"] == 1
        client.socket.send(b"GIF89a, not a picture")
        assert "expected JPEG, PNG or WebP" in client.error()


def test_a_saved_world_is_there_after_the_server_was_started_anew(tmp_path):
    with running(tmp_path) as first, visiting(first) as client:
        pose = client.walk(2, forward=1)[-1]["pose"]
        client.say("save")
        world = client.wait("saved")["world"]
    # What was done since it was saved would be saved at the end; nothing was.
    assert [path.stem for path in tmp_path.glob("*.world")] == [world]
    with running(tmp_path) as second, visiting(second) as client:
        lists = client.wait("lists")
        assert [entry["id"] for entry in lists["worlds"]] == [world]
        client.say("load", world=world)
        assert client.wait("frames")["pose"] == pytest.approx(np.array(pose), abs=1e-5)


# -- several walkers -------------------------------------------------------------------------------


def test_a_page_that_comes_back_finds_its_walker(server):
    with visiting(server) as client:
        pose = client.walk(1, forward=1)[-1]["pose"]
    with visiting(server, client.hello["walker"]) as again:
        assert again.hello["walker"] == client.hello["walker"]
        assert again.frame["pose"] == pose
        with visiting(server, client.hello["walker"]) as other:  # the newest page has it
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    again.receive()
            assert closed.value.rcvd.code == 4001
            other.walk(1, forward=1)


def together(lists):
    """Numbers of those who walk in the page's memory and are connected."""
    return {w["number"] for w in lists["walkers"] if w["together"] and w["connected"]}


def test_walkers_see_and_join_each_other(server):
    with visiting(server) as one, visiting(server) as two:
        pose = one.walk(2, forward=1)[-1]["pose"]
        number = one.hello["number"]
        two.say("join", walker=number, share=True)
        assert two.wait("frames")["pose"] == pose
        two.wait("lists", lambda lists: together(lists) == {number, two.hello["number"]})
        two.wait("view")
        one.walk(1, right=1)
        two.wait("view")  # of what the other has written
        two.say("leave")
        two.wait("lists", lambda lists: len(together(lists)) == 1)
        two.say("join", walker=number, share=False)
        two.wait("lists", lambda lists: len(together(lists)) == 1)


def test_no_more_walkers_than_there_is_room_for(tmp_path):
    with running(tmp_path, HubOptions(walkers=2)) as server:
        with visiting(server) as one, visiting(server):
            with pytest.raises(ConnectionClosed) as closed:
                Client(server)
            assert closed.value.rcvd.code == 1013
            assert "2 walkers are here already" in closed.value.rcvd.reason
            one.walk(1, forward=1)
        with visiting(server), visiting(server):  # those whose page is gone make room
            assert len(server.hub.places) == 2


def test_no_more_memory_than_the_budget(tmp_path):
    with running(tmp_path, HubOptions(memory_budget=4_000_000)) as server, visiting(server):
        with pytest.raises(ConnectionClosed) as closed:
            Client(server)
        assert "of a budget of" in closed.value.rcvd.reason


def test_walks_without_a_page_are_saved_and_come_back(tmp_path):
    with running(tmp_path, HubOptions(idle_seconds=0.05)) as server:
        with visiting(server) as client:
            pose = client.walk(1, forward=1)[-1]["pose"]
        limit = time.monotonic() + 20
        while server.hub.places and time.monotonic() < limit:
            time.sleep(0.02)
        assert not server.hub.places
        assert len(list(tmp_path.glob("*.world"))) == 1
        with visiting(server, client.hello["walker"]) as again:
            assert again.frame["pose"] == pytest.approx(np.array(pose), abs=1e-5)


def test_pages_are_told_how_far_the_model_is(tmp_path):
    go_on = threading.Event()

    def make(progress):
        progress("chunks", 0.25)
        go_on.wait(20)
        raise ValueError("denoiser: found none")

    with running(tmp_path, make=make) as server:
        origin = f"http://{server.host}"
        with connect(server.socket, origin=origin) as socket:
            message = {}
            while message.get("state") != "compiling":
                message = json.loads(socket.recv(timeout=20))
            assert message == {
                "type": "status",
                "state": "compiling",
                "text": "chunks",
                "share": 0.25,
            }
            go_on.set()
            message = json.loads(socket.recv(timeout=20))
            assert (message["state"], "denoiser: found none" in message["text"]) == ("failed", True)
