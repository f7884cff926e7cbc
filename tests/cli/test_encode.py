"""`mirage encode`: latents of recordings, embeddings of prompts, and what is refused."""

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from data_pipelines.loading import ClipSource
from data_pipelines.recording import record
from data_pipelines.sources.procedural import ProceduralSource
from helpers import paths
from helpers.command_line import assert_refused
from helpers.ports import free_port
from mirage_jax.cli.helpers import clip_sources, encoding, prompts
from mirage_jax.io.text import TextEmbeddings, load_embeddings
from mirage_jax.io.workdir import Workdir
from mirage_jax.training import latent_cache
from mirage_jax.training.captions import Captions
from mirage_jax.training.latent_cache import LatentSource


def test_what_is_missing_is_refused(call, trained, tmp_path):
    where = ("--config.tiny=true", f"--workdir={tmp_path}")
    assert_refused(call("encode", *where), "no recorded clips of procedural")
    alone = call("encode", *where, "--tokenizer=tokenizer.json")
    assert_refused(alone, "--tokenizer and --text_encoder: found one")


@pytest.fixture
def embedded(monkeypatch, tmp_path):
    """Embeds the prompts of two worlds; returns what was said and which texts were embedded."""
    asked = []

    def embed(texts, tokenizer, encoder):
        asked.append(list(texts))
        tokens = np.arange(len(texts) * 6, dtype=np.float32).reshape(-1, 2, 3) + 1
        return TextEmbeddings(tuple(texts), tokens, np.full(len(texts), 2, np.int32))

    monkeypatch.setattr(prompts, "embed_prompts", embed)
    for name in ("tokenizer.json", "text.safetensors"):
        (tmp_path / name).write_bytes(b"x" * 10)

    def run(**texts):
        said = io.StringIO()
        config = ConfigDict({"worlds": tuple(texts), "text": {"prompts": texts}})
        out = tmp_path / "made" / "text.safetensors"
        files = encoding.PromptFiles(
            out, tmp_path / "tokenizer.json", tmp_path / "text.safetensors"
        )
        files.check(config)
        files.encode(config, Console(file=said, width=200))
        return said.getvalue(), asked, load_embeddings(out)

    return run


def test_prompts_are_embedded_once_for_a_text_encoder(embedded, tmp_path):
    said, asked, found = embedded(a="a hall", b="a maze", c="a hall")
    assert asked == [["a hall", "a maze"]] and found.prompts == ("a hall", "a maze")
    assert "--config.text.embeddings=" in said
    said, asked, _ = embedded(b="a maze")
    assert "up to date" in said and len(asked) == 1
    assert embedded(b="a maze", d="a field")[2].prompts == ("a maze", "a field")
    (tmp_path / "text.safetensors").write_bytes(b"y" * 10)  # other weights of the same size
    said, asked, _ = embedded(b="a maze")
    assert "up to date" not in said and len(asked) == 3
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json: no such file"):
        (tmp_path / "tokenizer.json").unlink()
        embedded(b="a maze")


class Captioned(ProceduralSource):
    """Every second clip has a caption."""

    def clips(self, world, count, seed):
        for number, clip in enumerate(super().clips(world, count, seed)):
            yield dataclasses.replace(clip, caption="a long hall" if number % 2 else None)


@pytest.fixture
def captioned(monkeypatch, tmp_path):
    """A work directory of three clips, the files of the text encoder, and the texts it was given.

    Texts become two tokens of their length.
    """
    workdir, asked = Workdir(tmp_path), []
    source = Captioned(size=16, frames=13, train_worlds=1, eval_worlds=1)
    record(source, workdir.worlds("procedural"), "train", 3, workers=0, progress=False)
    files = tmp_path / "tokenizer.json", tmp_path / "text.safetensors"
    for file in files:
        file.write_bytes(b"x")

    def embedder(tokenizer, encoder):
        def embed(texts):
            asked.extend(text for text in texts if text)
            lengths = np.array([2 * bool(text) for text in texts], np.int32)
            tokens = np.zeros((len(texts), 4, 3), np.float32)
            tokens[:, :2] = [[[len(text)]] for text in texts]
            return TextEmbeddings(tuple(texts), tokens, lengths)

        return embed

    monkeypatch.setattr(prompts, "text_embedder", embedder)
    return workdir, files, asked


def test_captions_of_clips_are_their_texts(captioned, tmp_path):
    (workdir, files, _), console = captioned, Console(file=io.StringIO())
    embeddings = str(tmp_path / "prompts.safetensors")
    text = {"captions": True, "embeddings": embeddings, "prompts": {"procedural": "a room"}}
    config = ConfigDict({"worlds": ("procedural",), "text": text})
    encoding.PromptFiles(Path(embeddings), *files).encode(config, console)
    texts = {"procedural": load_embeddings(embeddings).tokens[0]}

    def with_text():
        clips = ClipSource(workdir.worlds("procedural"), "train", ("name",))
        return clip_sources.with_text(config, workdir, texts, "procedural", "train", clips)

    with pytest.raises(FileNotFoundError, match=r"captions\.array_record: no embedded captions"):
        with_text()
    encoding.encode_captions(config, workdir, console, *files)
    assert "1 of 3 clips have captions" in console.file.getvalue()
    found = with_text()
    # The prompt's six letters, the caption's eleven.
    assert [found[number]["text"][0, 0] for number in range(3)] == [6, 11, 6]
    assert all(not found[number]["text"][2:].any() for number in range(3))
    encoding.encode_captions(config, workdir, console, *files)
    assert "captions.array_record: up to date" in console.file.getvalue()
    # Of another text encoder than the prompts, and of other clips: refused.
    files[1].write_bytes(b"y")
    encoding.encode_captions(config, workdir, console, *files)
    with pytest.raises(ValueError, match=r"made with another text encoder .*prompts\.json"):
        with_text()
    encoding.PromptFiles(Path(embeddings), *files).encode(config, console)
    assert len(with_text()) == 3
    card = workdir.worlds("procedural") / "dataset.json"
    card.write_text(card.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ValueError, match=r"made with another clips than .*procedural"):
        with_text()


def test_files_of_captions_are_resumed_and_shared_by_hosts(captioned, monkeypatch):
    workdir, files, asked = captioned
    path = workdir.captions("procedural", "train")
    config, said = ConfigDict({"worlds": ("procedural",)}), io.StringIO()

    def encode(host=0, hosts=1):
        monkeypatch.setattr(encoding.jax, "process_index", lambda: host)
        monkeypatch.setattr(encoding.jax, "process_count", lambda: hosts)
        monkeypatch.setattr(encoding, "first_alone", lambda name, action: None)
        asked.clear()
        console = Console(file=said, width=200)
        encoding.encode_captions(config, workdir, console, *files, file_clips=1)
        return len(asked)

    assert [encode(host, 3) for host in (0, 2)] == [0, 0]  # of clips without a caption
    with pytest.raises(ValueError, match=r"found 2 of 3 parts .*captions-00001-of-00003"):
        Captions(path)
    assert encode(1, 3) == 1
    parts = latent_cache.cache_files(path)
    before = [part.read_bytes() for part in parts]
    assert [tokens is None for tokens in map(Captions(path).of_clip, range(3))] == [1, 0, 1]
    np.testing.assert_array_equal(Captions(path).of_clip(1), np.full((2, 3), 11))
    assert encode() == 0 and "up to date" in said.getvalue()
    # One that is missing, without its key or of another encoder is made, and no other.
    parts[1].unlink()
    assert encode() == 1
    parts[0].with_suffix(".json").unlink()
    assert encode() == 0 and [part.read_bytes() for part in parts] == before
    # Of two encoders: refused, naming the file that is not of the prompts' one.
    files[1].write_bytes(b"y")
    assert encode(1, 3) == 1
    made_from = latent_cache.made_from(parts[1])
    note = {name: made_from[name] for name in ("text_encoder", "tokenizer")}
    (workdir.root / "prompts.json").write_text(json.dumps(note))
    config.text = {"captions": True, "embeddings": str(workdir.root / "prompts.safetensors")}
    texts = {"procedural": np.zeros((4, 3), np.float32)}
    with pytest.raises(ValueError, match=r"captions-00000-of-00003.*another text encoder"):
        clip_sources.with_text(config, workdir, texts, "procedural", "train", range(3))


def embed_in_processes(root, count):
    """What each of so many processes said, all of them encoding captions together."""
    program, coordinator = paths.HELPERS / "caption_processes.py", f"127.0.0.1:{free_port()}"
    folders = os.pathsep.join(map(str, (paths.ROOT, paths.ROOT / "tests")))
    running = [
        subprocess.Popen(
            [sys.executable, str(program), str(root), coordinator, str(count), str(number)],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": folders},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(count)
    ]
    said = [process.communicate(timeout=400)[0] for process in running]
    assert [process.returncode for process in running] == [0] * count, said
    return said


@pytest.mark.long
def test_two_processes_share_the_captions_of_one_recording(tmp_path):
    """Files are those of one process, each of them made by one alone."""
    workdir = Workdir(tmp_path)
    source = Captioned(size=16, frames=13, train_worlds=1, eval_worlds=1)
    record(source, workdir.worlds("procedural"), "train", 4, workers=0, progress=False)
    for name in ("tokenizer.json", "text.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    said = embed_in_processes(tmp_path, 2)
    made = [sorted(re.findall(r"captions-(\d+)-of-00004\S*: \d of", text)) for text in said]
    assert made == [["00000", "00002"], ["00001", "00003"]]
    captions = Captions(workdir.captions("procedural", "train"))
    assert [captions.of_clip(number) is None for number in range(4)] == [True, False, True, False]
    np.testing.assert_array_equal(captions.of_clip(3), np.full((3, 3), len("a long hall")))
    parts = latent_cache.cache_files(captions.path)
    together = [part.read_bytes() for part in parts]
    assert all("up to date" in text for text in embed_in_processes(tmp_path, 2))
    parts[1].unlink()
    parts[2].unlink()
    alone = embed_in_processes(tmp_path, 1)[0]
    assert "captions-00001-of-00004" in alone and "captions-00003-of-00004" not in alone
    assert [part.read_bytes() for part in parts] == together


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("tokenizer.safetensors", "tokenizer.json, which --tokenizer"),  # its note would be
        ("text.safetensors", "text.safetensors, which --text_encoder"),
        ("theirs.safetensors", "theirs.safetensors is there already and is no file of text"),
        ("noted.safetensors", "noted.json is there already and is no record of embedded prompts"),
        ("folder.safetensors", "that is a folder"),
        ("made.json", "found '.json', expected .safetensors"),
        ("theirs.json/made.safetensors", "theirs.json is no folder"),
    ],
)
def test_no_file_of_others_is_written_over_by_prompts(
    call, trained, tmp_path, monkeypatch, out, words
):
    monkeypatch.setattr(prompts, "embed_prompts", pytest.fail)
    monkeypatch.setattr(encoding, "encode_recordings", pytest.fail)
    names = ("tokenizer.json", "text.safetensors", "theirs.safetensors", "theirs.json")
    for name in (*names, "noted.json"):
        (tmp_path / name).write_text('{"name": "theirs"}')
    (tmp_path / "folder.safetensors").mkdir()
    files = [
        f"--tokenizer={tmp_path}/tokenizer.json",
        f"--text_encoder={tmp_path}/text.safetensors",
    ]
    where = ["--config.tiny=true", f"--workdir={tmp_path}", f"--prompts_to={tmp_path / out}"]
    assert_refused(call("encode", *where, *files), "--prompts_to", words)
    for name in (*names, "noted.json"):
        assert (tmp_path / name).read_text() == '{"name": "theirs"}'
    assert_refused(call("encode", *where), "--prompts_to: found no --tokenizer")
    gone = [files[0], "--text_encoder=not_there"]
    assert_refused(call("encode", *where, *gone), "--text_encoder: not_there: no such file")


@pytest.mark.long
def test_recordings_are_encoded_in_several_files(call, trained, tmp_path):
    source = ProceduralSource(size=32, frames=33, train_worlds=2, eval_worlds=2)
    folder = trained.worlds("procedural")
    for split, count in (("train", 10), ("eval", 2)):
        record(source, folder, split, count, workers=0, progress=False)
    arguments = ("--config.tiny=true", f"--workdir={tmp_path}", "--file_clips=4")
    code, out, err = call("encode", *arguments)
    assert code == 0 and out.count("there is none yet") == 4, err
    assert len(LatentSource([trained.latents("procedural", "train")])) == 10
    code, out, _ = call("encode", *arguments)
    assert code == 0 and out.count("up to date") == 2
