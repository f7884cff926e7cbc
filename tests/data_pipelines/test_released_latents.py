"""LMDB shards of latents: written by the lmdb package, read without torch, nothing in them run."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import released_latents
from data_pipelines.loading import batches
from data_pipelines.released_latents import ReleasedLatents, read_sample
from helpers.made_footage import Evil, torch_bytes
from helpers.released_samples import FRAMES, files, latents, tensor, value

PATH = Path("shard_000.lmdb/00000007")


@pytest.mark.parametrize("references", [0, 2])
def test_a_sample_comes_back(references):
    found = read_sample(value(files(3, references)), PATH)
    for number, (name, count) in enumerate(FRAMES.items()):
        np.testing.assert_array_equal(found[name], latents(3 + number, count))
        assert found[name].dtype == np.float32
    if references:
        np.testing.assert_array_equal(found["references"], latents(3, references))
    else:
        assert found["references"] is None
    assert (found["caption"], found["sample"]["t0"]) == ("a h\u00e4ll", 5)
    assert found["picture"].shape == (8, 12, 3) and (found["picture"] == 3).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_target_rgb.pt": None}, "found no train_target_rgb.pt"),
        ({"train_target_rgb.pt": b"PK"}, "train_target_rgb.pt: found no whole torch file"),
        ({"train_target_rgb.pt": torch_bytes({"latents": 1})}, "no tensor 'latent' of four axes"),
        ({"train_target_rgb.pt": tensor(np.zeros((3, 4, 2)))}, "no tensor 'latent' of four axes"),
        ({"train_preceding_rgb.pt": tensor(np.zeros((2, 4, 2, 4)))}, "preceding: found"),
        ({"train_preceding_rgb.pt": tensor(np.full((2, 4, 2, 3), np.nan))}, "not finite"),
        ({"train_sample.json": b"["}, "train_sample.json"),
        ({"train_target_rgb.txt": b"\xff"}, "found no UTF-8"),
        ({"train_target_rgb_frame0.png": b"GIF89a"}, "damaged picture"),
        ({"train_target_rgb_frame0.png": "text"}, "expected a dict of files' bytes"),
    ],
)
def test_what_is_missing_or_damaged_is_named(change, words):
    content = {name: part for name, part in (files() | change).items() if part is not None}
    with pytest.raises(ValueError, match=rf"{PATH}.*{words}"):
        read_sample(value(content), PATH)


def test_nothing_in_a_value_is_run(capsys):
    for content in (Evil(), {"train_target_rgb.pt": Evil()}):
        with pytest.raises(ValueError, match=rf"{PATH}: found builtins.print, expected texts"):
            read_sample(value(content), PATH)
    with pytest.raises(ValueError, match=rf"{PATH}: damaged"):
        read_sample(value(files())[:-20], PATH)
    assert not capsys.readouterr().out


def test_without_the_package_it_is_said(tmp_path, monkeypatch):
    (tmp_path / "shard_000.lmdb").mkdir()

    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(released_latents.importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mirage_jax\[lmdb\]'"):
        ReleasedLatents(tmp_path)


def shard(folder, samples):
    lmdb = pytest.importorskip("lmdb", reason="of the extra [lmdb]: lmdb is not installed")
    with (
        lmdb.open(str(folder), map_size=1 << 24, subdir=True) as opened,
        opened.begin(write=True) as transaction,
    ):
        for key, content in samples.items():
            transaction.put(key.encode(), content)
    return folder


def test_shards_are_random_access_for_the_loader(tmp_path):
    for number in range(2):
        seeds = range(10 * number, 10 * number + 3)
        shard(tmp_path / f"shard_{number:03d}.lmdb", {f"{s:08d}": value(files(s)) for s in seeds})
    source = ReleasedLatents(tmp_path)
    assert len(source) == 6
    for index, seed in enumerate((0, 1, 2, 10, 11, 12)):
        found = pickle.loads(pickle.dumps(source))[index]
        assert found["name"] == f"{seed:08d}" and found["name"] in source.title(index)
        np.testing.assert_array_equal(found["target"], latents(seed, 3))
    assert len(ReleasedLatents(tmp_path / "shard_001.lmdb")) == 3

    def target(element, _):
        return {"target": element["target"]}

    with batches(source, target, batch_size=3, seed=0) as stream:
        drawn = np.concatenate([next(stream)["target"] for _ in range(2)])
    expected = [latents(seed, 3) for seed in (0, 1, 2, 10, 11, 12)]
    assert sorted(d.tolist() for d in drawn) == sorted(e.tolist() for e in expected)


def test_shards_that_end_early_are_refused(tmp_path):
    whole = shard(tmp_path / "shard_000.lmdb", {"00000001": value(files())})
    for damage, words in (
        (lambda data: data[:8192], "found 8,192 bytes, expected"),
        (lambda data: b"x" * len(data), "found no whole LMDB shard"),
        (lambda data: b"", "shard_000.lmdb"),
    ):
        folder = tmp_path / words[:7] / "shard_000.lmdb"
        folder.mkdir(parents=True)
        (folder / "data.mdb").write_bytes(damage((whole / "data.mdb").read_bytes()))
        with pytest.raises(ValueError, match=words):
            ReleasedLatents(folder)
    empty = shard(tmp_path / "shard_empty.lmdb", {})
    with pytest.raises(ValueError, match=r"shard_empty\.lmdb: found no sample"):
        ReleasedLatents(empty)
    with pytest.raises(ValueError, match="none: found no shard"):
        ReleasedLatents(tmp_path / "none")
