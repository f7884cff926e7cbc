"""Commands in this process, each with a work directory of its own."""

import pytest

from helpers import command_line, paths
from mirage_jax.cli.helpers import common


@pytest.fixture
def call(tmp_path, capsys, monkeypatch):
    """Runs `mirage COMMAND ...`; returns (exit code, stdout, stderr)."""
    monkeypatch.setattr(common, "prepare_jax", lambda *_, **__: None)
    where = [f"--config={paths.EXPERIMENTS / 'quickstart.py'}", f"--workdir={tmp_path / 'run'}"]

    def run(command, *arguments):
        return command_line.run(command, [*where, *arguments], monkeypatch, capsys)

    return run


@pytest.fixture(scope="module")
def tiny_config():
    return command_line.tiny_config("quickstart.py")
