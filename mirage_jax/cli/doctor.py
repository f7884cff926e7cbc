"""mirage doctor: whether mirage can work on this machine.

    mirage doctor                          # looks at everything, and tries each part for a moment
    mirage doctor --folder=/data/runs      # where runs will be written

Prints versions, devices, memory, extras, folders, video codecs, and a self-test of ten seconds. A
line marked "failed" says what is wrong and what was expected, "note" what could be better. Ends
with status 1 if anything failed. Nothing that was there is changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.markup import escape

from mirage_jax.cli.helpers import common, machine
from mirage_jax.cli.helpers.compilation import compile_fast
from mirage_jax.cli.helpers.flag_types import PathName
from mirage_jax.cli.helpers.machine import FAILED, NOTE, OK, Finding

_FOLDER = flags.DEFINE(
    PathName(), "folder", "runs", "Where runs will be written; need not be there yet."
)
_SELF_TEST = flags.DEFINE_bool("self_test", True, "Try each part for a moment.")

_STYLES = {OK: "green", NOTE: "yellow", FAILED: "bold red"}


def run(console: Console, folder: Path, *, self_test: bool = True) -> int:
    """Prints the report; the exit status: 1 if anything failed."""
    from mirage_jax.cli.helpers import version

    console.print(escape(version.describe()), highlight=False, soft_wrap=True)
    failed = 0
    for title, findings in (
        ("devices", machine.devices()),
        ("host", machine.host()),
        ("extras", machine.extras()),
        ("folders", machine.folders(folder)),
        ("video", machine.codecs()),
        ("self-test", tried(console) if self_test else ()),
    ):
        first = True
        for finding in findings:
            if first:
                console.print(f"\n[bold]{title}[/bold]")
                first = False
            style = _STYLES[finding.status]
            line = f"{finding.status:<6}[/{style}] {escape(f'{finding.name:<18}')}"
            console.print(
                f"  [{style}]{line} {escape(finding.text)}", highlight=False, soft_wrap=True
            )
            failed += finding.status == FAILED
    console.print(f"\n{failed} failed" if failed else "\nall is well")
    return int(failed > 0)


def tried(console: Console) -> Iterator[Finding]:
    """Every step of the self-test, in the temporary folder."""
    import tempfile

    from mirage_jax.cli.helpers import self_test

    for step in self_test.STEPS:
        start = time.monotonic()
        try:
            with console.status(step.name):
                text = self_test.in_folder(Path(tempfile.gettempdir()), step)
        # Whatever goes wrong is what the report is for.
        except Exception as error:
            yield Finding(FAILED, step.name, f"{type(error).__name__}: {error}")
        else:
            yield Finding(OK, step.name, f"{text} ({time.monotonic() - start:.1f} s)")


def main() -> int:
    compile_fast()
    return run(Console(), Path(_FOLDER.value).absolute(), self_test=_SELF_TEST.value)


def cli() -> None:
    common.run(main, __name__, config=False)


if __name__ == "__main__":
    cli()
