"""`mirage convert`: no source and no file of another program is written over."""

import os
import sys

import numpy as np
import pytest
from absl.testing import flagsaver
from safetensors.numpy import load_file, save_file

from helpers.command_line import assert_refused
from mirage_jax.cli import convert
from mirage_jax.weights import FORMAT

RANK, WIDTH = 2, 4


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mirage convert", *arguments])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
            convert.cli()
        out, err = capsys.readouterr()
        return leave.value.code or 0, out, err

    return run


def adapter(path):
    """A low-rank adapter as other programs write it: the smallest thing that converts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = {}
    for name in "qkvo":
        base = f"pipe.dit.blocks.0.self_attn.{name}"
        pairs[f"{base}.lora_A.weight"] = np.full((RANK, WIDTH), 0.5, np.float32)
        pairs[f"{base}.lora_B.weight"] = np.full((WIDTH, RANK), 0.25, np.float32)
    save_file(pairs, path, {"alpha": "2", "rank": "2"})
    return path


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_a_source_is_never_replaced(call, tmp_path, link):
    source = adapter(tmp_path / "own" / "model.safetensors")
    to = source.parent
    if link:
        to = tmp_path / "other"
        to.mkdir()
        link(source, to / "model.safetensors")
    before = source.read_bytes()
    found = call(f"--source={source}", f"--to={to}")
    assert_refused(found, f"--to {to}", "model.safetensors, which --source", "another name")
    assert source.read_bytes() == before and len(list(to.iterdir())) == 1


def test_a_folder_that_is_read_is_not_written_to(call, tmp_path):
    folder = adapter(tmp_path / "own" / "lora.safetensors").parent
    found = call(f"--source={folder}", f"--to={tmp_path / 'own' / '..' / 'own'}")
    assert_refused(found, "that is what --source reads, expected another name")
    assert [path.name for path in folder.iterdir()] == ["lora.safetensors"]


@pytest.mark.parametrize("name", ["model.safetensors", "architecture.json"])
def test_a_file_of_another_program_in_the_folder_is_kept(call, tmp_path, name):
    source, to = adapter(tmp_path / "lora.safetensors"), tmp_path / "theirs"
    theirs = adapter(to / "model.safetensors").rename(to / name)
    before = theirs.read_bytes()
    found = call(f"--source={source}", f"--to={to}")
    assert_refused(found, str(theirs), "is there already and is no", "move it away or choose")
    assert theirs.read_bytes() == before and len(list(to.iterdir())) == 1


def test_safetensors_replace_what_was_written_here_alone(call, tmp_path):
    source, ours, back = (tmp_path / name for name in ("a.safetensors", "ours", "b.safetensors"))
    adapter(source)
    for _ in range(2):  # an export of ours may be replaced
        assert call(f"--source={source}", f"--to={ours}")[0] == 0
    assert FORMAT.encode() in (ours / "model.safetensors").read_bytes()
    for _ in range(2):
        assert call(f"--source={ours}", f"--to={back}")[0] == 0
    assert load_file(back).keys() == load_file(source).keys()
    before = source.read_bytes()
    found = call(f"--source={ours}", f"--to={source}")
    assert_refused(found, f"{source} is there already and is no safetensors file that mirage_jax")
    found = call(f"--source={ours}", f"--to={ours / 'model.safetensors'}")
    assert_refused(found, "model.safetensors, which --source", "another name")
    assert source.read_bytes() == before
    assert call(f"--source={ours}", f"--to={back}")[0] == 0


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("x.safetensors", ["--format=export"], "found '.safetensors', expected a folder"),
        ("x.pth", [], "found '.pth', expected a folder or a .safetensors file"),
        ("file", [], "file: is there already; expected a new folder"),
        ("file", ["--format=export"], "file is no folder"),
        ("file/x", ["--format=orbax"], "file is no folder, expected another name"),
        ("file/x.safetensors", [], "file is no folder, expected another name"),
        ("folder.safetensors", [], "that is a folder, expected a safetensors file's name"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_anything_is_read(
    call, tmp_path, monkeypatch, name, flags, words
):
    ours = tmp_path / "ours"
    assert call(f"--source={adapter(tmp_path / 'a.safetensors')}", f"--to={ours}")[0] == 0
    (tmp_path / "file").write_text("theirs")
    (tmp_path / "folder.safetensors").mkdir()
    monkeypatch.setattr("mirage_jax.convert.outgoing.open_ours", pytest.fail)
    assert_refused(call(f"--source={ours}", f"--to={tmp_path / name}", *flags), "--to ", words)
    assert not list((tmp_path / "folder.safetensors").iterdir())


def test_the_home_directory_is_found(call, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    adapter(tmp_path / "a.safetensors")
    assert call("--source=~/a.safetensors", "--to=~/ours")[0] == 0
    assert (tmp_path / "ours" / "model.safetensors").is_file()
