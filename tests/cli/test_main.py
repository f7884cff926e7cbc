"""The program and its commands as a person meets them."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from helpers import paths
from mirage_jax.cli import evaluate, main

ROOT = paths.ROOT
CONFIG = f"--config={paths.EXPERIMENTS / 'quickstart.py'}"
NO_CONFIG = ("convert", "trajectory", "doctor", "inspect")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_the_program_introduces_itself(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mirage", *arguments])
    main.main()
    out = capsys.readouterr().out
    for command in main.COMMANDS:
        assert f"mirage {command} " in out
    assert set(main.COMMANDS) == {
        path.stem
        for path in Path(main.__file__).parent.glob("*.py")
        if path.stem not in ("__init__", "main")
    }


@pytest.mark.parametrize(
    ("typed", "hint"),
    [("trian", "did you mean 'train'?"), ("xyz", "no command 'xyz'. Known: quickstart, record")],
)
def test_an_unknown_command_is_told_the_nearest(typed, hint, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mirage", typed])
    with pytest.raises(SystemExit) as leave:
        main.main()
    err = capsys.readouterr().err
    assert leave.value.code == 2 and f"no command '{typed}'" in err and hint in err


def test_a_command_gets_the_rest_of_the_line(monkeypatch):
    seen = []
    monkeypatch.setenv("COLUMNS", "80")  # or it would stay as `main` sets it
    monkeypatch.setattr(evaluate, "cli", lambda: seen.append(list(sys.argv)))
    monkeypatch.setattr(sys, "argv", ["mirage", "evaluate", "--workdir=x"])
    main.main()
    assert seen == [["mirage evaluate", "--workdir=x"]]


@pytest.mark.parametrize(("terminal", "columns"), [(False, main.COLUMNS_OF_FILES), (True, None)])
def test_tables_that_no_terminal_shows_are_wide(monkeypatch, terminal, columns):
    monkeypatch.setenv("COLUMNS", "80")  # restored afterwards, whatever `main` does
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr(evaluate, "cli", lambda: None)
    monkeypatch.setattr(sys, "argv", ["mirage", "evaluate"])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    main.main()
    assert os.environ.get("COLUMNS") == (None if columns is None else str(columns))


@pytest.mark.parametrize("command", [c for c in main.COMMANDS if c not in NO_CONFIG])
def test_help_lists_flags_and_every_field(command, call):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert out.startswith(f"mirage {command}")
    own = {"generate": "--image", "train": "--stage", "quickstart": "--compare"}
    for text in ("--config", "--workdir", "--debug", own.get(command, "")):
        assert text in out
    assert "record.frames = 33" in out and "denoiser.width = 192" in out
    assert "tiny_overrides" not in out


def test_a_mistake_is_one_line_in_a_process_of_its_own(tmp_path):
    """The same as below through the real program: no traceback without --debug."""
    command = [sys.executable, "-m", "mirage_jax.cli.main", "train", "--stage=cache"]
    where = [f"--workdir={tmp_path}", CONFIG]
    done = subprocess.run([*command, *where], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines[-1].startswith("mirage: error: ") and "encoder" in lines[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["world", "--help"]])
def test_help_may_be_read_in_part(words):
    command = [sys.executable, "-m", "mirage_jax.cli.main", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as started:
        started.stdout.close()
        assert started.stderr.read() == b"" and started.wait() == 0


def test_a_wrong_field_of_the_default_config_is_no_traceback(tmp_path):
    # The default experiment is found from the folder of the checkout, as a newcomer would be in.
    command = [sys.executable, "-m", "mirage_jax.cli.main", "train", "--config.denoiser.widht=3"]
    root = paths.ROOT
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "widht" in done.stderr and "width" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flag", ["--version", "version"])
def test_versions_and_devices_are_said(flag, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mirage", flag])
    main.main()
    first, python, packages, devices = capsys.readouterr().out.splitlines()
    assert first.startswith(f"mirage_jax {importlib.metadata.version('mirage_jax')}")
    assert python.startswith(f"Python {platform.python_version()} on ")
    assert f"jax {jax.__version__}, " in packages
    assert devices == f"devices: {jax.device_count()} x {jax.devices()[0].device_kind}"


def test_a_platform_that_is_not_there_is_no_traceback(monkeypatch, capsys):
    def missing():
        raise RuntimeError("Unable to initialize backend 'tpu': ...\nmore")

    monkeypatch.setattr(jax, "devices", missing)
    monkeypatch.setattr(sys, "argv", ["mirage", "--version"])
    main.main()
    assert "devices: none (Unable to initialize backend 'tpu': ...)" in capsys.readouterr().out
