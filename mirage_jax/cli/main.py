"""mirage: train and run video world models that remember.

    mirage quickstart   the whole chain: record, train, generate, evaluate, report
    mirage record       record clips of third-party worlds to ArrayRecord
    mirage inspect      a recorded dataset as one page: clips, numbers, checks of the geometry
    mirage encode       latents of recorded clips and embeddings of prompts, once for all runs
    mirage train        train the video autoencoder, its geometry head and the denoiser
    mirage generate     video along a camera path from one picture
    mirage explore      walk through a world in a browser
    mirage trajectory   show, convert and check camera paths of this and other tools
    mirage evaluate     score held-out worlds; writes results.json and report.html
    mirage world        look at saved worlds, edit, merge, branch and export them
    mirage bench        time the memory, the loader, the denoiser or the video autoencoder
    mirage convert      released weights to exports of ours, and back
    mirage doctor       whether this machine has what mirage needs, and a self-test
    mirage compile      what training on a TPU slice needs, found by compiling for it, without TPUs

`mirage COMMAND --help` lists the command's flags and every field of its config; `mirage --version`
says what runs here, on which devices.
"""

import difflib
import importlib
import os
import sys

from mirage_jax.cli.helpers.allocator import restart_with_large_pages
from mirage_jax.cli.helpers.blas_threads import one_blas_thread
from mirage_jax.cli.helpers.quiet import show, silence_libraries

COMMANDS = (
    *("quickstart", "record", "inspect", "encode", "train", "generate", "explore"),
    *("trajectory", "evaluate", "world", "bench", "convert", "compile", "doctor"),
)


COLUMNS_OF_FILES = 140
"""Width of tables that no terminal shows, so that their words are not cut off."""


def main() -> None:
    """Console entry point: hands the rest of the command line to `mirage_jax.cli.<command>`."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        show((__doc__ or "").strip())
        return
    command = arguments[0]
    if command in ("--version", "version"):
        silence_libraries()
        from mirage_jax.cli.helpers import version  # imports JAX

        print(version.describe())
        return
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        print(
            f"mirage: error: no command {command!r}{hint} Known: {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        sys.exit(2)
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", str(COLUMNS_OF_FILES))  # of rich
    restart_with_large_pages()
    one_blas_thread()
    sys.argv = [f"mirage {command}", *arguments[1:]]
    importlib.import_module(f"mirage_jax.cli.{command}").cli()


if __name__ == "__main__":
    main()
