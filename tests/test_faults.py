"""Files whose writer fails at any call: a sample of what `make faults` tries."""

import ast

import pytest

from helpers import faults
from helpers.exhaustive import LONG
from helpers.paths import ROOT
from helpers.writers import WRITERS

CASES = 12 if LONG else 1
RACED = list(WRITERS) if LONG else ["export", "world file", "results"]

# Files that are written otherwise: module -> why that does no harm.
NOT_ATOMIC = {
    "mirage_jax/io/atomic.py": "writes the temporary file",
    "mirage_jax/training/metrics.py": "appends lines; a truncated last one is left out by readers",
    "mirage_jax/convert/tensor_files.py": "writes what its callers give a temporary name",
    "mirage_jax/cli/helpers/rollout_files.py": "to the path that `replacing` yields",
    "mirage_jax/weights.py": "to the path that `replacing` yields",
    "mirage_jax/io/video.py": "to the path that `replacing` yields",
    "mirage_jax/io/sealed.py": "puts the checksum into what its callers give a temporary name",
    "mirage_jax/io/safetensors_header.py": "orders what its caller gives a temporary name",
    "mirage_jax/io/camera_files/saving.py": "into memory",
    "mirage_jax/explore/pictures.py": "a picture in a temporary folder, gone when it is read",
    "data_pipelines/tolerance.py": "which record a thread is at, in a temporary folder",
    "mirage_jax/memory/file_rows.py": "mapped files, whose header says how far they count",
    "data_pipelines/clip_video_codecs.py": "encodes in memory",
    "mirage_jax/io/lock.py": "holds a lock, not content",
    "data_pipelines/sources/vizdoom.py": "a script of the engine, in a folder of its own",
}
WRITES = {"write_text", "write_bytes", "savez", "savez_compressed", "savetxt", "save_file", "dump"}


@pytest.fixture(scope="module")
def server():
    if faults.compiler() is None:
        pytest.skip("needs a C compiler: cc, gcc or clang")
    with faults.Server() as server:
        yield server


@pytest.fixture(scope="module")
def found(server, tmp_path_factory):
    root = tmp_path_factory.mktemp("faults")
    return list(faults.run(server, root, list(WRITERS), CASES, raced=RACED))


@pytest.mark.parametrize("name", WRITERS)
def test_after_a_fault_the_old_or_the_new_is_there_whole(name, found):
    own = [(case, finding) for case, finding in found if case.writer == name]
    assert len(own) >= CASES + (name in RACED and not WRITERS[name].alone)
    wrong = [f"{case.fault} at call {case.at}: {finding}" for case, finding in own if finding]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("fault", faults.FAULTS)
def test_a_writer_that_is_not_atomic_would_be_found(fault, server, tmp_path):
    trial = faults.Trial(server, "control", tmp_path)
    assert trial.calls == 2  # opens, writes
    assert "neither old nor new" in trial.judge(fault, 2)


def direct_writes():
    """file:line of every call that writes a file under a name that is not a temporary one."""
    for package in ("mirage_jax", "data_pipelines"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                place, name = ast.unparse(node.func.value), node.func.attr
                given = ", ".join(map(ast.unparse, node.args))
                opens = name == "open" and any(mode in given for mode in ("'w", "'a", "'x", "r+"))
                if (name in WRITES or opens) and "partial" not in place + given:
                    yield path.relative_to(ROOT).as_posix(), node.lineno, f"{place}.{name}"


# Functions that write by parts or several files -> the entry of WRITERS that holds them.
IN_PARTS = {
    "data_pipelines/recording/shards.py:record_shard": "recording",
    "mirage_jax/cli/helpers/camera_plot.py:draw_png": "plot of a path",
    "mirage_jax/cli/helpers/encoding.py:_encode": "embedded prompts",
    "mirage_jax/cli/helpers/rollout_files.py:write_rollout": "rollout",
    "mirage_jax/cli/helpers/sheets.py:write_sheet": "contact sheet",
    "mirage_jax/cli/helpers/world_exports.py:write": "transforms and points",
    "mirage_jax/convert/orbax_folder.py:save_orbax": "Orbax export",
    "mirage_jax/convert/outgoing.py:export_checkpoint": "released folder",
    "mirage_jax/evaluation/permanence/videos.py:write_case": "case of a clip",
    "mirage_jax/io/atomic.py:write_atomically": "results",
    "mirage_jax/io/atomic.py:write_together": "COLMAP model",
    "mirage_jax/io/camera_files/array_files.py:write_vipe": "cameras: vipe",
    "mirage_jax/io/camera_files/array_files.py:write_spatialvid": "cameras: spatialvid",
    "mirage_jax/io/camera_files/array_files.py:write_lingbot": "cameras: lingbot",
    "mirage_jax/io/camera_files/colmap.py:write_colmap": "COLMAP model",
    "mirage_jax/io/camera_files/matrices.py:write_matrices": "camera path .npz",
    "mirage_jax/io/camera_files/text_files.py:write_spatia": "cameras: spatia",
    "mirage_jax/io/text.py:save_embeddings": "text embeddings",
    "mirage_jax/io/video.py:__enter__": "video",
    "mirage_jax/training/captions.py:write_captions": "embedded captions",
    "mirage_jax/training/latent_cache.py:write_cache": "latent cache",
    "mirage_jax/training/metrics.py:picture": "picture of a run",
    "mirage_jax/training/provenance.py:write_description": "description of a run",
    "mirage_jax/weights.py:export_with": "export",
    "mirage_jax/world/world_file/__init__.py:write_world_file": "world file",
}
WRITERS_OF_ONE = {"write_atomically", "write_json", "save_embeddings", "write_world_file"}
WRITERS_OF_ONE |= {"write_ply", "write_glb", "write_transforms", "_write_ply", "write_video"}


def writers_in_parts():
    """file:function of all that write a file themselves, several, or what belongs together."""
    for package in ("mirage_jax", "data_pipelines"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for function in ast.walk(ast.parse(path.read_text())):
                if not isinstance(function, ast.FunctionDef):
                    continue
                called = [n.func for n in ast.walk(function) if isinstance(n, ast.Call)]
                names = [getattr(f, "id", getattr(f, "attr", "")) for f in called]
                ones = sum(name in WRITERS_OF_ONE for name in names)
                if ones > 1 or {"replacing", "write_together"} & set(names):
                    yield f"{path.relative_to(ROOT).as_posix()}:{function.name}"


def test_who_writes_in_parts_is_tried():
    assert set(writers_in_parts()) == IN_PARTS.keys()
    assert set(IN_PARTS.values()) <= WRITERS.keys()


def test_files_are_written_under_a_temporary_name():
    found = list(direct_writes())
    assert {file for file, *_ in found} >= {"mirage_jax/training/metrics.py"}, "found nothing"
    wrong = [f"{file}:{line} {call}" for file, line, call in found if file not in NOT_ATOMIC]
    assert not wrong, f"found {wrong}, expected mirage_jax.io.atomic, or a reason"
