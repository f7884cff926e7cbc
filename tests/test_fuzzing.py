"""Damaged files are refused by name or read rightly: a sample of what `make fuzz` tries."""

import ast
import random
import re
import zlib

import pytest

from data_pipelines.sources.footage import formats as footage
from helpers import camera_formats, faulty_formats, footage_formats, forged_crc, fuzzing
from helpers.exhaustive import LONG
from helpers.formats import FORMATS
from helpers.mutations import damaged
from helpers.paths import ROOT
from mirage_jax.io import camera_files

CASES = 400 if LONG else 24

# Cases of longer runs that went wrong once.
ONCE_WRONG = [
    ("config.json", 707),  # no blocks
    ("config.json", 5986),  # no channels
    ("export", 8143),  # a tensor without a name
    ("geometry.npz", 4370),  # negative depth
    ("UMT5", 1084),  # fewer rows than heads
    ("text embeddings", 4709),  # tokens that are whole numbers
    ("cameras of vipe", 160),  # one number of a lens for each frame
    ("cameras of lyra", 484),  # intrinsics that are one number
    ("cameras of matrices", 241),  # names that are a number
    ("Orbax export", 536),  # a list for a checksum
    ("footage of Mirage's samples", 29),  # an .npy header that is no Python
    ("footage of pixelSplat", 6016),  # times that are weeks apart
    ("footage of SpatialVID", 1606),  # rows of a mask without indices
    ("footage of 7-Scenes", 1472),  # depth of which nothing is known
    ("sample of released latents", 415),  # a name in an archive that is no UTF-8
    ("sample of released latents", 5806),  # a place before the archive
]

# Public functions that take a path, read it, and are no entry of their own.
NOT_FORMATS = {
    "common.load_config": "a config is Python, and runs",
    "loading.load": "the export or release in a folder: `export`, `released checkpoint`",
    "loading.load_geometry_head": "an export",
    "numpy_files.read_array": "read with camera paths and depth maps",
    "strict_json.read_object": "read with cards, indices of shards and config.json",
    "atomic.read_unchanged": "calls the reader it is given",
    "weights.from_fields": "reads no file: the path is for messages",
    "outgoing.open_ours": "an export or an Orbax export",
    "prompts.read_prompts": "text embeddings",
    "released.read_released": "released checkpoints, read by the same functions",
    "latent_encoder.load": "an export",
    "depth_estimators.from_file": "a depth map",
    "doom_map.map_names": "read with every WAD",
    "av_files.open_video": "a video, by those that read its frames",
    "build.open_pretrained": "an export that a config names",
    "image_files.read_rgb": "a picture, which `picture_files.read_picture` cuts out of it",
    "networks.read_depth_anything": "a released checkpoint or an export",
    "networks.read_text_encoder": "UMT5, or an export",
    "timeline.from_file": "takes a world file that was read",
    "transforms_json.read_frame_files": "cameras, read by `camera_files.read` before",
    "cameras.read_cameras": "cameras, read by `camera_files.read`",
    "parsing.read_text": "read with cameras",
    "trajectories.load_cameras": "`camera_files.read`",
    "held_out_clips.read": "clips and latents, read with their shards",
    "latent_encoder.load_tiny_decoder": "an export",
    "lpips.read_weights": "a file of an installed package; arrays alone",
    "session.load": "a world file",
    "starts.load": "pictures, footage and world files, by their readers",
    "videos.read_video_of": "a video",
    "parsing.read_json": "read with cameras",
    "parsing.read_arrays": "read with cameras",
    "text.Tokenizer": "read by the tokenizers and sentencepiece packages",
}


@pytest.fixture(scope="module")
def outcomes():
    worker = fuzzing.Worker()
    sample = fuzzing.merged(list(fuzzing.run(list(FORMATS), CASES, worker=worker)))
    again = [next(fuzzing.run([name], 1, start=case, worker=worker)) for name, case in ONCE_WRONG]
    worker.close()
    return sample, again


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_refused_by_name_or_read_rightly(name, outcomes):
    outcome = outcomes[0][name]
    assert outcome.cases == CASES
    assert not outcome.findings, "\n".join(outcome.findings)
    assert outcome.refused, "found no damage refused: nothing was tried"


def test_what_went_wrong_once_does_not_again(outcomes):
    assert len(outcomes[1]) == len(ONCE_WRONG)
    for outcome in outcomes[1]:
        assert (outcome.cases, outcome.findings) == (1, ())


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("_takes_anything", "took changed content"),
        ("_raises_another_error", "raised KeyError"),
        ("_names_no_file", "does not name the file"),
        ("_hangs", "took longer"),
        ("_asks_for_memory", "raised .*MemoryError"),
    ],
)
def test_every_kind_of_fault_is_found(name, finding, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzing, "SECONDS", 0.2)
    fuzzing.catch_alarms()
    sample = fuzzing.Sample(faulty_formats.FORMATS[name], tmp_path)
    assert sample.judge(0) == "taken"
    (tmp_path / "a").write_bytes(b"contemt")
    assert re.search(finding, sample.judge(0))
    sample.mend()
    assert sample.judge(0) == "taken"


def test_what_ends_the_process_is_found_and_the_others_are_tried():
    worker = fuzzing.Worker("helpers.faulty_formats")
    outcomes = list(fuzzing.run(["_ends_the_process"], 2, worker=worker))
    with pytest.raises(RuntimeError, match=r"_has_no_sample: its sample .*\n(.*\n)*.*KeyError"):
        next(fuzzing.run(["_has_no_sample"], 2, worker=worker))
    worker.close()
    (outcome,) = fuzzing.merged(outcomes).values()
    assert outcome.cases == 2 and outcome.findings
    assert all("ended the process (-11" in finding for finding in outcome.findings)


def test_every_camera_format_is_tried():
    assert {*camera_formats.WRITTEN, *camera_formats.BY_HAND} == set(camera_files.FORMATS)


def test_every_layout_of_footage_is_tried():
    assert {format for format, _ in footage_formats.LAYOUTS.values()} == set(footage.FORMATS)


def test_damage_is_the_same_for_the_same_number():
    data = bytes(range(256)) * 4
    made = [damaged(data, random.Random(str(number))) for number in range(200)]
    assert made == [damaged(data, random.Random(str(number))) for number in range(200)]
    assert len(set(made)) > 150 and sum(one != data for one in made) > 180


@pytest.mark.parametrize("data", [b"", b"{}", b'{"step": 4, "tensors": {}}'])
def test_any_crc_can_be_had(data):
    rng = random.Random(0)
    for wanted in (0, 0xFFFFFFFF, rng.getrandbits(32)):
        forged = forged_crc.with_crc(data, wanted)
        assert zlib.crc32(forged) == wanted and forged.startswith(data)
        assert not forged[len(data) :].strip()


def readers():
    """module.function of every public function that reads what lies at a path."""
    for package in ("mirage_jax", "data_pipelines"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.FunctionDef):
                    continue
                given = [*node.args.posonlyargs, *node.args.args]
                names = {arg.arg for arg in given} - {"self"}
                takes_path = names & {"path", "directory", "workdir", "file", "folder"}
                if takes_path and node.name.split("_")[0] in ("read", "load", "open", "from"):
                    stem = path.parent.name if path.stem == "__init__" else path.stem
                    yield f"{stem}.{node.name}"


def test_every_reader_is_tried_or_there_is_a_reason():
    known = {reader for entry in FORMATS.values() for reader in entry.readers}
    known |= {reader.replace("checkpoints.", "reading.") for reader in known}
    found = set(readers())
    assert len(found) > 15
    missing = sorted(found - known - NOT_FORMATS.keys())
    assert not missing, f"found {missing}, expected an entry of helpers.formats, or a reason"
