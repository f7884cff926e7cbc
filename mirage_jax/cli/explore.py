"""mirage explore: walk through a world in a browser.

    mirage explore --open                       # with the weights that ship
    mirage explore --image=photo.png            # from a picture of one's own
    mirage explore --clip=footage/hall          # from pictures with camera poses
    mirage explore --world=walk.world           # go on where `generate` or an earlier walk ended
    mirage explore --workdir=runs/quickstart    # with weights of one's own

A --clip is read as --config.data.* says; --clip_scene names one of several scenes. Weights that
were trained on several picture shapes walk in the one nearest to what is started from.

Prints the address of the page, with the token that it needs. Only this machine is listened to,
unless --host says otherwise. Saved worlds, those of walks that end too, are in --saved. See
docs/explore.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from mirage_jax.cli.helpers import (
    capture_start,
    common,
    mesh_flag,
    model_flags,
    prompts,
    start_flags,
)
from mirage_jax.cli.helpers.compilation import use_own_kernels
from mirage_jax.cli.helpers.explore_starts import Entries, Progress, make_starts
from mirage_jax.cli.helpers.flag_types import AUTO, Integer, PathName, Real, RealOrAuto
from mirage_jax.explore.hub import Hub, HubOptions
from mirage_jax.explore.pace import LEAST, MOST
from mirage_jax.explore.protocol import MAX_GUIDANCE
from mirage_jax.explore.saved import SavedWorlds
from mirage_jax.explore.security import Access, is_loopback, new_token
from mirage_jax.explore.starts import Starts
from mirage_jax.io import outputs
from mirage_jax.world import shipped
from mirage_jax.world.session import SessionOptions

FLAG_MODULES = (
    *(model_flags.__name__, mesh_flag.__name__),
    *(prompts.__name__, start_flags.__name__),
)
"""Helpers whose flags the command has too, for its help."""

_SAVED = flags.DEFINE(PathName(), "saved", "runs/explore", "Folder for saved worlds.")
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen on; 0.0.0.0 for all of this machine's."
)
_NAMES = flags.DEFINE_list(
    "host_names", [], "Further names by which browsers reach this machine, NAME,NAME,..."
)
_PORT = flags.DEFINE(
    Integer(least=0, most=65535), "port", 8008, "Port to listen on; 0 for any that is free."
)
_OPEN = flags.DEFINE_bool("open", False, "Open the page in this machine's browser.")
_WALKERS = flags.DEFINE(Integer(least=1, most=1000), "walkers", 8, "Walkers at a time.")
_BUDGET = flags.DEFINE(
    Integer(least=1), "memory_budget", 2048, "Megabytes for the worlds of all walkers."
)
_IDLE = flags.DEFINE(
    Real(above=0), "idle", 600.0, "Seconds after which a walk without a page is saved and ended."
)
_SAVED_WORLDS = flags.DEFINE(
    Integer(least=1), "saved_worlds", 1000, "Worlds in --saved, above which pages save no more."
)
_SAVED_BUDGET = flags.DEFINE(
    Integer(least=1),
    "saved_budget",
    10_000,
    "Megabytes in --saved, above which pages save no more.",
)
_FILM_BUDGET = flags.DEFINE(
    Integer(least=1), "film_budget", 256, "Megabytes of one walk's pictures, for its film."
)
_DOWNLOADS = flags.DEFINE(
    Integer(least=1, most=1000), "downloads", 8, "Exported files kept for pages to fetch."
)
_DOWNLOAD_BUDGET = flags.DEFINE(
    Integer(least=1),
    "download_budget",
    512,
    "Megabytes of exported files; larger ones are refused.",
)
_FPS = flags.DEFINE(
    RealOrAuto(least=1, most=120),
    "pace",
    AUTO,
    f"Frames a second of the walk, made and played; auto: as many as come in time, {LEAST:g} to "
    f"{MOST:g}, and 16 with bodies.",
)


async def _serve(
    make: Callable[[Progress], Starts], hub: Hub, access: Access, console: Console
) -> None:
    from mirage_jax.explore.server import address, serving  # needs the extra

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # on Windows
            loop.add_signal_handler(number, stop.set)
    async with serving(hub, access, _PORT.value, make) as (server, preparing):
        url = address(server, access)
        console.print(f"walk at [bold]{url}[/]", soft_wrap=True)
        if not is_loopback(access.host):
            console.print(
                "[yellow]other machines can reach this address; nothing is encrypted: whoever "
                "reads the traffic can walk here[/]",
                soft_wrap=True,
            )
        if _OPEN.value and _has_screen():
            webbrowser.open(url)
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait((preparing, waiting), return_when=asyncio.FIRST_COMPLETED)
        if preparing.done():
            preparing.result()
            console.print("ready; Ctrl-C saves all walks and ends")
            await waiting
        console.print("saving what was walked")


def _has_screen() -> bool:
    return sys.platform != "linux" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def _prepare_jax(saved: Path) -> None:
    import jax

    use_own_kernels()
    jax.config.update("jax_compilation_cache_dir", str(saved / "compilation_cache"))
    # Small programs take long as well, where there are many.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _told(console: Console, page: Progress) -> Progress:
    """Progress for the page and the terminal."""

    def told(text: str, share: float) -> None:
        console.print(f"{share:4.0%} {text}")
        page(text, share)

    return told


def _config() -> ConfigDict:
    """The config, of which --clip goes by some fields and nothing else by any."""
    config, named = common.resolve_config(), common.overrides()[2]
    used = (
        [f"data.{field}" for field in capture_start.READ_FIELDS] if start_flags.CLIP.value else []
    )
    for name in named:
        if name not in (*used, "memory.bodies") and not name.startswith(model_flags.MOVERS):
            known = f"one of {', '.join(used)}" if used else "no field of the data without --clip"
            raise common.UserError(f"--config.{name}: found it, expected {known}")
    return config


def main() -> None:
    if start_flags.CFG_SCALE.value > MAX_GUIDANCE:
        raise common.UserError(
            f"--cfg_scale: found {start_flags.CFG_SCALE.value:g}, expected at most {MAX_GUIDANCE:g}"
        )
    workdir = flags.FLAGS["workdir"]
    entries = Entries(
        workdir=str(workdir.value) if workdir.present else shipped.NAME,
        fov=start_flags.FOV.value,
        image=start_flags.IMAGE.value,
        world=start_flags.WORLD.value,
        clip=start_flags.CLIP.value,
        clip_scene=start_flags.CLIP_SCENE.value,
        config=_config(),
        denoiser=model_flags.latent_denoiser(),
        decoder=model_flags.decoder("auto"),
        bodies=model_flags.bodies(),
        body_fields=model_flags.body_fields(),
        prompts=prompts.Prompting(
            prompt=start_flags.PROMPT.value,
            negative_prompt=start_flags.NEGATIVE.value,
            cfg_scale=start_flags.CFG_SCALE.value,
            text=start_flags.TEXT.value,
            tokenizer=prompts.TOKENIZER.value,
            text_encoder=prompts.TEXT_ENCODER.value,
        ),
    )
    entries.check()
    if not _HOST.value:
        raise common.UserError("--host: found '', expected an address, 0.0.0.0 for all")
    saved = Path(_SAVED.value)
    outputs.check_folder(f"--saved {saved}", saved)
    try:
        import websockets  # noqa: F401
    except ImportError as error:
        raise common.UserError(
            "the explorer needs websockets: pip install 'mirage_jax[explore]'"
        ) from error
    _prepare_jax(saved)
    console = Console()
    limits = HubOptions(
        walkers=_WALKERS.value,
        memory_budget=_BUDGET.value * 10**6,
        idle_seconds=_IDLE.value,
        film_bytes=_FILM_BUDGET.value * 10**6,
        downloads=_DOWNLOADS.value,
        download_bytes=_DOWNLOAD_BUDGET.value * 10**6,
    )
    worlds = SavedWorlds(saved, _SAVED_WORLDS.value, _SAVED_BUDGET.value * 10**6)
    mesh = mesh_flag.asked()
    hub = Hub(worlds, limits, mesh)
    access = Access(new_token(), _HOST.value, tuple(_NAMES.value))

    def make(page: Progress) -> Starts:
        adapts = _FPS.value == AUTO
        options = SessionOptions() if adapts else SessionOptions(fps=_FPS.value)
        return make_starts(entries, options, _told(console, page), mesh=mesh, adapts=adapts)

    try:
        asyncio.run(_serve(make, hub, access, console))
    except OSError as error:
        if refusal := _refusal(error):
            raise refusal from error
        raise


def _refusal(error: OSError) -> common.UserError | None:
    """What is wrong with --host or --port; None for errors of files."""
    if error.errno == errno.EADDRINUSE:
        return common.UserError(
            f"--port {_PORT.value}: found another program there; expected a free one, e.g. --port=0"
        )
    unknown = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
    if unknown:
        return common.UserError(
            f"--host: found {_HOST.value!r} ({error.strerror}), expected an address of this machine"
        )
    if error.errno == errno.EACCES and error.filename is None:
        return common.UserError(
            f"--port {_PORT.value}: found one that only the system may use, expected one from 1024"
        )
    return None


def cli() -> None:
    common.run(main, __name__)


if __name__ == "__main__":
    cli()
