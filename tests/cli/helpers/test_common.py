"""Flags and configs: one line and exit code 2 for everything that can be mended."""

import functools
import importlib
import logging
import os
import sys

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from helpers import paths
from helpers.command_line import assert_refused
from mirage_jax.cli import evaluate, record, train
from mirage_jax.cli.helpers import common, quiet

ROOT = paths.ROOT
CONFIG = f"--config={paths.EXPERIMENTS / 'quickstart.py'}"


def test_an_unknown_field_is_told_the_nearest(call):
    assert_refused(call("train", "--config.vae.base_widht=8"), "base_widht", "base_width")
    assert_refused(call("train", "--config.sampling.stepz=8"), "stepz", "steps")


def test_an_unknown_flag_is_told_the_nearest(call):
    assert_refused(call("train", "--worksdir=x"), "worksdir", "workdir")


@pytest.mark.parametrize(
    ("command", "typed", "of"),
    [
        ("train", "--share=0/4", "record"),
        ("quickstart", "--share=0/4", "record"),
        ("quickstart", "--nodry_run", "train"),
        ("train", "--compare", "quickstart"),
    ],
)
def test_a_flag_of_another_command_is_refused(call, monkeypatch, command, typed, of):
    """Commands import each other, and flags are known as soon as their module is."""
    importlib.import_module(f"mirage_jax.cli.{of}")
    for one in (record, train):
        monkeypatch.setattr(one, "run", lambda *_, **__: pytest.fail("it ran"))
    name = typed.removeprefix("--no" if typed[2:4] == "no" else "--").partition("=")[0]
    assert_refused(call(command, typed), f"--{name}: a flag of {of}, not of this command")


@pytest.mark.parametrize(
    "typed", ["--config.seed=many", "--config.vae.linear_path=5", "--config.record.size=6.5"]
)
def test_a_value_of_another_type_is_refused(call, typed):
    name, value = typed.removeprefix("--").split("=")
    assert_refused(call("train", typed), f"--{name}: found '{value}', expected", "such as")


def test_values_that_are_no_tuples_or_no_sections_are_refused(call):
    found = call("train", "--config.vae.width_mults=wide")
    assert_refused(found, "--config.vae.width_mults: found ('wide',), expected tuple such as (1, 2")
    found = call("train", "--config.record=3")
    assert_refused(found, "--config.record: found '3', expected one of its fields")
    assert_refused(call("train", "--config.name.x=3"), "--config.name.x: no such field")


def test_a_field_that_is_not_there_is_named_whole(call):
    assert_refused(call("train", "--config.nokey=3"), "--config.nokey: no such field")
    outcome = call("train", "--config.record.framse=3")
    assert_refused(outcome, "--config.record.framse", "did you mean --config.record.frames?")
    assert_refused(call("train", "--noconfig.tinny"), "did you mean --config.tiny?")


def test_fields_may_be_named_before_the_config(call, monkeypatch):
    seen = []
    monkeypatch.setattr(evaluate, "run", lambda config, *_: seen.append(config.seed))
    other = str(ROOT / "experiments" / "worlds_128.py")
    assert call("evaluate", "--config.seed=7", "--config", other)[0] == 0
    assert call("evaluate", "--config.seed=8", f"--config={other}")[0] == 0
    assert seen == [7, 8]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("syntax.py", b"def get_config(:\n", "SyntaxError: invalid syntax (syntax.py, line 1)"),
        ("notes.png", b"\x89PNG\r\n\x1a\n\x00\xff", "not a usable experiment"),
        ("empty.py", b"", "AttributeError: module 'mirage_experiment' has no attribute 'get_conf"),
        ("wrong.py", b"def get_config():\n  return 1 / 0\n", "ZeroDivisionError: division by z"),
        ("other.py", b"def get_config():\n  return {}\n", "get_config gave <class 'dict'>, expec"),
    ],
)
def test_a_config_file_that_is_none_is_named(name, content, reason, call, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    for arguments in ((), ("--help",)):
        assert_refused(call("train", f"--config={path}", *arguments), str(path), reason)


def test_help_shows_the_fields_of_the_config_that_is_given(call, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        "def get_config():\n    return ConfigDict({'own': {'field': 12}})\n"
    )
    for arguments in ([f"--config={path}"], ["--config", str(path)]):
        code, out, _ = call("train", "--help", *arguments)
        assert code == 0 and f"Fields of {path}" in out and "own.field = 12" in out
    assert_refused(call("train", "--help", "--config=nowhere.py"), "no file 'nowhere.py'")


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_the_default_config_is_found_from_any_folder(arguments, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mirage evaluate", *arguments])
    monkeypatch.setattr(common, "prepare_jax", lambda *_, **__: None)
    monkeypatch.setattr(evaluate, "run", lambda config, workdir, console: print(config.name))
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
        common.run(evaluate.main, evaluate.__name__)
    assert not leave.value.code and "quickstart" in capsys.readouterr().out


def test_what_libraries_tell_is_shown_with_debug_only(call, monkeypatch):
    shown = []

    def looks_for_backends(*_):
        shown.append(logging.getLogger("jax._src.xla_bridge").isEnabledFor(logging.INFO))

    monkeypatch.setattr(evaluate, "run", looks_for_backends)
    call("evaluate", "--debug")
    call("evaluate")
    assert shown == [True, False]


def test_other_mistakes_in_the_flags(call):
    assert_refused(call("train", "--stage=denoising"), "denoising", "denoiser")
    assert_refused(call("train", "everything"), "unexpected argument 'everything'", "--name=value")
    assert_refused(call("train", "--config=nowhere.py"), "nowhere.py")


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "prepare_jax", lambda *_, **__: None)
    argv = ["mirage train", CONFIG, f"--workdir={tmp_path}", "--debug"]
    monkeypatch.setattr(sys, "argv", argv)
    with flagsaver.flagsaver(), pytest.raises(ValueError, match="no recorded clips"):
        common.run(train.main, train.__name__)


def test_an_interruption_has_the_exit_code_of_the_shell(call, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "run", interrupted)
    code, _, err = call("evaluate")
    assert code == 130 and "the same command goes on from there" in err


def test_the_tiny_variant_gives_way_to_the_command_line(monkeypatch):
    def resolved(*arguments):
        argv = ["mirage", CONFIG, *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        with flagsaver.flagsaver():
            flags.FLAGS(argv)
            return common.resolve_config()

    plain = resolved()
    assert plain.record.size == 64
    assert plain.worlds == ("freedoom", "labmaze", "labmaze_bodies")
    for words in ("labmaze,procedural", '("labmaze", "procedural")'):
        assert resolved(f"--config.worlds={words}").worlds == ("labmaze", "procedural")
    tiny = resolved("--config.tiny=true", "--config.record.size=48", "--config.seed=5")
    assert (tiny.record.size, tiny.seed) == (48, 5)
    for name, value in tiny.tiny_overrides:
        if name != "record.size":
            assert functools.reduce(getattr, name.split("."), tiny) == value
    with pytest.raises((AttributeError, KeyError)):
        tiny.new_field = 1  # locked


def test_a_device_that_is_not_there_is_named(call, monkeypatch):
    def asks_for_devices(*_):
        raise AssertionError  # as JAX does where what was asked for has failed before

    def gone():
        raise RuntimeError("Unable to initialize backend 'cuda': no GPU (set JAX_PLATFORMS='')")

    monkeypatch.setattr(evaluate, "run", asks_for_devices)
    with pytest.raises(AssertionError):  # devices are there: this is some other fault
        call("evaluate")
    monkeypatch.setattr(jax, "devices", gone)
    outcome = call("evaluate")
    assert_refused(outcome, "JAX_PLATFORMS: found", "'cuda': no GPU;", "unset it, or cpu")


def test_libtpu_is_quiet_where_there_is_no_tpu(call, monkeypatch):
    names = ("TPU_WORKER_HOSTNAMES", "TPU_ACCELERATOR_TYPE")
    monkeypatch.setattr(evaluate, "run", lambda *_: None)
    for devices, expected in (
        ("/nowhere/accel*", ["localhost", "v4-8"]),
        ("/dev/null", [None, "v4-8"]),
    ):
        monkeypatch.delenv(names[0], raising=False)
        monkeypatch.setenv(names[1], "v4-8")  # what somebody has set stays
        monkeypatch.setattr(quiet, "TPU_DEVICES", (devices,))
        call("evaluate")
        assert [os.environ.get(name) for name in names] == expected
    monkeypatch.delenv(names[0], raising=False)


@pytest.mark.parametrize("command", ["generate", "train", "convert"])
def test_help_tells_no_default_that_is_nothing(call, command):
    _, out, _ = call(command, "--help")
    assert "(default: '" in out
    assert not any(f"(default: {nothing})" in out for nothing in ("None", "''", "[]"))
