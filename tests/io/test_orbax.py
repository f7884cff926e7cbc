"""What is said of a failed save or load, and what proves a part of a checkpoint damaged."""

import errno
import json
import os

import pytest

from mirage_jax.io.orbax import proof_of_damage, reason_of


def wrapped(cause):
    """As Orbax passes errors on."""
    error = KeyError("Failed to load checkpointable")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the device"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space left on the device"),
        (ValueError("RESOURCE_EXHAUSTED: x: No space left on device"), "no space left on the"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9"),
            "out of mem",
        ),
        (MemoryError("Unable to allocate 9 GiB"), "out of memory: Unable to allocate 9 GiB"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (ValueError("RESOURCE_EXHAUSTED: x: Too many open files"), "ValueError: RESOURCE_EXH"),
        (OSError(errno.EIO, "Input/output error"), "OSError: [Errno 5] Input/output error"),
    ],
)
def test_the_reason_is_found_however_it_is_wrapped(cause, reason):
    for error in (cause, wrapped(cause), wrapped(wrapped(cause))):
        assert reason_of(error).startswith(reason)


@pytest.fixture
def part(tmp_path):
    """The files of a part, as Orbax lays them out, with two tensors."""
    folder = tmp_path / "params"
    (folder / "d").mkdir(parents=True)
    (folder / "d" / "1").write_bytes(bytes(100))
    (folder / "manifest.ocdbt").write_bytes(b"x")
    names = (("dense", "kernel"), ("dense", "bias"))
    tree = {str(n): {"key_metadata": [{"key": k, "key_type": 2} for k in n]} for n in names}
    (folder / "_METADATA").write_text(json.dumps({"tree_metadata": tree}))
    return folder


def of_tensorstore(part, status, end=100):
    return ValueError(
        f'{status}: Error opening "zarr3" driver: Error reading Byte range [0, {end}) of local '
        f'file "{part}/d/1": something'
    )


def test_a_passing_fault_proves_nothing(part):
    lost = of_tensorstore(part, "DATA_LOSS")
    passing = [
        *(
            OSError(n, os.strerror(n))
            for n in (errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE)
        ),
        MemoryError("Unable to allocate"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."),
        KeyboardInterrupt(),
    ]
    for cause in passing:
        cause.__cause__ = lost  # even beside what would prove it
        assert proof_of_damage(wrapped(cause), part, ["dense/kernel"]) == ""
    # What nobody knows, and what tensorstore says of a file that is as long as it must be.
    for status in ("UNKNOWN", "NOT_FOUND", "OUT_OF_RANGE", "PERMISSION_DENIED", "ABORTED"):
        assert proof_of_damage(wrapped(of_tensorstore(part, status)), part) == ""
    assert proof_of_damage(RuntimeError("?"), part, ["dense/kernel", "dense/bias"]) == ""


def test_what_proves_damage(part):
    unknown = wrapped(ValueError("?"))

    def proof(error=unknown, names=("dense/bias",)):
        return proof_of_damage(error, part, names)

    assert "DATA_LOSS" in proof(wrapped(of_tensorstore(part, "DATA_LOSS")))
    short = of_tensorstore(part, "OUT_OF_RANGE", 101)
    assert proof(wrapped(short)) == "params/d/1: 100 bytes, expected at least 101"
    (part / "d" / "1").unlink()
    gone = of_tensorstore(part, "NOT_FOUND")
    assert proof(wrapped(gone)) == "params/d/1: no such file, expected at least 100"
    assert "tensor 'dense/other' is missing" in proof(names=["dense/bias", "dense/other"])
    (part / "array_metadatas").mkdir()
    (part / "array_metadatas" / "process_0").write_text("{")
    assert "params/array_metadatas/process_0: no JSON" in proof()
    (part / "_METADATA").write_text('{"tree')
    assert "params/_METADATA: no JSON" in proof()
    (part / "manifest.ocdbt").unlink()
    assert proof() == "params/manifest.ocdbt: no such file"
    assert proof_of_damage(unknown, part.with_name("ema")) == "ema: no such part"
