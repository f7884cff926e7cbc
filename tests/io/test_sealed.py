"""The checksum of a whole file: against zlib, and against any change of a byte."""

import json
import re
import zlib

import numpy as np
import pytest
from safetensors.numpy import save_file

from mirage_jax.io.sealed import FIELD, UNSEALED, check_seal, seal


def made(path, **metadata):
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    save_file({"a": values}, path, metadata=metadata or {"format": "x", FIELD: UNSEALED})
    return path


@pytest.mark.parametrize("metadata", [{}, {"text": json.dumps({FIELD: UNSEALED, "n": 1})}])
def test_any_changed_byte_is_found(tmp_path, metadata):
    path = made(tmp_path / "a.safetensors", **metadata)
    seal(path)
    check_seal(path)
    data = path.read_bytes()
    digits = re.search(rb"crc32:([0-9a-f]{8})", data)
    blank = data[: digits.start(1)] + b"00000000" + data[digits.end(1) :]
    assert digits[1] == b"%08x" % zlib.crc32(blank)
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            check_seal(path)
    for other in (data[:-1], data + b"\0", b""):
        path.write_bytes(other)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            check_seal(path)


@pytest.mark.parametrize(
    "metadata", [{"format": "x"}, {FIELD: UNSEALED, "b": f'"{FIELD}":"{UNSEALED}"'}]
)
def test_a_file_without_a_place_for_it_is_refused(tmp_path, metadata):
    path = made(tmp_path / "a.safetensors", **metadata)
    with pytest.raises(ValueError, match=r"found [02] checksums in its header, expected one"):
        seal(path)
