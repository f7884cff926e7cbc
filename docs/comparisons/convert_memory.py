"""`mirage convert` on a checkpoint of full size: peak memory and seconds, both ways.

    python docs/comparisons/convert_memory.py /scratch/empty_folder
    python docs/comparisons/convert_memory.py /scratch/empty_folder --model=mirage_5b --dtype=F32
    python docs/comparisons/convert_memory.py /scratch/empty_folder --format=orbax

Writes a safetensors file with every tensor of the model, the values made up; converts it to an
export or an Orbax checkpoint and back in processes of their own; compares what comes back bit for
bit with what was made up. The folder needs room for three copies, and is left empty. Nothing maps
files into memory, so that the peak (`ru_maxrss`, resident pages of the process) is what Python, its
libraries and arrays take; the page cache is not in it.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mirage_jax.convert.lazy_tensors import DTYPES
from mirage_jax.convert.presets import DENOISERS
from mirage_jax.convert.tensor_files import Spec, open_tensors, write_tensors
from mirage_jax.convert.wan_dit import wan_dit_plan

_POOL = np.random.default_rng(0).standard_normal(1 << 22, np.float32)


def values(name: str, spec: Spec) -> np.ndarray:
    """What is made up for a tensor: normal numbers that begin at a place its name decides."""
    dtype, shape = spec
    start = zlib.crc32(name.encode()) % len(_POOL)
    return np.resize(np.roll(_POOL, -start).astype(dtype), math.prod(shape)).reshape(shape)


def convert(*arguments: str) -> None:
    """Runs `mirage convert` and prints its peak memory and seconds."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "mirage_jax.cli.main", "convert", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"mirage convert failed: {process.returncode}")
    peak = usage.ru_maxrss * 1024 / 1e9  # Linux counts in KiB
    print(f"peak {peak:.2f} GB, {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=DENOISERS, default="wan22_ti2v_5b")
    parser.add_argument("--dtype", choices=DTYPES, default="BF16")
    parser.add_argument("--format", choices=("export", "orbax"), default="export")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if any(options.folder.iterdir()):
        raise SystemExit(f"{options.folder}: found files, expected an empty folder")
    source, ours, back = (options.folder / n for n in ("in.safetensors", "ours", "out.safetensors"))
    dtype = DTYPES[options.dtype]
    specs: dict[str, Spec] = {
        name: (dtype, placement.tensor_shape)
        for placement in wan_dit_plan(DENOISERS[options.model])
        for name in placement.names
    }

    def pieces(name: str) -> Iterator[np.ndarray]:
        yield values(name, specs[name])

    try:
        write_tensors(source, specs, pieces, {})
        size = source.stat().st_size / 1e9
        print(f"{options.model}, {options.dtype}: {len(specs)} tensors, {size:.2f} GB", flush=True)
        given = (f"--model={options.model}", f"--format={options.format}")
        convert(f"--source={source}", *given, f"--to={ours}")
        convert(f"--source={ours}", f"--to={back}")
        found = open_tensors(back).tensors
        assert set(found) == set(specs)
        for name, spec in specs.items():
            tensor = np.asarray(found[name])
            assert tensor.dtype == dtype and tensor.shape == spec[1], name
            np.testing.assert_array_equal(tensor.view(np.uint8), values(name, spec).view(np.uint8))
        print("what came back is bit for bit what went in")
    finally:
        for path in (source, back):
            path.unlink(missing_ok=True)
        shutil.rmtree(ours, ignore_errors=True)


if __name__ == "__main__":
    main()
