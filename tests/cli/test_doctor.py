"""What `mirage doctor` says of this machine, and of machines that lack something."""

import configparser
import re
import subprocess
import sys

import av
import jax
import pytest

from helpers import command_line
from helpers.paths import ROOT
from mirage_jax.cli.helpers import machine, self_test
from mirage_jax.cli.helpers.machine import FAILED, NOTE, OK


@pytest.fixture
def doctor(monkeypatch, capsys, tmp_path):
    def run(*arguments):
        given = [f"--folder={tmp_path / 'runs'}", *arguments]
        return command_line.run("doctor", given, monkeypatch, capsys)

    return run


def status(out, name):
    return re.search(rf"^  (\w+) +{re.escape(name)} ", out, re.MULTILINE)[1]


def test_this_machine_is_well_and_nothing_is_left(doctor, tmp_path):
    code, out, _ = doctor()
    assert code == 0 and out.splitlines()[-1] == "all is well", out
    for step in self_test.STEPS:
        assert status(out, step.name) == OK
    for name in ("work directory", "temporary files", "video encoder", "memory"):
        assert status(out, name) in (OK, NOTE)
    assert status(out, "[dev]") == OK
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_said_and_the_status_is_1(doctor, tmp_path):
    (tmp_path / "file").write_text("")
    code, out, _ = doctor(f"--folder={tmp_path / 'file' / 'runs'}", "--noself_test")
    assert code == 1 and "self-test" not in out
    assert status(out, "work directory") == FAILED
    assert f"{tmp_path / 'file'} is no folder, expected one" in out
    assert out.splitlines()[-1] == "2 failed"  # the cache would be in it


def test_wrong_numbers_are_failures_that_say_both(doctor, monkeypatch):
    monkeypatch.setattr(self_test, "STEPS", self_test.STEPS[-2:])
    monkeypatch.setattr(self_test, "DENOISER_STEP", -1.05 * abs(self_test.DENOISER_STEP))
    code, out, _ = doctor()
    assert code == 1 and status(out, "denoiser") == FAILED and status(out, "checkpoint") == OK
    assert "found -5.95" in out and "expected -6.25" in out


@pytest.mark.parametrize("name", ["write_video", "read_video"])
def test_what_a_part_raises_is_said_and_the_others_run(doctor, monkeypatch, name):
    def fails(*_, **__):
        raise OSError("no such codec")

    monkeypatch.setattr(f"mirage_jax.io.video.{name}", fails)
    monkeypatch.setattr(self_test, "STEPS", self_test.STEPS[:2])
    code, out, _ = doctor()
    assert code == 1 and "OSError: no such codec" in out
    assert status(out, "video file") == FAILED and status(out, "export of weights") == OK


def test_a_platform_that_is_not_there(monkeypatch):
    def missing():
        raise RuntimeError("Unable to initialize backend 'tpu': ...\nmore")

    monkeypatch.setattr(jax, "devices", missing)
    (found,) = machine.devices()
    assert found.status == FAILED and found.text.endswith("backend 'tpu': ...)")


def test_codecs_that_are_not_there(monkeypatch):
    def only(*names):
        def codec(name, mode):
            if name not in names:
                raise av.error.DecoderNotFoundError(1, "none")

        monkeypatch.setattr(av, "Codec", codec)
        return [(found.status, found.name) for found in machine.codecs()]

    encoder, decoder = "video encoder", "video decoder"
    assert only("libx264", "h264") == [(OK, encoder), (OK, decoder)]
    assert only("mpeg4", "h264") == [(NOTE, encoder), (OK, decoder)]
    assert only() == [(FAILED, encoder), (FAILED, decoder)]


def test_extras_are_those_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = setup["options.extras_require"]
    assert set(machine.EXTRAS) == set(declared)
    for name, (_, packages) in machine.EXTRAS.items():
        for package in packages:
            family = package.removesuffix("12-plugin").replace("jax-cuda", "jax[cuda")
            assert family in declared[name] or package in declared[name]


def test_extras_that_are_missing_are_said_with_how_to_get_them(monkeypatch):
    monkeypatch.setattr(machine, "_version", lambda name: "1.0" if name == "tokenizers" else "")
    found = {finding.name: finding for finding in machine.extras()}
    assert {finding.status for finding in found.values()} == {NOTE}
    assert "tokenizers 1.0; without sentencepiece: pip install 'mirage_jax[text]'" in str(
        found["[text]"].text
    )


def test_help_lists_its_flags():
    command = [sys.executable, "-m", "mirage_jax.cli.main", "doctor", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith("mirage doctor: ")
    for flag in ("--folder: ", "--self_test: "):
        assert flag in done.stdout


def test_the_numbers_of_the_self_test_tell_any_weight_apart():
    values = self_test.sines((3, 4))
    for index in range(12):
        changed = values.copy()
        changed.flat[index] += 0.5
        assert abs(self_test.projection(changed) - self_test.projection(values)) > 1e-3
